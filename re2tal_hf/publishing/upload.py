"""A staged folder -> one commit and a tag on the Hub."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.utils import validate_repo_id

logger = logging.getLogger(__name__)


class UploadError(Exception):
    """The Hub could not be reached, or did not allow the upload."""


@dataclass(frozen=True)
class Target:
    """Where an upload goes.

    Args:
        repo_id: `user/name`.
        repo_type: `"model"`, `"dataset"` or `"space"` (of Gradio).
        private: Whether a new repository is private; one that exists stays as it is.
        tag: Name of the version; without it the commit gets none.

    Raises:
        ValueError: if the repository's id or the tag is not well-formed.
    """

    repo_id: str
    repo_type: str
    private: bool
    tag: str | None

    def __post_init__(self) -> None:
        check_names(self.repo_id, self.tag)


def check_names(repo_id: str, tag: str | None) -> None:
    """Raises a `ValueError` if a repository's id or a tag is not well-formed."""
    check_repo_id(repo_id)
    if tag is not None and not re.fullmatch(r"\w[\w.+-]*", tag, re.ASCII):
        raise ValueError(f"--tag {tag!r} is no name for a tag; use letters, digits, '.', '-' and '_'.")


def check_repo_id(repo_id: str) -> None:
    """Raises a `ValueError` if a repository's id is not of the form user/name."""
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ValueError(f"--repo {repo_id}: {error}") from error
    if repo_id.count("/") != 1:
        raise ValueError(f"--repo {repo_id} must be of the form user/name.")


def staged_files(folder: Path) -> dict[str, int]:
    """Returns the files of a folder, by path in it, with their sizes in bytes."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}


def publish(
    folder: Path,
    target: Target,
    message: str,
    api: HfApi | None = None,
    *,
    files: Sequence[str] | None = None,
    replaced: tuple[str, ...] = ("",),
) -> str:
    """Uploads a folder; by default it is then all that the repository holds.

    Large files go first. An interrupted upload leaves the repository as it was, and one that is run again does not
    send those that arrived. The commit is one, so that a half-written state is never seen.

    Args:
        folder: What to upload.
        target: Where to.
        message: Of the commit.
        api: The Hub and the account; those of the environment by default.
        files: Paths in the folder of what is sent; all of it by default.
        replaced: What paths in the repository begin with to be removed unless they are sent.

    Returns:
        Address of the repository.

    Raises:
        UploadError: if nobody is logged in, the Hub cannot be reached or refuses, or the tag exists already.
    """
    api = api or HfApi()
    repo_id, repo_type = target.repo_id, target.repo_type
    space_sdk = "gradio" if repo_type == "space" else None
    sent = list(staged_files(folder)) if files is None else list(files)
    try:
        api.whoami()
        _check_existing(api, target)
        url = api.create_repo(repo_id, repo_type=repo_type, private=target.private, space_sdk=space_sdk, exist_ok=True)
        there = {name for name in api.list_repo_files(repo_id, repo_type=repo_type) if name.startswith(replaced)}
        operations: list[CommitOperationAdd | CommitOperationDelete] = [
            *(CommitOperationAdd(name, folder / name) for name in sent),
            # The Hub's own file of what it keeps apart as large stays.
            *(CommitOperationDelete(name) for name in sorted(there - {*sent, ".gitattributes"})),
        ]
        commit = api.create_commit(repo_id, operations, repo_type=repo_type, commit_message=message)
        if target.tag is not None:
            api.create_tag(repo_id, repo_type=repo_type, tag=target.tag, revision=commit.oid)
    # The library wraps what happens to a large file into a RuntimeError.
    except (LocalTokenNotFoundError, OfflineModeIsEnabled, HTTPError, RuntimeError) as error:
        raise UploadError(_explain(error, api, target)) from error
    return str(url)


def _check_existing(api: HfApi, target: Target) -> None:
    try:
        found = api.repo_info(target.repo_id, repo_type=target.repo_type)
    except RepositoryNotFoundError:
        return
    if target.tag is not None and api.revision_exists(target.repo_id, target.tag, repo_type=target.repo_type):
        raise UploadError(
            f"{target.repo_id} already has the tag {target.tag}: choose another with --tag; nothing was uploaded."
        )
    if found.private != target.private:
        is_now, would_be = ("private", "public") if found.private else ("public", "private")
        logger.warning(
            "%s exists and is %s; it stays so (%s is for new repositories).", target.repo_id, is_now, would_be
        )


def _explain(error: Exception, api: HfApi, target: Target) -> str:
    if isinstance(error, LocalTokenNotFoundError):
        return "Nobody is logged in: run `hf auth login`, or set HF_TOKEN."
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set: unset it to upload."
    if isinstance(error, HfHubHTTPError):
        if error.response.status_code == 401:
            return "The Hub does not accept the token: run `hf auth login` again, or renew HF_TOKEN."
        if error.response.status_code == 403:
            return f"The account may not write to {target.repo_id}: use a token with write access, or another name."
        return f"The Hub refused: {error}"
    if isinstance(error, HTTPError):
        return f"{api.endpoint} cannot be reached ({error}): check the connection and run this again."
    return f"{error} {error.__cause__ or ''} Run this again: what arrived is not sent twice."
