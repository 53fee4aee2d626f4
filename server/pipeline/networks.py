"""Networks of models, loaded within a memory budget."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from converter.devices.trials import Trials
from converter.devices.units import preferred_units
from converter.errors import ManifestError, MemoryShortage
from converter.folder import ModelFolder
from converter.manifest import Package
from converter.networks.registry import kind_of
from converter.runtime import ComputeUnit, Network, load, weight_bytes

#: Loads a function of a package on a compute unit.
Loader = Callable[[Path, str, str], Network]
#: Network -> compute unit (see `converter.devices.units`); other networks use the default, or the model's.
ComputeUnits = dict[str, ComputeUnit]
_GB = 10**9


@dataclass(frozen=True)
class Call:
    """A network was called for an image or a part of it; it took so many seconds.

    Generators yield it where several calls make one step, so that their caller can cancel between them.
    """

    seconds: float


def load_package(path: Path, function: str, compute_units: str, precision: str = "fast") -> Network:
    """Load a function of the package at ``path`` on a compute unit, in a precision."""
    return load(path, function=function, compute_units=compute_units, precision=precision)


def expect_network(name: str, path: Path, inputs: Collection[str]) -> None:
    """Raise ManifestError if the package at ``path`` has the inputs of another network than ``name``."""
    expected = kind_of(name).marking_input
    if expected not in inputs:
        raise ManifestError(f"{path} is not a {name}: its inputs are {', '.join(inputs)}, without {expected}")


class LoadedNetworks:
    """Loaded networks within a memory budget; one model's, or several models' that take turns in a request.

    If a network does not fit the budget beside the loaded ones, those used longest ago are unloaded until it does. With
    little memory each network is thus loaded only while it is used (Apple's reduceMemory): text encoder, then UNet, then
    decoder. A caller must not keep a reference to a network that it has finished with. The budget counts weights; working
    memory comes in addition.
    """

    def __init__(self, budget: int | None = None) -> None:
        """``budget`` is in bytes; None: no limit."""
        self.budget = sys.maxsize if budget is None else budget
        #: Loaded networks with their bytes; the one used last is at the end.
        self._loaded: dict[tuple[Path, str], tuple[Network, int]] = {}

    def get(self, what: str, path: Path, function: str, load: Callable[[], Network]) -> Network:
        """Return a function of the package at ``path``, which ``load`` loads; ``what`` names it in errors.

        Raises MemoryShortage if it does not fit the budget even alone, and what loading raises.
        """
        key = (path, function)
        if key in self._loaded:
            self._loaded[key] = self._loaded.pop(key)
        else:
            needed = weight_bytes(path)
            self._make_room(what, needed)
            self._loaded[key] = (load(), needed)
        return self._loaded[key][0]

    def _make_room(self, what: str, needed: int) -> None:
        if needed > self.budget:
            raise MemoryShortage(
                f"{what} takes {needed / _GB:.2f} GB of memory, and models may take {self.budget / _GB:.2f} GB; convert it "
                "smaller, or give the server a larger memory_budget_gb"
            )
        while self._loaded and needed + sum(size for _, size in self._loaded.values()) > self.budget:
            del self._loaded[next(iter(self._loaded))]


class Networks:
    """A model's networks by name and size, loaded when they are first used."""

    def __init__(
        self,
        folder: ModelFolder,
        units: ComputeUnits,
        loader: Loader,
        memory: LoadedNetworks,
        trials: Trials | None = None,
    ) -> None:
        """``trials`` choose the compute units; None without Core ML."""
        self._folder, self._units, self._loader, self._trials = folder, units, loader, trials
        self.memory = memory

    def _bytes(self, package: Package) -> int:
        return weight_bytes(self._folder.path / package.path)

    def fit_together(self, *names: str, width: int, height: int) -> bool:
        """Return whether these networks, for images of a size in pixels, fit the budget together."""
        return sum(self._bytes(self._folder.best(name, width, height)) for name in names) <= self.memory.budget

    def get(
        self,
        name: str,
        width: int | None = None,
        height: int | None = None,
        *,
        batch: int = 1,
        tokens: int = 0,
        control: bool = False,
        image_tokens: int | None = None,
    ) -> Network:
        """Return a network, loaded: its smallest variant for images of that size, and so many rows and tokens at once.

        ``control`` returns a UNet that takes ControlNets' residuals, ``image_tokens`` one that takes an IP-Adapter's image.

        Raises MemoryShortage if it does not fit the budget even alone, and what loading raises.
        """
        package = self._folder.best(
            name, width, height, batch=batch, tokens=tokens, control=control, image_tokens=image_tokens
        )
        what = f"{name} of {self._folder.manifest.name}"
        path = self._folder.path / package.path
        return self.memory.get(what, path, package.function, lambda: self._load(name, package))

    def _load(self, name: str, package: Package) -> Network:
        path = self._folder.path / package.path
        if self._trials is not None:
            network = self._trials.load(name, package, self._loader)
        else:
            units = preferred_units(self._folder.manifest, name, self._units)
            network = self._loader(path, package.function, units)
        expect_network(name, path, network.inputs)
        return network
