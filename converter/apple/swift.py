"""What Apple's Swift package (github.com/apple/ml-stable-diffusion, swift/StableDiffusion) reads of a model folder.

It finds models by name, gives them inputs by name and takes outputs by name, or the only one. What its pipelines give and
take was read from their sources as of July 2025, commit e12202c.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from converter.apple.layout import SWIFT
from converter.errors import AnemoneError
from converter.folder import ModelFolder
from converter.manifest import Conditions, Package
from converter.networks.registry import (
    CONTROLNET,
    SAFETY_CHECKER,
    TEXT_ENCODER_2,
    UNET,
    UNET_PROMPT,
    VAE_DECODER,
    VAE_ENCODER,
    kind_of,
    text_encoders,
)
from converter.options import ConvertOptions, Size
from converter.runtime.chunks import chunk_paths
from converter.runtime.summary import ProgramSummary, read_summary

_NAMES = {network: name for name, network in SWIFT.items()}
_REFINER = _NAMES["refiner"]
_TOKENS = 77
_CHUNKS = 2
_CONDITIONED = ("sample", "timestep", "encoder_hidden_states")
_XL = ("time_ids", "text_embeds")
_RESIDUAL = "additional_residual_"
#: SafetyChecker.swift gives images of this size, whatever was made, which the safety checker's package must take.
_CHECKED = (1, 512, 512, 3)
#: Encoder.swift takes four channels of means and four of variances.
_LATENT_CHANNELS = 4
#: Scheduler.swift: the noise schedule, and that the UNet predicts the noise, are not settable.
_SCHEDULE = (1000, 0.00085, 0.012, "scaled_linear")
#: StableDiffusionPipeline.Configuration.swift
_SCALING_FACTOR = 0.18215


class SwiftError(AnemoneError):
    """Apple's Swift package cannot read the model."""


@dataclass(frozen=True)
class Resource:
    """A model of Apple's Resources folder: its name there, such as controlnet/Canny, and its package."""

    name: str
    package: Path


@dataclass(frozen=True)
class SwiftModel:
    """What a Resources folder has, and in sentences what it lacks and what the app that loads it must set."""

    size: Size
    resources: tuple[Resource, ...]
    vocabulary: bytes
    merges: bytes
    notes: tuple[str, ...]


def _refuse(network: str, why: str) -> SwiftError:
    return SwiftError(f"Apple's Swift package cannot read this {network}: {why}")


def require_readable(options: ConvertOptions) -> None:
    """Raise SwiftError for options whose packages the Swift package cannot read, before they are converted."""
    if options.prompt_once:
        raise _refuse("model", "with prompt_once its UNet takes keys and values; convert without --prompt-once")
    if options.functions:
        raise _refuse("model", "it loads a package's default function only; convert without --functions")
    if options.tokens is not None and _TOKENS not in options.tokens:
        raise _refuse("model", f"it makes prompts of {_TOKENS} tokens; convert with --tokens {_TOKENS} too")
    if options.chunks is not None and options.chunks != _CHUNKS:
        raise _refuse(
            UNET.name, f"it is in {options.chunks} chunks; {_CHUNKS} are found; convert with --chunks {_CHUNKS}"
        )


def require_unet(conditions: Conditions, channels: int, batches: Collection[int], *, control: bool) -> None:
    """Raise SwiftError if the Swift package could not read such a UNet, before it is converted.

    channels: of its ``sample``; batches: the rows of its packages; control: whether it goes with ControlNets.
    """
    _check_guidance(conditions)
    _check_latents(channels, max(batches), xl=conditions.time_ids is not None, control=control)


def _check_guidance(conditions: Conditions) -> None:
    if conditions.guidance_width is not None:
        raise _refuse(UNET.name, "it takes the guidance scale as an input (LCM), which is not given")


def _check_latents(channels: int, batch: int, *, xl: bool, control: bool) -> None:
    if channels != _LATENT_CHANNELS:
        raise _refuse(UNET.name, f"it takes {channels} channels (inpainting); {_LATENT_CHANNELS} are given")
    if batch != 2 and (xl or control):
        what = "Stable Diffusion XL" if xl else "a ControlNet"
        raise _refuse(UNET.name, f"with {what} it gives 2 rows at once; convert with --batch 2 too")


def _is_controlnet(network: str) -> bool:
    return network.startswith(f"{CONTROLNET.name}/")


def _title(name: str) -> str:
    """Return a ControlNet's name as torch2coreml.py (bundle_resources_for_swift_cli) writes it: Canny, LllyasvielSdDepth."""
    return "".join(word.title() for word in re.split("[_-]", name))


class _Selection:
    """The packages of a model for one size, checked for what the Swift pipelines give them."""

    def __init__(self, model: ModelFolder, size: Size) -> None:
        self._model, self._manifest, self._size = model, model.manifest, size
        self.xl = model.manifest.conditions.time_ids is not None
        self.resources: list[Resource] = []
        self.notes: list[str] = []

    def _packages(self, network: str, *, control: bool = False) -> list[Package]:
        """Return a network's packages for the size and for prompts of 77 tokens, the largest batch first."""
        size = self._size if kind_of(network).per_size else (None, None)
        packages = [
            package
            for package in self._manifest.networks.get(network, ())
            if (package.width, package.height) == size
            and package.tokens in (None, _TOKENS)
            and package.control == control
            and package.image_tokens is None
        ]
        return sorted(packages, key=lambda package: package.batch, reverse=True)

    def _read(self, network: str, *, control: bool = False) -> ProgramSummary:
        """Return the summary of the network's package. Raises SwiftError."""
        every = self._manifest.networks.get(network, ())
        packages = self._packages(network, control=control)
        if not packages:
            if every and _TOKENS not in {package.tokens for package in every if package.tokens is not None}:
                raise _refuse(network, f"it makes prompts of {_TOKENS} tokens; convert with --tokens {_TOKENS} too")
            raise SwiftError(f"{self._model.path} has no {network} for {self._size[0]}x{self._size[1]}")
        (package, *_) = packages
        if len({each.function for each in every if each.path == package.path}) > 1:
            raise _refuse(network, "it loads a package's default function only; convert without --functions")
        return read_summary(self._model.path / package.path)

    def _give(self, summary: ProgramSummary, network: str, *needed: str, optional: str | None = None) -> None:
        """Raise SwiftError unless the network takes these inputs; others only if their names begin with ``optional``."""
        found = set(summary.inputs)
        more = {name for name in found - set(needed) if optional is None or not name.startswith(optional)}
        if more or not found >= set(needed):
            raise _refuse(network, f"its inputs are {', '.join(sorted(found))}; {', '.join(needed)} are given")

    def _take(self, summary: ProgramSummary, network: str, *needed: str) -> None:
        """Raise SwiftError unless the network has these outputs; with none named, unless it has one."""
        if not set(needed) <= set(summary.outputs) or (not needed and len(summary.outputs) != 1):
            outputs = ", ".join(summary.outputs)
            raise _refuse(network, f"its outputs are {outputs}; {' and '.join(needed) or 'a single one'} is taken")

    def _add(self, name: str, path: Path) -> None:
        chunks = chunk_paths(path)
        if len(chunks) == 1:
            self.resources.append(Resource(name, path))
        elif len(chunks) == 2 and f"{name}Chunk1" in SWIFT:
            self.resources += [Resource(f"{name}Chunk{n}", chunk) for n, chunk in enumerate(chunks, 1)]
        else:
            raise _refuse(
                name, f"it is in {len(chunks)} chunks; of a UNet two are found (--chunks 2), of other networks one"
            )

    def text(self) -> None:
        """Add the text encoders."""
        outputs = ("hidden_embeds", "pooled_outputs") if self.xl else ("last_hidden_state",)
        for network in text_encoders(self._manifest.networks):
            summary = self._read(network)
            self._give(summary, network, "input_ids")
            self._take(summary, network, *outputs)
            self._add(_NAMES[network], summary.path)

    def denoiser(self, name: str, *, control: bool = False) -> ProgramSummary:
        """Add the UNet, or the one that takes a ControlNet's residuals, and return its summary."""
        summary = self._read(UNET.name, control=control)
        inputs = (*_CONDITIONED, *(_XL if self.xl else ()))
        self._give(summary, UNET.name, *inputs, optional=_RESIDUAL if control else None)
        self._take(summary, UNET.name)
        batch, channels, *_ = summary.inputs["sample"].shape
        _check_latents(channels, batch, xl=self.xl, control=control)
        self._add(name, summary.path)
        return summary

    def autoencoder(self) -> None:
        """Add the decoder, and the encoder if there is one."""
        for network, entry in ((VAE_DECODER.name, "z"), (VAE_ENCODER.name, "x")):
            if network == VAE_ENCODER.name and network not in self._manifest.networks:
                self.notes.append("without vae_encoder there is no image to image")
                continue
            summary = self._read(network)
            self._give(summary, network, entry)
            self._take(summary, network)
            self._add(_NAMES[network], summary.path)

    def controls(self) -> None:
        """Add the ControlNets with the UNet that takes their residuals."""
        names = [name for name in self._manifest.networks if _is_controlnet(name)]
        if not names:
            return
        if self.xl:
            self.notes.append(f"left out: {', '.join(names)}; the pipeline of Stable Diffusion XL takes no ControlNet")
            return
        taken = set(self.denoiser(_NAMES["control-unet"], control=True).inputs) - set(_CONDITIONED)
        for name in names:
            summary = self._read(name)
            self._give(summary, name, *_CONDITIONED, "controlnet_cond")
            if set(summary.outputs) != taken:
                raise _refuse(name, "its outputs are not the residuals that the UNet takes")
            if summary.inputs["sample"].shape[0] != 2:
                raise _refuse(name, "it gives 2 rows at once; convert with --batch 2 too")
            resource = f"{CONTROLNET.name}/{_title(name.partition('/')[2])}"
            if resource in {each.name for each in self.resources}:
                raise SwiftError(f"two ControlNets would be called {resource}; rename one of {', '.join(names)}")
            self._add(resource, summary.path)

    def checker(self) -> None:
        """Add the safety checker if it fits."""
        if SAFETY_CHECKER.name not in self._manifest.networks:
            return
        summary = self._read(SAFETY_CHECKER.name)
        images = summary.inputs["images"].shape if "images" in summary.inputs else ()
        if self.xl:
            self.notes.append("left out: safety_checker; the pipeline of Stable Diffusion XL has none")
        elif images != _CHECKED:
            self.notes.append(
                f"left out: safety_checker, which takes images {list(images)}; the pipeline gives {list(_CHECKED)} whatever "
                "the image's size, so images are not checked"
            )
        else:
            self._give(summary, SAFETY_CHECKER.name, "clip_input", "images", "adjustment")
            self._take(summary, SAFETY_CHECKER.name, "has_nsfw_concepts")
            self._add(_NAMES[SAFETY_CHECKER.name], summary.path)

    def refiner(self, refiner: ModelFolder) -> None:
        """Add the UNet of the refiner in another model folder."""
        if self._manifest.family != "sdxl" or refiner.manifest.family != "sdxl_refiner":
            families = f"{self._manifest.family} and {refiner.manifest.family}"
            raise SwiftError(
                f"a refiner goes with Stable Diffusion XL; these models are {families}, not sdxl and sdxl_refiner"
            )
        other = _Selection(refiner, self._size)
        states = other.denoiser(_REFINER).inputs["encoder_hidden_states"].shape[1]
        text = read_summary(next(each.package for each in self.resources if each.name == _NAMES[TEXT_ENCODER_2.name]))
        if (width := text.shape("hidden_embeds")[-1]) != states:
            raise SwiftError(f"the refiner takes states {states} wide, the second text encoder gives {width}")
        self.resources += other.resources


def _notes(model: ModelFolder, size: Size, xl: bool) -> Iterator[str]:
    manifest, schedule = model.manifest, model.manifest.scheduler
    if others := [f"{w}x{h}" for w, h in manifest.sizes if (w, h) != size]:
        yield f"left out: {', '.join(others)}; such a folder has one size ({size[0]}x{size[1]})"
    known = {*_NAMES, UNET_PROMPT.name}
    if unknown := [n for n in manifest.networks if n not in known and not _is_controlnet(n)]:
        yield f"left out: {', '.join(unknown)}, which Apple's Swift package does not have"
    if manifest.merged is not None and manifest.merged.embeddings:
        names = ", ".join(each.name for each in manifest.merged.embeddings)
        yield f"left out: the words of the embeddings {names}; apps read them as text"
    if manifest.prediction_type != "epsilon":
        yield f"the UNet predicts {manifest.prediction_type}; Apple's own schedulers take it for epsilon, so the app needs its own"
    stated = (schedule.num_train_timesteps, schedule.beta_start, schedule.beta_end, schedule.beta_schedule)
    if stated != _SCHEDULE or schedule.trained_betas is not None or schedule.rescale_betas_zero_snr:
        yield "the noise schedule is not the one of Apple's own schedulers, so the app needs its own"
    if manifest.vae_scaling_factor != _SCALING_FACTOR:
        sample = ", which StableDiffusionSample --xl does" if xl and manifest.vae_scaling_factor == 0.13025 else ""
        yield f"the app must set encoderScaleFactor and decoderScaleFactor to {manifest.vae_scaling_factor}{sample}"


def _vocabulary(model: ModelFolder) -> tuple[bytes, bytes]:
    """Return vocab.json and merges.txt. Raises SwiftError if the text encoders have different ones."""
    folders = dict.fromkeys(model.tokenizer(name) for name in text_encoders(model.manifest.networks).values())
    vocabularies = {(f / "vocab.json").read_bytes(): f for f in folders}
    # BPETokenizer+Reading.swift ends a line at \n and drops a last line without one; a \r would stay in its tokens.
    merges = {(f / "merges.txt").read_bytes().replace(b"\r\n", b"\n").rstrip(b"\n") + b"\n": f for f in folders}
    if len(vocabularies) > 1 or len(merges) > 1:
        raise SwiftError(
            f"{model.path}: its text encoders have different vocabularies; the Swift package reads one for both"
        )
    return next(iter(vocabularies)), next(iter(merges))


def select(model: ModelFolder, size: Size | None = None, refiner: ModelFolder | None = None) -> SwiftModel:
    """Return what the Resources folder of a model has for images of a size; the default one if that is None.

    Raises SwiftError saying why the Swift package cannot read the model, and how to convert it so that it can.
    """
    manifest = model.manifest
    width, height = size or manifest.sizes[0]
    if (width, height) not in manifest.sizes:
        have = ", ".join(f"{w}x{h}" for w, h in manifest.sizes)
        raise SwiftError(f"{model.path} makes no images of {width}x{height}; accepted: {have}")
    if UNET_PROMPT.name in manifest.networks:
        require_readable(ConvertOptions(prompt_once=True))
    _check_guidance(manifest.conditions)
    selection = _Selection(model, (width, height))
    selection.text()
    selection.denoiser(_NAMES[UNET.name])
    selection.autoencoder()
    selection.controls()
    selection.checker()
    if refiner is not None:
        selection.refiner(refiner)
    notes = (*_notes(model, (width, height), selection.xl), *selection.notes)
    return SwiftModel((width, height), tuple(selection.resources), *_vocabulary(model), notes)
