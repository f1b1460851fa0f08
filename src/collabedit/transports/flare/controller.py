"""The coordinator's side: a controller in FLARE's server, and the transport that it offers."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from nvflare.apis.client import Client
from nvflare.apis.controller_spec import ClientTask, Task
from nvflare.apis.fl_context import FLContext
from nvflare.apis.impl.controller import Controller
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal

from collabedit.errors import RoundError
from collabedit.rounds import Failure, Transport
from collabedit.transports.flare.envelope import TASK, opened, sealed

__all__ = ["Conductor", "FlareTransport", "RoundController"]


class Conductor(Protocol):
    """What runs over the transport; the job's configuration names its class."""

    def conduct(self, transport: Transport) -> None:
        """Run a round to its end."""

    def heard(self, party: str, size: int) -> None:
        """Called when an answer of ``size`` bytes arrives, from one of FLARE's threads."""


class RoundController(Controller):
    """Gives a conductor the parties of a FLARE job.

    Args:
        conductor: identifier of the component that runs the round.
        timeout: how long an exchange waits for answers, in seconds.
    """

    def __init__(self, conductor: str, timeout: float) -> None:
        super().__init__()
        self._component, self._timeout = conductor, timeout

    def start_controller(self, fl_ctx: FLContext) -> None:
        """Nothing to start."""

    def control_flow(self, abort_signal: Signal, fl_ctx: FLContext) -> None:
        """Run the round; FLARE ends the job when this returns."""
        conductor: Conductor = self._engine.get_component(self._component)
        transport = FlareTransport(self, fl_ctx, abort_signal, self._timeout, conductor)
        try:
            conductor.conduct(transport)
        except RoundError as error:  # FLARE logs any other, with its traceback
            self.system_panic(str(error), fl_ctx)

    def process_result_of_unknown_task(
        self, client: Client, task_name: str, client_task_id: str, result: Shareable, fl_ctx: Any
    ) -> None:
        """Drop an answer that is late, or that nobody asked for."""
        self.log_warning(fl_ctx, f"dropped an answer from {client.name}: late, or not asked for")

    def stop_controller(self, fl_ctx: FLContext) -> None:
        """Nothing to stop."""


class FlareTransport:
    """A transport to the parties that take part in a FLARE job.

    Args:
        controller: the job's controller.
        context: FLARE's context of the job.
        abort_signal: triggered when the job is aborted.
        timeout: how long an exchange waits for answers, in seconds.
        conductor: notified of each answer as it arrives.
    """

    def __init__(
        self,
        controller: Controller,
        context: FLContext,
        abort_signal: Signal,
        timeout: float,
        conductor: Conductor,
    ) -> None:
        self._controller, self._context = controller, context
        self._abort_signal, self._timeout = abort_signal, timeout
        self._conductor = conductor
        self.parties: Sequence[str] = sorted(
            client.name for client in context.get_engine().get_clients()
        )

    def exchange(self, request: bytes, to: Sequence[str]) -> Mapping[str, bytes | Failure]:
        """Ask all parties at once; those that don't answer before the timeout have failed."""
        answers: dict[str, bytes | Failure] = {}
        lock = threading.Lock()

        def received(client_task: ClientTask, fl_ctx: FLContext) -> None:
            answer = opened(client_task.result)
            client_task.result = Shareable()  # FLARE would hold the bytes until all have answered
            with lock:
                answers.setdefault(client_task.client.name, answer)
            size = 0 if isinstance(answer, Failure) else len(answer)
            self._conductor.heard(client_task.client.name, size)

        task = Task(TASK, sealed(request), timeout=int(self._timeout), result_received_cb=received)
        self._controller.broadcast_and_wait(
            task, self._context, targets=list(to), min_responses=0, abort_signal=self._abort_signal
        )
        if self._abort_signal.triggered:
            raise RoundError("the job was aborted")
        silent = Failure(f"it did not answer within {self._timeout:g} s")
        with lock:
            return {party: answers.get(party, silent) for party in to}
