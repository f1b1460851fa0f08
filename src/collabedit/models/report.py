"""Whether a checkpoint filled the whole model, and the model took the whole checkpoint.

``transformers`` fills what is missing with random numbers and only warns about it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from collabedit.errors import ModelError

__all__ = ["check_report", "load_checked"]

#: Computed buffers under the names that old checkpoints give them: masks, rotations, positions.
_COMPUTED = r"(rotary_emb\.|\.)inv_freq$|(attn|attention)\.(masked_)?bias$|(^|\.)position_ids$"
#: What training leaves beside the language model: reward heads, multi-token prediction heads.
_BESIDE = r"^(v_head|value_head|score)\.|(^|\.)mtp(_layers)?\."
_IGNORED = re.compile(f"{_COMPUTED}|{_BESIDE}")
_SHOWN = 3


def load_checked(source: str | Path, name: str, **options: Any) -> Any:
    """A causal language model whose weights all come from its checkpoint.

    Args:
        source: a directory or a Hub id.
        name: what the user called the model.
        options: of ``from_pretrained``.

    Raises:
        ModelError: when the checkpoint does not fit the model.
    """
    import transformers

    auto: Any = transformers.AutoModelForCausalLM
    hf, report = auto.from_pretrained(
        source,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # the report names them
        **options,
    )
    check_report(name, hf, report)
    return hf


def check_report(name: str, hf: Any, report: Mapping[str, Any]) -> None:
    """Check the loading report of ``from_pretrained(..., output_loading_info=True)``.

    Args:
        name: what the user called the model.
        hf: the loaded model.
        report: its ``missing_keys``, ``unexpected_keys`` and ``mismatched_keys``.

    Raises:
        ModelError: when a tensor is missing, is unexpected, or has another size. Computed buffers,
            heads that share the embedding's weight, and training heads do not count.
    """
    if report.get("error_msgs"):
        raise ModelError(f"{name}: {' '.join(' '.join(report['error_msgs']).split())[:300]}")
    _check_sizes(name, report.get("mismatched_keys") or ())
    missing = sorted(key for key in report["missing_keys"] if not _IGNORED.search(key))
    if missing:
        missing = [key for key in missing if key not in _tied(hf)]
    unexpected = sorted(key for key in report["unexpected_keys"] if not _IGNORED.search(key))
    if missing and unexpected and (prefix := _common_prefix(missing, unexpected)):
        raise ModelError(
            f"{name}: its tensors are named {prefix!r} + {unexpected[0].removeprefix(prefix)!r} "
            "and so on, as a wrapped model is saved; save the model inside the wrapper instead"
        )
    if missing:
        raise ModelError(
            f"{name}: the checkpoint lacks {_listed(missing)}, which would be filled with random "
            "numbers; download it again, or use the config.json that belongs to it"
        )
    if unexpected:
        raise ModelError(
            f"{name}: the checkpoint holds {_listed(unexpected)} that the model does not have; "
            "use the config.json that belongs to it, or a newer transformers"
        )


def _check_sizes(name: str, mismatched: Collection[Sequence[Any]]) -> None:
    if not mismatched:
        return
    first = min(mismatched, key=str)
    more = f" (and {len(mismatched) - 1} more)" if len(mismatched) > 1 else ""
    if isinstance(first, str):  # older versions of transformers
        what = f"{first} has another size in the checkpoint than config.json says"
    else:
        key, in_file, in_model = first[:3]
        what = f"{key} is {tuple(in_file)} in the checkpoint, but {tuple(in_model)} in config.json"
    raise ModelError(f"{name}: {what}{more}; use the config.json that belongs to it")


def _tied(hf: Any) -> set[str]:
    """Names of parameters that share their tensor with one of another name."""
    first: dict[int, str] = {}
    tied: set[str] = set()
    for name, parameter in hf.named_parameters(remove_duplicate=False):
        other = first.setdefault(id(parameter), name)
        if other != name:
            tied |= {name}
    return tied


def _common_prefix(missing: Sequence[str], unexpected: Sequence[str]) -> str | None:
    """The prefix that the checkpoint puts before every missing name, if that explains them all."""
    start = unexpected[0].find(missing[0])
    prefix = unexpected[0][:start] if start > 0 else None
    known = set(unexpected)
    return prefix if prefix and all(prefix + key in known for key in missing) else None


def _listed(keys: Sequence[str]) -> str:
    names = ", ".join(keys[:_SHOWN])
    more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
    tensors = "tensor" if len(keys) == 1 else "tensors"
    return f"{len(keys)} {tensors} ({names}{more})"
