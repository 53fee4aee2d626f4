"""The installed models as checkpoints, by the names that AUTOMATIC1111's clients use."""

from __future__ import annotations

from dataclasses import dataclass

from server.models.installed import InstalledModels
from server.pipeline.infotext.controls import split_hash
from server.pipeline.infotext.writing import SHORT_HASH
from server.pipeline.request import RequestError

#: Suffixes of checkpoints' files, which titles of other servers have.
_SUFFIXES = (".safetensors", ".ckpt")


@dataclass(frozen=True)
class Checkpoint:
    """An installed model; ``sha256`` is that of its source's weights."""

    name: str
    sha256: str

    @property
    def hash(self) -> str:
        """The short hash."""
        return self.sha256[:SHORT_HASH]

    @property
    def title(self) -> str:
        """The name with the short hash, by which most clients list and choose it."""
        return f"{self.name} [{self.hash}]"

    def is_called(self, name: str) -> bool:
        """Return whether the name is its own, its title, its hash or short hash, in any case."""
        names = (self.name, self.title, self.hash, self.sha256)
        return name.casefold() in {each.casefold() for each in names}


def checkpoints(models: InstalledModels) -> list[Checkpoint]:
    """Return the installed models as checkpoints, the default one first."""
    default = models.default
    found = sorted(models.all(), key=lambda model: model.name != default)
    return [Checkpoint(model.name, model.manifest.source.sha256) for model in found]


def _names(asked: str) -> list[str]:
    """Return what a client may mean by a name: itself, and without a hash and a file's suffix; a hash alone comes last."""
    name, digest = split_hash(asked.strip())
    names = [asked.strip(), name]
    names += [each.removesuffix(suffix) for each in names for suffix in _SUFFIXES if each.endswith(suffix)]
    return names if digest is None else [*names, digest]


def checkpoint_called(models: InstalledModels, asked: str) -> str | None:
    """Return the name of the installed model that a client means; None if none is called so.

    The default model has its name before it is installed: its requests are answered that it is not ready.
    """
    installed = checkpoints(models)
    for name in filter(None, _names(asked)):
        for checkpoint in installed:
            if checkpoint.is_called(name):
                return checkpoint.name
        if name == models.default:
            return name
    return None


def find_checkpoint(models: InstalledModels, asked: str, field: str) -> str:
    """Return the name of the installed model that a client means; raises RequestError about ``field``, which lists the titles."""
    found = checkpoint_called(models, asked)
    if found is None:
        raise RequestError(field, asked, ", ".join(each.title for each in checkpoints(models)) or "none yet")
    return found
