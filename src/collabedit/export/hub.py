"""Uploading an export to the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path

from collabedit.errors import InputError
from collabedit.export.card import CARD

__all__ = ["check_repository", "push"]


def check_repository(name: str) -> None:
    """Check a repository's name before any work.

    Raises:
        InputError: when the Hub would refuse it.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils._validators import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise InputError(f"--push-to-hub: {str(error).splitlines()[0]}") from None


def push(path: Path, repository: str, *, private: bool = True) -> str:
    """Upload a directory, or a file with its card, to a model repository; create it if necessary.

    Args:
        path: the exported directory or file.
        repository: ``OWNER/NAME``.
        private: whether a new repository is private.

    Returns:
        The address of the repository.

    Raises:
        InputError: when the Hub refuses; the export stays where it is.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        url = api.create_repo(repository, repo_type="model", private=private, exist_ok=True)
        if path.is_dir():
            api.upload_folder(repo_id=repository, folder_path=path)
        else:
            api.upload_file(path_or_fileobj=path, path_in_repo=path.name, repo_id=repository)
            card = path.with_suffix(".md")
            if card.is_file():
                api.upload_file(path_or_fileobj=card, path_in_repo=CARD, repo_id=repository)
    except (OSError, ValueError) as error:  # the base classes of the library's errors
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(
            f"cannot upload to {repository}: {reason}; log in with 'hf auth login' and try again, "
            f"{path} is complete"
        ) from error
    return str(url)
