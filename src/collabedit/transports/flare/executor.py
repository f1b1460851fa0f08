"""A party's side: an executor in FLARE's client."""

from __future__ import annotations

from typing import Protocol

from nvflare.apis.event_type import EventType
from nvflare.apis.executor import Executor
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal

from collabedit.errors import CollabEditError, RoundError
from collabedit.rounds import Failure
from collabedit.transports.flare.envelope import TASK, failed, opened, sealed

__all__ = ["Answering", "PartyExecutor"]


class Answering(Protocol):
    """What answers; the job's configuration names its class, which must be installed here."""

    def begin(self, party: str) -> None:
        """Get ready to answer under the name in this party's certificate."""

    def answer(self, request: bytes) -> bytes:
        """Answer a coordinator's request."""


class PartyExecutor(Executor):
    """Passes a request's bytes to the component that answers, and returns its answer.

    Args:
        answering: identifier of the component that answers.
    """

    def __init__(self, answering: str) -> None:
        super().__init__()
        self._component = answering
        self._answering: Answering | None = None

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Look up the component that answers when the job starts."""
        if event_type == EventType.START_RUN:
            answering: Answering = fl_ctx.get_engine().get_component(self._component)
            answering.begin(fl_ctx.get_identity_name())
            self._answering = answering

    def execute(
        self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal
    ) -> Shareable:
        """Answer one request.

        An error's message may quote an edit, so it goes to this party's own log. The coordinator
        sees the messages of errors about the round, which never do; of others, only the type.
        """
        request = opened(shareable)
        if task_name != TASK or isinstance(request, Failure) or self._answering is None:
            return failed("the request was malformed")
        try:
            return sealed(self._answering.answer(request))
        except RoundError as error:
            self.log_error(fl_ctx, str(error))
            return failed(str(error))
        except CollabEditError as error:
            self.log_error(fl_ctx, str(error))
            return failed(f"it failed ({type(error).__name__}); its own log says why")
