"""The envelope that FLARE carries: one field of bytes, or the reason there are none."""

from __future__ import annotations

from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.shareable import Shareable, make_reply

from collabedit.rounds import Failure

__all__ = ["TASK", "failed", "opened", "sealed"]

#: Name of the only task that a party accepts.
TASK = "collabedit"

_PAYLOAD = "collabedit_bytes"
_REASON = "collabedit_reason"
_MAX_REASON = 500


def sealed(payload: bytes) -> Shareable:
    """Bytes as FLARE carries them."""
    envelope = Shareable()
    envelope[_PAYLOAD] = payload
    return envelope


def failed(reason: str) -> Shareable:
    """The reason that a party does not answer, as FLARE carries it."""
    envelope: Shareable = make_reply(ReturnCode.EXECUTION_RESULT_ERROR)
    envelope[_REASON] = reason[:_MAX_REASON]
    return envelope


def opened(envelope: Shareable) -> bytes | Failure:
    """The bytes in an untrusted envelope, or why there are none."""
    payload = envelope.get(_PAYLOAD)
    if type(payload) is bytes and envelope.get_return_code() == ReturnCode.OK:
        return payload
    reason = envelope.get(_REASON)
    if isinstance(reason, str) and reason:
        return Failure("".join(c if c.isprintable() else " " for c in reason[:_MAX_REASON]))
    if payload is not None:
        return Failure(f"it sent {type(payload).__name__} instead of bytes")
    return Failure(f"its process failed ({envelope.get_return_code()}); its own log says why")
