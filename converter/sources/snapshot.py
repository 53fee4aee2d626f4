"""Copies of repositories in the Hugging Face hub's cache, recognized by their paths.

The cache keeps a repository as ``models--owner--name/snapshots/<commit>``, with links into ``blobs`` for files
(https://huggingface.co/docs/huggingface_hub/guides/manage-cache). `converter.sources.hub` fills it, and takes a fifth of a second
to import.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

_PREFIX, _SNAPSHOTS = "models--", "snapshots"


@dataclass(frozen=True)
class Snapshot:
    """A path into a repository's copy. repo: owner/name; within: the path inside, empty for the copy itself."""

    repo: str
    within: Path

    @staticmethod
    def of(path: Path) -> Snapshot | None:
        """Return the copy that ``path`` leads to or into; None if the path is not in a hub cache.

        If a file is a link, it is not followed: it leads to a blob, whose path does not name a repository's file.
        """
        absolute = path.resolve() if path.is_dir() else path.parent.resolve() / path.name
        parts = absolute.parts
        for at in reversed(range(1, len(parts) - 1)):
            if parts[at] == _SNAPSHOTS and parts[at - 1].startswith(_PREFIX):
                # Names of repositories and owners have no "--" (huggingface_hub, validate_repo_id).
                return Snapshot(parts[at - 1].removeprefix(_PREFIX).replace("--", "/"), Path(*parts[at + 2 :]))
        return None


def folder_name(folder: Path) -> str:
    """Return a folder's name: its repository (owner/name) if it is in a hub cache, else its own."""
    snapshot = Snapshot.of(folder)
    return folder.resolve().name if snapshot is None else snapshot.repo


def short_name(folder: Path) -> str:
    """Return `folder_name` without the owner, for folders, networks and installed models."""
    return folder_name(folder).rpartition("/")[2]


def file_name(file: Path) -> str:
    """Return a file's name without its suffix; in a hub cache it is owner/name/file, like `HubAddress.name`."""
    snapshot = Snapshot.of(file)
    return file.stem if snapshot is None else f"{snapshot.repo}/{snapshot.within.with_suffix('').as_posix()}"
