"""Download checkpoints from the Hugging Face hub into its cache, which other programs share.

huggingface_hub manages the cache and the token (HF_HOME, HF_TOKEN, HF_ENDPOINT, HF_HUB_OFFLINE). If a download is
stopped, version 2.4 deletes the partial file. So this module downloads files of gigabytes itself, to the cache's paths
(https://huggingface.co/docs/huggingface_hub/guides/manage-cache), and the next attempt resumes the partial file.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Literal
from uuid import uuid4

import httpx2
from huggingface_hub import HfApi, constants, hf_hub_download, hf_hub_url
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import http_get, repo_folder_name
from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

from converter.errors import CheckpointError, SpaceError
from converter.progress import OnProgress, Progress, ignore
from converter.sources.checkpoint import content_hash
from converter.sources.configs import read_json
from converter.sources.hub_layout import (
    MODEL_INDEX,
    checkpoint_components,
    checkpoint_file,
    network_files,
    network_folder,
    not_diffusers,
    settings_files,
    weights_of,
)

_ADDRESS = re.compile(
    r"(?P<repo>\w[\w.-]*/\w[\w.-]*)(?:/(?P<file>\S+\.safetensors))?(?:@(?P<revision>[^\s@]+))?", re.ASCII
)
_COMMIT = re.compile(r"[0-9a-f]{40}")
#: http_get resumes after timeouts and closed connections, but not after a reset connection.
_RETRIES = 5
_PAUSE_S = 1.0


@dataclass(frozen=True)
class HubAddress:
    """``owner/name``, or ``owner/name/file.safetensors``; either may end in ``@revision`` (branch, tag or commit)."""

    repo: str
    file: str | None = None
    revision: str = constants.DEFAULT_REVISION

    @staticmethod
    def parse(text: str) -> HubAddress | None:
        """Return the address; None if ``text`` is not one."""
        match = None if ".." in text else _ADDRESS.fullmatch(text)
        if match is None:
            return None
        return HubAddress(match["repo"], match["file"], match["revision"] or constants.DEFAULT_REVISION)

    @property
    def name(self) -> str:
        """The name of a model from this address: without suffix and revision."""
        return self.repo if self.file is None else f"{self.repo}/{self.file.removesuffix('.safetensors')}"

    @property
    def storage(self) -> Path:
        """The repository's folder in the cache."""
        return Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=self.repo, repo_type="model")


@dataclass(frozen=True)
class _File:
    """A file's size in bytes, and the SHA-256 of large files (git LFS)."""

    size: int
    sha256: str | None


class _Count:
    """A progress bar for huggingface_hub that reports how many bytes of a file have arrived."""

    def __init__(self, report: Callable[[int], None], initial: int = 0, **_: Any) -> None:
        self._report, self._count = report, initial

    def __enter__(self) -> _Count:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def update(self, size: float | None = 1) -> None:
        self._count += int(size or 0)
        self._report(self._count)


def _explained(address: HubAddress, error: Exception, during: Literal["search", "download"]) -> CheckpointError:
    repo, hub = address.repo, constants.ENDPOINT
    if isinstance(error, GatedRepoError):
        return CheckpointError(
            f"{repo} is gated: accept its license at {hub}/{repo}, make a token at {hub}/settings/tokens, and set HF_TOKEN "
            "to it"
        )
    if isinstance(error, RevisionNotFoundError):
        return CheckpointError(f"{repo} has no revision {address.revision!r} (a branch, tag or commit)")
    if isinstance(error, RepositoryNotFoundError):
        return CheckpointError(
            f"there is no folder {repo} here and no repository of that name at {hub}; if it is private, set HF_TOKEN to "
            "a token that may read it"
        )
    if isinstance(error, HFValidationError):
        return CheckpointError(f"{repo} is not a repository's name: {error}")
    if during == "search":
        return CheckpointError(
            f"{hub} does not answer ({error}), and the cache in {constants.HF_HUB_CACHE} has no complete copy of {repo}"
        )
    return CheckpointError(
        f"the download of {repo} was cut off: {error}. The bytes that arrived are kept; the same command resumes it"
    )


@contextmanager
def _explaining(address: HubAddress, during: Literal["search", "download"]) -> Iterator[None]:
    try:
        yield
    except (httpx2.HTTPError, HFValidationError, OSError) as error:
        raise _explained(address, error, during) from error


@dataclass(frozen=True)
class _Repository:
    """A repository at one commit, with its files."""

    address: HubAddress
    commit: str
    files: Mapping[str, _File]

    @staticmethod
    def look_up(address: HubAddress) -> _Repository:
        info = HfApi().model_info(
            address.repo, revision=address.revision, timeout=constants.HF_HUB_ETAG_TIMEOUT, files_metadata=True
        )
        files = {s.rfilename: _File(s.size or 0, s.lfs.sha256 if s.lfs else None) for s in info.siblings or ()}
        return _Repository(address, str(info.sha), files)

    @property
    def folder(self) -> Path:
        return self.address.storage / "snapshots" / self.commit

    def _blob(self, name: str) -> Path | None:
        digest = self.files[name].sha256
        return None if digest is None else self.address.storage / "blobs" / digest

    def _missing_bytes(self, name: str) -> int:
        blob = self._blob(name)
        if (self.folder / name).exists() or (blob is not None and blob.exists()):
            return 0
        partial_file = blob and blob.with_name(f"{blob.name}.incomplete")
        size = partial_file.stat().st_size if partial_file and partial_file.exists() else 0
        return max(0, self.files[name].size - size)

    def require_space(self, names: list[str]) -> None:
        """Raise SpaceError unless the cache's disk has space for the missing bytes of these files."""
        missing, cache = sum(self._missing_bytes(name) for name in names), Path(constants.HF_HUB_CACHE)
        folder = next(path for path in (cache, *cache.absolute().parents) if path.exists())
        free = shutil.disk_usage(folder).free
        if missing and free < missing + 2**24:
            raise SpaceError(
                f"downloading {self.address.name} needs {missing / 2**20 + 16:.0f} MB in {cache}; {free / 2**20:.0f} MB "
                "are free. HF_HOME moves the cache to another disk"
            )

    def get(self, name: str, report: Callable[[int], None] = lambda count: None) -> Path:
        """Return the file in the cache's folder of this commit; ``report`` gets the number of bytes that have arrived."""
        blob = self._blob(name)
        if blob is not None and not blob.exists() and not (self.folder / name).exists():
            self._get_large(name, blob, report)
        bar: Any = partial(_Count, report)
        return Path(hf_hub_download(self.address.repo, name, revision=self.commit, tqdm_class=bar))

    def _get_large(self, name: str, blob: Path, report: Callable[[int], None]) -> None:
        begun = blob.with_name(f"{blob.name}.incomplete")
        blob.parent.mkdir(parents=True, exist_ok=True)
        with begun.open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if blob.exists():  # another process downloaded it while this one waited
                begun.unlink(missing_ok=True)
                return
            self._append(name, file, report)
            file.flush()
            if content_hash(begun) != blob.name:
                begun.unlink()
                raise CheckpointError(f"{self.address.repo}/{name} arrived damaged and was deleted; download it again")
            begun.rename(blob)

    def _append(self, name: str, file: BinaryIO, report: Callable[[int], None]) -> None:
        size, failures = self.files[name].size, 0
        bar: Any = partial(_Count, report)
        url = hf_hub_url(self.address.repo, name, revision=self.commit)
        while True:
            offset = file.seek(0, os.SEEK_END)
            if offset > size:
                offset = file.truncate(0)
            try:
                http_get(
                    url,
                    file,
                    resume_size=offset,
                    headers=build_hf_headers(),
                    expected_size=size,
                    displayed_filename=name,
                    tqdm_class=bar,
                )
                return
            except httpx2.ReadError:
                failures = 1 if file.tell() > offset else failures + 1
                if failures > _RETRIES:
                    raise
                time.sleep(_PAUSE_S)

    def record_revision(self) -> None:
        """Record that the revision is this commit, for when the hub does not answer."""
        if self.address.revision != self.commit:
            ref = self.address.storage / "refs" / self.address.revision
            ref.parent.mkdir(parents=True, exist_ok=True)
            temporary = ref.with_name(f"{ref.name}.{uuid4().hex}.tmp")
            temporary.write_text(self.commit)
            temporary.replace(ref)


def _get_all(repository: _Repository, large: list[str], progress: OnProgress) -> None:
    repository.require_space(large)
    done, total = 0, sum(repository.files[name].size for name in large)
    for name in large:

        def report(count: int, name: str = name, before: int = done) -> None:
            progress(Progress("downloading", name, before + count, total))

        repository.get(name, report)
        done += repository.files[name].size
        report(repository.files[name].size)
    repository.record_revision()


def _download(repository: _Repository, progress: OnProgress) -> Path:
    where, names = repository.address.repo, repository.files.keys()
    if repository.address.file is not None:
        path, large = (
            repository.folder / repository.address.file,
            [checkpoint_file(where, repository.address.file, names)],
        )
    else:
        if MODEL_INDEX not in names:
            raise not_diffusers(where, names)
        path, index = repository.folder, read_json(repository.get(MODEL_INDEX))
        components = checkpoint_components(where, index, names)
        for name in settings_files(where, components, names):
            repository.get(name)
        large = weights_of(where, components, names, lambda name: read_json(repository.folder / name))
    _get_all(repository, large, progress)
    return path


def _snapshot(address: HubAddress) -> Path | None:
    """Return the cache's folder of the address's commit; None if the cache does not know the commit."""
    commit, ref = address.revision, address.storage / "refs" / address.revision
    if not _COMMIT.fullmatch(commit):
        if not ref.is_file():
            return None
        commit = ref.read_text().strip()
    return address.storage / "snapshots" / commit


def _names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def _cached(address: HubAddress) -> Path | None:
    """Return the checkpoint in the cache; None if it is incomplete."""
    folder = _snapshot(address)
    if folder is None:
        return None
    names = _names(folder)
    if address.file is not None:
        return folder / address.file if address.file in names else None
    try:
        components = checkpoint_components(address.repo, read_json(folder / MODEL_INDEX), names)
        settings_files(address.repo, components, names)
        weights_of(address.repo, components, names, lambda name: read_json(folder / name))
    except CheckpointError:
        return None
    return folder


def _fetched(address: HubAddress, cached: Callable[[], Path | None], download: Callable[[_Repository], Path]) -> Path:
    """Return the path that ``download`` returns, or the complete copy in the cache if the hub cannot be asked."""
    try:
        with _explaining(address, "search"):
            repository = _Repository.look_up(address)
    except CheckpointError:
        path = cached()
        if path is None:
            raise
        return path
    with _explaining(address, "download"):
        return download(repository)


def fetch(address: HubAddress, progress: OnProgress = ignore) -> Path:
    """Download what a conversion reads into the cache; return the folder there, or the file that ``address`` names.

    ``progress`` is called as weights arrive. If the hub does not answer, or no longer has the repository, a complete copy
    in the cache is returned. Raises CheckpointError (unknown, gated or private repository, no checkpoint in it, no
    network) and SpaceError before any weights are downloaded.
    """
    return _fetched(address, lambda: _cached(address), lambda repository: _download(repository, progress))


def _cached_network(address: HubAddress, within: str | None) -> Path | None:
    folder = _snapshot(address)
    if folder is None:
        return None
    try:
        inside = network_folder(address.repo, within, _names(folder))
        network_files(address.repo, inside, _names(folder), lambda name: read_json(folder / name))
    except CheckpointError:
        return None
    return folder / inside


def fetch_network(address: HubAddress, within: str | None, progress: OnProgress = ignore) -> Path:
    """Download one network into the cache (a repository that is one, or its folder ``within``); return the folder there.

    Otherwise like `fetch`.
    """

    def download(repository: _Repository) -> Path:
        names = repository.files.keys()
        inside = network_folder(address.repo, within, names)
        small, large = network_files(address.repo, inside, names, lambda name: read_json(repository.get(name)))
        for name in small:
            repository.get(name)
        _get_all(repository, large, progress)
        return repository.folder / inside

    return _fetched(address, lambda: _cached_network(address, within), download)
