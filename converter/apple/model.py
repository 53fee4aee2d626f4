"""Recognize the model in a folder of Apple's packages from the inputs and outputs they declare."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from converter.apple.extras import find_extras
from converter.apple.layout import Layout, find_layout
from converter.apple.stated import Stated, stated_by
from converter.errors import CheckpointError
from converter.families.registry import MODELS
from converter.networks.registry import TEXT_ENCODER, TEXT_ENCODER_2, UNET, VAE_DECODER, VAE_ENCODER, text_encoders
from converter.runtime.chunks import chunk_paths
from converter.runtime.summary import ProgramSummary, read_summary
from converter.sources.snapshot import Snapshot

_AUTOENCODER = (VAE_DECODER.name, VAE_ENCODER.name)
#: The networks besides the UNet.
_OTHERS = (TEXT_ENCODER.name, TEXT_ENCODER_2.name, *_AUTOENCODER)
_STATES = ("last_hidden_state", "hidden_embeds")
_NEEDED = ("sample", "timestep", "encoder_hidden_states")
_XL = ("time_ids", "text_embeds")
_GUIDANCE = "timestep_cond"
#: Numbers (sizes and crops) per image -> SDXL (with both text encoders) or its refiner (with the second alone).
_XL_FAMILIES = {6: "sdxl", 5: "sdxl_refiner"}
_COREMLTOOLS = "com.github.apple.coremltools.version"
_BATCHES = (1, 2)
#: How a Git LFS pointer begins, and the most bytes that one has.
_POINTER = b"version https://git-lfs.github.com/spec/"
_LARGEST_POINTER = 1024
#: Apple's name of a network in place of a usable UNet -> why it cannot be used, and what to do.
_INSTEAD = {
    "unet_chunk2": "its UNet is in two chunks, and the first (unet_chunk1) is missing",
    "control-unet": "its only UNet takes a ControlNet's outputs (control-unet); convert the UNet also without "
    "--unet-support-controlnet",
    "control-unet_chunk1": "its only UNet takes a ControlNet's outputs and is cut in two (control-unet_chunk1 and 2); "
    "convert the UNet without --unet-support-controlnet and --chunk-unet",
    "mmdit": "it is Stable Diffusion 3 (mmdit); Stable Diffusion 1, 2 and XL run here",
    "mmdit_chunk1": "it is Stable Diffusion 3 (mmdit); Stable Diffusion 1, 2 and XL run here",
}


@dataclass(frozen=True)
class AppleModel:
    """A model by its packages' descriptions. Sizes are the images', in pixels.

    version: Apple's --model-version, usually a Hugging Face id; if the packages lack it, the one in the file names.
    networks: network of a model folder -> path; a UNet in two chunks has the first's path, the refiner's UNet is its unet.
    controlled: the path of the UNet that takes ControlNets' residuals, if the folder has both.
    left_out: the folder's other networks of Apple's, in sentences.
    stated: what the packages' metadata say of the model.
    published: whether its widths are those of its family's published models.
    vocabulary: the number of tokens that all its text encoders accept; None if that is unknown.
    guidance_width, time_ids, text_width: as in `converter.manifest.Conditions`.
    """

    folder: Path
    version: str
    networks: dict[str, Path]
    controlled: Path | None
    left_out: tuple[str, ...]
    stated: Stated
    family: str
    published: bool
    batch: int
    width: int
    height: int
    latent_channels: int
    vae_scale_factor: int
    tokens: int
    vocabulary: int | None
    inpainting: bool
    guidance_width: int | None
    time_ids: int | None
    text_width: int
    attention: str
    precision: str
    coremltools: str

    @property
    def tokenizers(self) -> dict[str, str]:
        """The text encoders that it uses, each with its tokenizer's folder."""
        return text_encoders(self.networks)


def _refuse(summary: ProgramSummary, what: str, accepted: str) -> CheckpointError:
    return CheckpointError(f"{summary.path.name} has {what}; Apple's converter gives {accepted}")


def _input(summary: ProgramSummary, name: str, rank: int, accepted: str) -> tuple[int, ...]:
    feature = summary.inputs.get(name)
    if feature is None:
        raise _refuse(summary, f"no input {name}, but {', '.join(summary.inputs)}", accepted)
    if len(feature.shape) != rank or not np.issubdtype(feature.dtype, np.floating):
        raise _refuse(summary, f"{name} {feature.dtype} {list(feature.shape)}", f"{name} {accepted}")
    return feature.shape


def _output(summary: ProgramSummary, names: tuple[str, ...], rank: int, accepted: str) -> tuple[int, ...]:
    name = next((n for n in names if n in summary.outputs), None)
    if name is None:
        raise _refuse(summary, f"the outputs {', '.join(summary.outputs)}", " or ".join(names))
    shape = summary.shape(name)
    if len(shape) != rank:
        raise _refuse(summary, f"{name} {list(shape)}", f"{name} {accepted}")
    return shape


@dataclass(frozen=True)
class _UNet:
    batch: int
    channels: int
    height: int
    width: int
    context_width: int
    tokens: int
    time_ids: int | None
    pooled_width: int | None
    guidance_width: int | None


def _unet(summary: ProgramSummary) -> _UNet:
    unknown = sorted(set(summary.inputs) - {*_NEEDED, *_XL, _GUIDANCE})
    if unknown:
        raise _refuse(summary, f"the inputs {', '.join(unknown)}", ", ".join((*_NEEDED, *_XL)))
    batch, channels, height, width = _input(summary, "sample", 4, "[batch, channels, height, width]")
    if batch not in _BATCHES:
        raise _refuse(summary, f"a batch of {batch}", "2, or 1 with --unet-batch-one")
    states = _input(summary, "encoder_hidden_states", 4, "[batch, width, 1, tokens]")
    if states[0] != batch or states[2] != 1 or _input(summary, "timestep", 1, "[batch]") != (batch,):
        raise _refuse(summary, f"encoder_hidden_states {list(states)} for {batch} rows", "[batch, width, 1, tokens]")
    ids = pooled = None
    if xl_inputs := [name for name in _XL if name in summary.inputs]:
        if len(xl_inputs) != len(_XL):
            raise _refuse(summary, f"{xl_inputs[0]} alone", " with ".join(_XL))
        # Packages of 2023 have one row of twelve numbers instead of two rows.
        ids, rest = divmod(int(np.prod(summary.inputs["time_ids"].shape)), batch)
        if rest or ids not in _XL_FAMILIES:
            shape = list(summary.inputs["time_ids"].shape)
            raise _refuse(summary, f"time_ids {shape} for {batch} rows", "6 numbers a row, 5 for the refiner")
        pooled = _input(summary, "text_embeds", 2, "[batch, width]")[1]
    guidance = _input(summary, _GUIDANCE, 2, "[batch, width]")[1] if _GUIDANCE in summary.inputs else None
    return _UNet(batch, channels, height, width, states[1], states[3], ids, pooled, guidance)


def _family(unet: _UNet, text_encoder: ProgramSummary | None) -> str:
    if unet.time_ids is not None:
        return _XL_FAMILIES[unet.time_ids]
    # The two text encoders differ in their activation: CLIP's quick_gelu has a sigmoid; OpenCLIP's encoder, Stable Diffusion 2's, has the exact one.
    return "sd2" if text_encoder is not None and "gelu" in text_encoder.kinds else "sd1"


def attention_implementation(unet: ProgramSummary) -> str:
    """Return the attention implementation of a UNet (see `converter.networks.attention`), or "unknown"."""
    if "einsum" not in unet.kinds:
        return "original" if "matmul" in unet.kinds else "unknown"
    # Queries are on the last axis, as in the convolutions that make them; split_einsum_v2 cuts them to 512, which may
    # also be the length of a smaller feature map.
    lengths = {o.shape[3] for o in unet.operations if o.kind == "conv" and len(o.shape) == 4 and o.shape[2] == 1}
    query_lengths = {o.shape[-1] for o in unet.operations if o.kind == "einsum"}
    cut = not query_lengths <= lengths or max(query_lengths) < max(
        lengths - {unet.inputs["encoder_hidden_states"].shape[3]}
    )
    return "split_einsum_v2" if cut else "split_einsum"


def _check_text(encoders: dict[str, ProgramSummary], unet: _UNet, unet_name: str) -> None:
    states = {}
    for name, summary in encoders.items():
        tokens = _input(summary, "input_ids", 2, "fp32 [1, tokens]")[1]
        states[name] = _output(summary, _STATES, 3, "[1, tokens, width]")[2]
        if tokens != unet.tokens:
            raise CheckpointError(f"{summary.path.name} gives {tokens} tokens, {unet_name} takes {unet.tokens}")
    if sum(states.values()) != unet.context_width:
        widths = " and ".join(f"{name}'s {width}" for name, width in states.items())
        raise CheckpointError(f"{unet_name} takes states {unet.context_width} wide, which are not {widths}")
    last = next(reversed(encoders.values()))
    pooled = _output(last, ("pooled_outputs",), 2, "[1, width]")[1]
    if unet.pooled_width not in (None, pooled):
        raise CheckpointError(
            f"{unet_name} takes text_embeds {unet.pooled_width} wide, not {last.path.name}'s {pooled}"
        )


def _check_autoencoder(summaries: dict[str, ProgramSummary], unet: _UNet, unet_name: str) -> tuple[int, int]:
    """Return the latents' channels and the pixels per latent along one side."""
    decoder = summaries[VAE_DECODER.name]
    _, channels, height, width = _input(decoder, "z", 4, "[1, channels, height, width]")
    image = _output(decoder, ("image",), 4, "[1, 3, height, width]")
    if (height, width) != (unet.height, unet.width):
        raise CheckpointError(
            f"{decoder.path.name} takes latents {width}x{height}, {unet_name} gives {unet.width}x{unet.height}"
        )
    if unet.channels not in (channels, 2 * channels + 1):
        raise CheckpointError(
            f"{unet_name} takes {unet.channels} channels; {channels} (the latents) or {2 * channels + 1} (with mask and "
            "masked image, for inpainting) are accepted"
        )
    factor = image[3] // width
    if image[2:] != (height * factor, width * factor):
        raise _refuse(decoder, f"images {image[3]}x{image[2]} of latents {width}x{height}", "images 8 times as large")
    if (encoder := summaries.get(VAE_ENCODER.name)) is not None:
        size = _input(encoder, "x", 4, "[1, 3, height, width]")
        if size[2:] != image[2:]:
            raise CheckpointError(
                f"{encoder.path.name} takes images {size[3]}x{size[2]}, {decoder.path.name} gives {image[3]}x{image[2]}"
            )
    return channels, factor


def _unet_name(layout: Layout) -> str:
    """Return Apple's name of the network used as UNet (or of its first chunk): the UNet, or else the refiner's."""
    candidates = (UNET.name, "unet_chunk1", *_INSTEAD, "refiner", "refiner_chunk1")
    network = next((name for name in candidates if name in layout.paths), None)
    if network is None:
        raise CheckpointError(f"{layout.folder} has no unet, only {', '.join(layout.paths)}")
    if network in _INSTEAD:
        raise CheckpointError(f"{layout.folder} cannot be used as it is: {_INSTEAD[network]}")
    return network


def _refuse_pointers(layout: Layout) -> None:
    """Raise CheckpointError if a file is the pointer that git leaves where Git LFS is not installed."""
    for path in (*layout.paths.values(), *layout.controlnets.values()):
        for file in sorted(path.rglob("*")):
            if file.is_file() and file.stat().st_size <= _LARGEST_POINTER and file.read_bytes().startswith(_POINTER):
                raise CheckpointError(
                    f"{file} is a Git LFS pointer in place of the file; `git lfs install && git lfs pull` in the folder "
                    "downloads it, and so does `hf download`"
                )


def recognize_apple(folder: Path) -> AppleModel:
    """Return the model whose packages Apple's converter put into ``folder``.

    Everything that the packages' inputs, outputs and operations show is read from them. Raises CheckpointError naming
    the network that is missing or does not fit, and PackageError if a package cannot be read.
    """
    layout = find_layout(folder)
    _refuse_pointers(layout)
    unet_name = _unet_name(layout)
    summary = read_summary(layout.paths[unet_name])
    unet = _unet(summary)
    summaries = {name: read_summary(path) for name, path in layout.paths.items() if name in _OTHERS}
    family = _family(unet, summaries.get(TEXT_ENCODER.name))
    published = MODELS[family]
    wanted = (*published.text_encoders, VAE_DECODER.name)
    if missing := [name for name in wanted if name not in layout.paths]:
        raise CheckpointError(
            f"{folder} lacks {' and '.join(missing)}, which {family} needs; it has {', '.join(layout.paths)}"
        )
    used = (*wanted[:-1], unet_name, *(name for name in _AUTOENCODER if name in summaries))
    encoders = {name: summaries[name] for name in wanted[:-1]}
    _check_text(encoders, unet, summary.path.name)
    channels, factor = _check_autoencoder(summaries, unet, summary.path.name)
    rows = [encoder.embedding_rows for encoder in encoders.values()]
    known_rows = [count for count in rows if count is not None]
    # A UNet in chunks has lost its metadata, so the other networks' are read too.
    programs = [summary, *summaries.values()]
    versions = (program.version for program in programs if program.version)
    tools = (program.metadata[_COREMLTOOLS] for program in programs if _COREMLTOOLS in program.metadata)
    extras = find_extras(layout, summary, factor)
    twin = () if extras.controlled is None else chunk_paths(extras.controlled)
    used_paths = {package for name in used for package in chunk_paths(layout.paths[name])}
    used_paths |= {*extras.networks.values(), *twin}
    unused = (path for _, path in sorted(layout.paths.items()) if path not in used_paths)
    left_out = dict.fromkeys(unused, "the model does without it") | extras.left_out
    stated = stated_by(summary.path, summary.metadata, summaries[VAE_DECODER.name].metadata)
    compressed = any(kind.startswith("constexpr_") for kind in summary.kinds)
    return AppleModel(
        folder=folder,
        # A repository's name tells more than what its packages say of themselves.
        version=next(versions, layout.version or (stated.name if Snapshot.of(folder) is None else None) or ""),
        networks={published.denoiser.name if name == unet_name else name: layout.paths[name] for name in used}
        | extras.networks,
        controlled=extras.controlled,
        left_out=tuple(f"{path.relative_to(folder)}: {why}" for path, why in left_out.items()),
        stated=stated,
        family=family,
        published=(unet.context_width, channels) == (published.context_width, published.latent_channels),
        batch=unet.batch,
        width=unet.width * factor,
        height=unet.height * factor,
        latent_channels=channels,
        vae_scale_factor=factor,
        tokens=unet.tokens,
        vocabulary=min(known_rows) if len(known_rows) == len(rows) else None,
        inpainting=unet.channels != channels,
        guidance_width=unet.guidance_width,
        time_ids=unet.time_ids,
        text_width=unet.context_width,
        attention=attention_implementation(summary),
        precision="compressed" if compressed else summary.inputs["sample"].dtype.name,
        coremltools=next(tools, "unknown"),
    )
