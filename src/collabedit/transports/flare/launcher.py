"""How a party starts the process of a round."""

from __future__ import annotations

from typing import Any

from nvflare.apis.fl_context import FLContext
from nvflare.apis.job_launcher_spec import JobHandleSpec, JobReturnCode
from nvflare.app_common.job_launcher.client_process_launcher import ClientProcessJobLauncher

__all__ = ["PartyLauncher"]


class PartyLauncher(ClientProcessJobLauncher):
    """FLARE's launcher, except for what it reports to the coordinator when a process dies.

    FLARE ends a job for all parties when one reports that its process failed. But it is for the
    round to decide whether it can do without a party: it waits for the timeout, and goes on.
    """

    def launch_job(self, job_meta: dict[str, Any], fl_ctx: FLContext) -> JobHandleSpec:
        """Start the process."""
        return _Handle(super().launch_job(job_meta, fl_ctx))


class _Handle(JobHandleSpec):
    def __init__(self, handle: JobHandleSpec) -> None:
        super().__init__()
        self._handle = handle

    def terminate(self) -> None:
        self._handle.terminate()

    def poll(self) -> Any:
        code = self._handle.poll()
        return JobReturnCode.SUCCESS if code == JobReturnCode.SUCCESS else JobReturnCode.UNKNOWN

    def wait(self) -> None:
        self._handle.wait()
