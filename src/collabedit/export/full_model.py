"""A model directory from a delta and the base's files, and the delta itself."""

from __future__ import annotations

from collabedit.export.model_directory import check_output_directory, save_edited_model, write_copy
from collabedit.export.registry import ExportJob, export_format
from collabedit.files import check_output_file
from collabedit.models import load_model

__all__ = ["export_delta", "export_model"]


@export_format("model")
def export_model(job: ExportJob) -> list[str]:
    """A model directory with all the original's files, which plain transformers can load.

    Args:
        job: the delta, its base model and the output.
    """
    check_output_directory(job.out, overwrite=job.overwrite)
    evaluation = job.measured(job.delta.changes)
    if write_copy(job.base, job.out, overwrite=job.overwrite, evaluation=evaluation):
        return ["Copied from the base's files; only the edited weights differ"]
    model = load_model(
        job.base.name,
        dtype=job.delta.metadata.dtype,
        trust_remote_code=job.trust_remote_code,
    )
    save_edited_model(
        model,
        job.delta,
        job.out,
        overwrite=job.overwrite,
        delta_file=job.delta_file,
        evaluation=evaluation,
    )
    return [f"Saved in {job.delta.metadata.dtype}, unlike the base's files"]


@export_format("delta", suffix=".safetensors")
def export_delta(job: ExportJob) -> list[str]:
    """The delta itself, in the current version of its format.

    Args:
        job: the delta, its base model and the output.
    """
    check_output_file(job.out)
    job.delta.save(job.out)
    return ["For 'collabedit apply' and 'collabedit merge'"]
