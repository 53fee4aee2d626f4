"""The networks of a folder of Apple's beside those that every model has: ControlNets and the safety checker."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from converter.apple.layout import Layout
from converter.networks.registry import CONTROLNET, SAFETY_CHECKER
from converter.runtime.feature import PackageError
from converter.runtime.summary import ProgramSummary, read_summary

_CONTROLLED = ("control-unet", "control-unet_chunk1")
_CONDITION = "controlnet_cond"
_NEEDED = {"sample", "timestep", "encoder_hidden_states"}
_CHECKED = {"clip_input", "images", "adjustment"}
_FOUND = "has_nsfw_concepts"
#: The prefix of the names of a ControlNet's outputs, which are inputs of the UNet.
RESIDUAL = "additional_residual_"


@dataclass(frozen=True)
class Extras:
    """Networks that fit the model, by their names in a model folder, and the UNet that takes the ControlNets' residuals.

    left_out: those that do not fit, with the reason.
    """

    networks: dict[str, Path]
    controlled: Path | None
    left_out: dict[Path, str]


def _shapes(summary: ProgramSummary, names: set[str]) -> dict[str, tuple[int, ...]]:
    return {name: feature.shape for name, feature in summary.inputs.items() if name in names}


def _residuals(names: Iterable[str]) -> set[str]:
    return {name for name in names if name.startswith(RESIDUAL)}


def _wrong_unet(summary: ProgramSummary, unet: ProgramSummary) -> str | None:
    """Say why a UNet with residuals is not the other one's twin; None if it is."""
    own = set(summary.inputs) - _residuals(summary.inputs)
    return None if _shapes(summary, own) == _shapes(unet, set(unet.inputs)) else "its inputs are not the UNet's"


def _wrong_controlnet(
    summary: ProgramSummary, unet: ProgramSummary, controlled: ProgramSummary, factor: int
) -> str | None:
    """Say why a ControlNet does not fit the UNets; None if it does."""
    batch, _, height, width = unet.inputs["sample"].shape
    condition = (batch, 3, height * factor, width * factor)
    own = set(summary.inputs) - {_CONDITION}
    same = own >= _NEEDED and _shapes(summary, own) == _shapes(unet, own)
    if not same or _shapes(summary, {_CONDITION}) != {_CONDITION: condition}:
        return f"it is not for {batch} rows of {width * factor}x{height * factor}, as the UNet is"
    if set(summary.outputs) != _residuals(controlled.inputs):
        return "its outputs are not the residuals that the UNet takes"
    return None


class _Finder:
    def __init__(self, unet: ProgramSummary, factor: int) -> None:
        self._unet, self._factor = unet, factor
        self.left_out: dict[Path, str] = {}

    def _read(self, path: Path) -> ProgramSummary | None:
        """Return a package's summary; None, and a sentence, if it cannot be read: the model does without it."""
        try:
            return read_summary(path)
        except PackageError as error:
            self.left_out[path] = str(error)
            return None

    def _fits(self, path: Path, wrong: str | None) -> bool:
        if wrong is not None:
            self.left_out[path] = wrong
        return wrong is None

    def checker(self, path: Path) -> bool:
        summary = self._read(path)
        if summary is None:
            return False
        known = set(summary.inputs) == _CHECKED and _FOUND in summary.outputs
        return self._fits(path, None if known else "its inputs and outputs are not a safety checker's")

    def controlled(self, path: Path) -> ProgramSummary | None:
        summary = self._read(path)
        return summary if summary is not None and self._fits(path, _wrong_unet(summary, self._unet)) else None

    def controlnets(self, paths: dict[str, Path], controlled: ProgramSummary) -> Iterator[tuple[str, Path]]:
        for name, path in paths.items():
            summary = self._read(path)
            if summary is not None:
                wrong = _wrong_controlnet(summary, self._unet, controlled, self._factor)
                if self._fits(path, wrong):
                    yield f"{CONTROLNET.name}/{name}", path


def find_extras(layout: Layout, unet: ProgramSummary, factor: int) -> Extras:
    """Return the folder's ControlNets and safety checker; ``factor`` is the pixels per latent along one side."""
    finder, networks, twin = _Finder(unet, factor), dict[str, Path](), None
    if (checker := layout.paths.get(SAFETY_CHECKER.name)) is not None and finder.checker(checker):
        networks[SAFETY_CHECKER.name] = checker
    controlled = next((layout.paths[name] for name in _CONTROLLED if name in layout.paths), None)
    if layout.controlnets:
        summary = None if controlled is None else finder.controlled(controlled)
        if summary is None:
            why = (
                "there is no UNet that takes its outputs"
                if controlled is None
                else f"{controlled.name} cannot take its outputs"
            )
            finder.left_out |= dict.fromkeys(layout.controlnets.values(), why)
        else:
            networks |= dict(finder.controlnets(layout.controlnets, summary))
            twin = controlled if any(name.startswith(CONTROLNET.name) for name in networks) else None
    return Extras(networks, twin, finder.left_out)
