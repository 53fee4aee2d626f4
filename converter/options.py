"""Options of a conversion, for the plan, the command line, the API, stored requests and the manifest.

A new option is a field here, and one more line where it takes effect. Its flag, its field in the API, its stored form
and its part of a conversion's id follow from the field.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Annotated, Any, Literal

from pydantic import Field

from converter.mil import TargetName
from converter.networks.layers import Attention
from converter.weights.encodings import PaletteBits, Quantization

Size = tuple[int, int]
PredictionType = Literal["epsilon", "v_prediction", "sample"]
#: The shortest side of an image, in pixels: no model draws anything on 8 latents, and UNets halve them three times.
SMALLEST_SIDE = 64
#: The longest: SDXL's at 4096 take 16 times the work of those at its own 1024.
LARGEST_SIDE = 4096
#: The largest clip skip: A1111's slider ends there, and CLIP's smaller text encoder has as many layers.
MOST_CLIP_SKIP = 12
#: The most chunks of a UNet: with eight, those of SDXL's in fp16 have 0.7 GB each.
MOST_CHUNKS = 8
#: The most channels of a group that shares a palette or a scale: wider layers exist in no model's UNet.
MOST_GROUPED = 4096
#: A network's source: a folder or file, or owner/name or owner/name/file on the Hugging Face hub, with @revision or without.
NetworkSource = Annotated[str, Field(max_length=200)]
#: Options of the first release. They are part of every id, whatever their value. A later option is part of an id only if
#: it is not at its default, so that adding one keeps the ids of stored conversions.
_FIRST = (
    "prediction_type",
    "sizes",
    "attention",
    "batches",
    "tokens",
    "vae",
    "preview",
    "safety_checker",
    "controlnets",
    "prompt_once",
    "target",
    "functions",
)
_NO_IDENTITY = ("name", "verify")


@dataclass(frozen=True)
class Option:
    """An option's description for the command line and the API.

    value: the type of one value, with its limits.
    most: how many values it takes at most; None if it takes one value and not a list.
    flag: its flag, if that is not the field's name.
    in_api: whether the API takes it in this form.
    """

    about: str
    value: Any
    most: int | None = None
    flag: str | None = None
    in_api: bool = True


def _shown(about: str, value: Any, **more: Any) -> dict[str, Option]:
    return {"option": Option(about, value, **more)}


@dataclass(frozen=True)
class ConvertOptions:
    """Options of a conversion. None takes the value from the checkpoint. The plan refuses values that do not fit it."""

    name: str | None = field(
        default=None, metadata=_shown("What the model is called; the source's own name if left out", str, in_api=False)
    )
    sizes: tuple[Size, ...] | None = field(
        default=None,
        metadata=_shown("Image sizes, the default first; as trained if left out", Size, most=16, flag="size"),
    )
    attention: Attention = field(
        default="split_einsum",
        metadata=_shown(
            "Attention implementation: split_einsum for the Neural Engine, split_einsum_v2 the same for large images "
            "(equally fast on an M2 Pro by others' measurement, slower to compile), original for GPUs",
            Attention,
        ),
    )
    batches: tuple[int, ...] | None = field(
        default=None,
        metadata=_shown(
            "Rows the UNet takes at once, a package each: 2 for guidance, 1 for few-step models without",
            Literal[1, 2],
            most=2,
            flag="batch",
        ),
    )
    tokens: tuple[int, ...] | None = field(
        default=None,
        metadata=_shown("Prompt lengths the UNet takes, a package each; 77 if left out", Literal[77, 154, 231], most=3),
    )
    vae: str | None = field(default=None, metadata=_shown("An autoencoder in place of the checkpoint's", NetworkSource))
    preview: str | None = field(default=None, metadata=_shown("A tiny autoencoder (TAESD) for previews", NetworkSource))
    safety_checker: str | None = field(
        default=None, metadata=_shown("A safety checker, or a checkpoint with one", NetworkSource)
    )
    controlnets: tuple[str, ...] = field(
        default=(),
        metadata=_shown(
            "ControlNets; the UNet then gets packages that take their residuals, too",
            NetworkSource,
            most=8,
            flag="controlnet",
        ),
    )
    ip_adapters: tuple[str, ...] = field(
        default=(),
        metadata=_shown(
            "IP-Adapters, whose images guide like prompts: .safetensors files, or owner/name/file.safetensors on the hub; "
            "the UNet then gets packages that take an image, too",
            NetworkSource,
            most=4,
            flag="ip-adapter",
        ),
    )
    image_encoder: str | None = field(
        default=None,
        metadata=_shown(
            "The image encoder of the IP-Adapters; the folder image_encoder beside the first if left out", NetworkSource
        ),
    )
    prompt_once: bool = field(
        default=False,
        metadata=_shown(
            "Project the prompt once per image, in a package of its own, and not at every step in the UNet, whose inputs "
            "are then not those of Apple's packages",
            bool,
        ),
    )
    target: TargetName = field(default="macOS13", metadata=_shown("The oldest macOS the packages are for", TargetName))
    functions: bool = field(
        default=False,
        metadata=_shown(
            "Sizes, batches and prompt lengths as functions of one package, not packages that share weights by hard "
            "links; needs macOS15",
            bool,
        ),
    )
    chunks: int | None = field(
        default=None,
        metadata=_shown(
            "Cut the UNet into so many programs with about equal weights, for devices that do not run a large one; two "
            "have the names that Apple's Swift package looks for; whole if left out",
            Annotated[int, Field(ge=2, le=MOST_CHUNKS)],
        ),
    )
    clip_skip: int | None = field(
        default=None,
        metadata=_shown(
            "The most layers that requests may skip at the end of the text encoders, as A1111's clip skip counts them: 2 "
            "skips one; each adds an output to their packages; as the checkpoint recommends, or none, if left out",
            Annotated[int, Field(ge=1, le=MOST_CLIP_SKIP)],
        ),
    )
    bits: PaletteBits | None = field(
        default=None,
        metadata=_shown(
            "Compress the weights of UNet, text encoders and ControlNets to so many bits each; fp16 if left out. 6 is "
            "recommended; 3 needs macOS15",
            PaletteBits,
        ),
    )
    quantization: Quantization = field(
        default="palette",
        metadata=_shown(
            "How weights are compressed: palette stores indices into a table of the best values, linear stores integers "
            "of 8 or 4 bits times a scale (4 needs macOS15)",
            Quantization,
        ),
    )
    group_size: int | None = field(
        default=None,
        metadata=_shown(
            "Channels that share a palette (output channels), or a scale of linear integers (input channels); needs "
            "macOS15. One palette for a whole weight, one scale for each output channel, if left out",
            Annotated[int, Field(ge=1, le=MOST_GROUPED)],
        ),
    )
    activations: str | None = field(
        default=None,
        metadata=_shown(
            "A file of anemone analyze --activations: the UNet's layers that lose little by it take their inputs in 8 bits "
            "too (W8A8), which A17 Pro, M4 and later run faster; needs 8-bit linear weights and macOS14",
            str,
            in_api=False,
        ),
    )
    recipe: str | None = field(
        default=None,
        metadata=_shown(
            "A recipe of anemone analyze or of Apple's converter: how many bits the palette of each of the UNet's layers "
            "has; FILE#NAME chooses one of several",
            str,
            in_api=False,
        ),
    )
    prediction_type: PredictionType | None = field(
        default=None, metadata=_shown("What the UNet predicts, where the source says it wrong", PredictionType)
    )
    tile: int = field(
        default=256,
        metadata=_shown(
            "The side, in pixels, of the pieces in which an upscaler takes an image; not for models",
            Annotated[int, Field(ge=64, le=1024, multiple_of=8)],
            in_api=False,
        ),
    )
    verify: bool = field(
        default=True,
        metadata=_shown(
            "Compare the networks with their sources before they are installed; 35 dB is the least, less for compressed "
            "weights",
            bool,
            in_api=False,
        ),
    )

    def changed(self) -> dict[str, Any]:
        """Return the options that are not at their defaults."""
        return {f.name: value for f in fields(self) if (value := getattr(self, f.name)) != f.default}

    def identity(self) -> dict[str, Any]:
        """Return the options that distinguish conversions of one source: all except the name and verification."""
        later = {name: value for name, value in self.changed().items() if name not in _NO_IDENTITY}
        return {name: getattr(self, name) for name in _FIRST} | later

    def later(self) -> dict[str, Any]:
        """Return the options in `identity` that the first release did not have."""
        return {name: value for name, value in self.identity().items() if name not in _FIRST}


#: Every option at its default.
DEFAULT_OPTIONS = ConvertOptions()
#: Field name -> its description for the command line and the API.
OPTIONS: dict[str, Option] = {f.name: f.metadata["option"] for f in fields(ConvertOptions)}
