"""Control maps: images that ControlNets read, and what a model must have for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Protocol

from pydantic import Field

from converter.manifest import Manifest
from converter.networks.registry import CONTROLNET
from server.pipeline.abilities import CONTROLS, control_nets
from server.pipeline.fields import Attachment, Part
from server.pipeline.images import Pixels
from server.pipeline.limits import Real, Whole, Within, unless_stored
from server.pipeline.preprocessors.edges import HIGH_THRESHOLD, LOW_THRESHOLD
from server.pipeline.preprocessors.registry import NONE, PREPROCESSORS, accepted_preprocessors
from server.pipeline.request.conditions import NAME
from server.pipeline.request.errors import RequestError

_PREFIX = f"{CONTROLNET.name}/"
THRESHOLD = Within(0, 255)
#: Pixels of a side of a map.
MAP_SIDE = Within(16, 2048)


def _known_preprocessor(name: str) -> str:
    if name not in PREPROCESSORS:
        raise ValueError(accepted_preprocessors(name))
    return name


PreprocessorName = Annotated[str, unless_stored(_known_preprocessor)]


class Preprocessing(Part):
    """How a control map is made of an image. The thresholds are None unless the preprocessor takes them."""

    preprocessor: PreprocessorName = Field(
        NONE,
        max_length=NAME,
        description=f"What makes the map: {', '.join(f'{p.name} ({p.about})' for p in PREPROCESSORS.values())}",
    )
    low_threshold: Annotated[Whole, THRESHOLD] | None = Field(
        None, description=f"Of canny: the gradient down to which an edge goes on; left out: {LOW_THRESHOLD}"
    )
    high_threshold: Annotated[Whole, THRESHOLD] | None = Field(
        None, description=f"Of canny: the gradient at which an edge begins; left out: {HIGH_THRESHOLD}"
    )

    @property
    def thresholds(self) -> tuple[int, ...]:
        """The low and the high threshold if the preprocessor takes them."""
        if not PREPROCESSORS[self.preprocessor].thresholds:
            return ()
        low, high = self.low_threshold, self.high_threshold
        return LOW_THRESHOLD if low is None else low, HIGH_THRESHOLD if high is None else high

    def map_of(self, image: Pixels) -> Pixels:
        """Return the control map of an image, uint8 [h, w, 3] both."""
        return PREPROCESSORS[self.preprocessor].run(image, *self.thresholds)


class MapQuestion(Preprocessing):
    """A request for the map alone. ``image`` is the attachment's name; with a missing side, the map keeps the image's ratio."""

    image: Annotated[str, Attachment()] = Field(description="The image to make a map of")
    width: Annotated[Whole, MAP_SIDE] | None = Field(None, description="Pixels; left out: as the image, 2048 at most")
    height: Annotated[Whole, MAP_SIDE] | None = Field(None, description="Pixels; left out: as the image, 2048 at most")

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Return the map's width and height for an image of these."""
        factor = min(1.0, MAP_SIDE.high / max(width, height))
        if self.width is not None or self.height is not None:
            factor = (self.width or 0) / width or (self.height or 0) / height
        across, down = (min(int(MAP_SIDE.high), max(1, round(side * factor))) for side in (width, height))
        return self.width or across, self.height or down


class Span(Protocol):
    """How much a ControlNet counts, 0 to 2, and the shares of the steps between which it is called, 0 to 1."""

    @property
    def weight(self) -> float: ...

    @property
    def start(self) -> float: ...

    @property
    def end(self) -> float: ...


class Control(Preprocessing):
    """An image that a ControlNet reads (Zhang et al. 2023). ``image`` is the attachment's name."""

    image: Annotated[str, Attachment()] = Field(description="The control map, or what the preprocessor makes one of")
    net: str | None = Field(None, max_length=NAME, description="One of the model's ControlNets; left out: the first")
    weight: Annotated[Real, Within(0.0, 2.0)] = Field(1.0, description="How much it counts")
    start: Annotated[Real, Within(0.0, 1.0)] = Field(0.0, description="The share of the steps before it begins")
    end: Annotated[Real, Within(0.0, 1.0)] = Field(1.0, description="The share of the steps after which it ends")

    def network(self, manifest: Manifest) -> str:
        """Return the name of its network in the model folder."""
        return _PREFIX + (self.net or control_nets(manifest)[0])


def applies(control: Span, index: int, total: int) -> bool:
    """Return whether a ControlNet is called at a step, of ``total``, as diffusers' ControlNet pipelines decide it."""
    return control.weight != 0 and index / total >= control.start and (index + 1) / total <= control.end


def check_preprocessing(asked: Preprocessing, field: str = "") -> None:
    """Raise RequestError for thresholds that its preprocessor does not take, or that contradict each other.

    ``field`` is the beginning of the fields' names in errors, such as ``controls.0.``.
    """
    for name in ("low_threshold", "high_threshold"):
        value = getattr(asked, name)
        if value is not None and not asked.thresholds:
            takers = ", ".join(p.name for p in PREPROCESSORS.values() if p.thresholds)
            raise RequestError(f"{field}{name}", value, f"leave it out: it belongs to the preprocessor {takers}")
    if asked.thresholds and asked.thresholds[0] > asked.thresholds[1]:
        low, high = asked.thresholds
        raise RequestError(f"{field}low_threshold", low, f"at most the high threshold, {high}")


def check_controls(controls: Sequence[Control], manifest: Manifest) -> None:
    """Raise RequestError for a control that the model has no ControlNet for, or that is never called."""
    nets, needs = control_nets(manifest), CONTROLS.needs(manifest)
    for index, control in enumerate(controls):
        field = f"controls.{index}."
        if needs is not None:
            raise RequestError(f"{field}net", control.net, f"leave controls out: {needs}")
        if control.net is not None and control.net not in nets:
            raise RequestError(f"{field}net", control.net, ", ".join(nets))
        if control.start >= control.end:
            raise RequestError(f"{field}start", control.start, f"less than end, {control.end:g}")
        check_preprocessing(control, field)
