"""A checkpoint in, a model folder out: each network is written as a program whose weights stream into weight.bin."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from converter import __version__
from converter.blob import BlobWriter
from converter.checkpoint import Checkpoint
from converter.errors import CheckpointError, SpaceError
from converter.families import Family, recognise
from converter.folder import NETWORKS, Defaults, Manifest, ModelFolder, SchedulerSettings, Source, Versions
from converter.mil import Graph, Weights
from converter.networks.clip import text_encoder
from converter.networks.unet import unet
from converter.networks.vae import vae_decoder, vae_encoder
from converter.package import write_package
from converter.tensors import Tensors

Size = tuple[int, int]
ATTENTION = "split_einsum"
_BATCH = 2  # the negative and the positive prompt of classifier-free guidance

_ABOUT = {
    "text_encoder": "CLIP text encoder of Stable Diffusion",
    "unet": "Denoising UNet of Stable Diffusion",
    "vae_decoder": "Autoencoder of Stable Diffusion: latents to a picture",
    "vae_encoder": "Autoencoder of Stable Diffusion: a picture to latents",
}
_DESCRIPTIONS = {
    "input_ids": "Token ids of the prompt",
    "last_hidden_state": "A state for every token",
    "pooled_outputs": "The state at the end of the prompt",
    "sample": "Noisy latents",
    "timestep": "The timestep of each picture of the batch",
    "encoder_hidden_states": "Prompt states, channels first",
    "noise_pred": "What the model predicts of the noise (see prediction_type)",
    "z": "Latents, divided by the scaling factor",
    "image": "The picture, in [-1, 1]",
    "x": "The picture, in [-1, 1]",
    "latent": "Mean, then log variance, of the latents",
}


@dataclass(frozen=True)
class ConvertOptions:
    """How to convert.

    name: what the model is called; None takes the source folder's name.
    sizes: pictures' (width, height) in pixels, the default first; None takes the size the checkpoint was trained at.
    """

    name: str | None = None
    sizes: tuple[Size, ...] | None = None


@dataclass(frozen=True)
class ConvertProgress:
    """How far a conversion is: the network being written, and bytes of weights written of all networks'."""

    network: str
    done_bytes: int
    total_bytes: int


def _sizes(family: Family, options: ConvertOptions) -> tuple[Size, ...]:
    side = family.sample_size * family.vae_scale_factor
    sizes = options.sizes or ((side, side),)
    for width, height in sizes:
        if min(width, height) < family.multiple or width % family.multiple or height % family.multiple:
            raise CheckpointError(
                f"size {width}x{height} does not fit this model: sides must be multiples of {family.multiple}"
            )
    return sizes


def _totals(checkpoint: Checkpoint) -> dict[str, int]:
    vae = checkpoint.tensors("vae")
    return {
        "text_encoder": checkpoint.tensors("text_encoder").half_bytes(),
        "unet": checkpoint.tensors("unet").half_bytes(),
        "vae_decoder": vae.half_bytes(("decoder", "post_quant_conv")),
        "vae_encoder": vae.half_bytes(("encoder", "quant_conv")),
    }


def _graph(
    network: str, tensors: Tensors, config: dict[str, Any], family: Family, weights: Weights, size: Size
) -> Graph:
    graph = Graph(weights)
    width, height = size
    if network == "text_encoder":
        text_encoder(graph, tensors, config)
    elif network == "unet":
        factor = family.vae_scale_factor
        latents = {"height": height // factor, "width": width // factor}
        unet(graph, tensors, config, batch=_BATCH, tokens=family.tokens, **latents)
    elif network == "vae_decoder":
        vae_decoder(graph, tensors, config, height, width)
    else:
        vae_encoder(graph, tensors, config, height, width)
    return graph


def _write_network(
    network: str,
    checkpoint: Checkpoint,
    family: Family,
    sizes: tuple[Size, ...],
    name: str,
    out: Path,
    written: Callable[[int], None],
) -> dict[str, str]:
    """Write a network's packages, all on one weights file; returns size -> package name."""
    by_size = [("any", sizes[0])] if network == "text_encoder" else [(f"{w}x{h}", (w, h)) for w, h in sizes]
    component = "vae" if network.startswith("vae") else network
    tensors, config = checkpoint.tensors(component), checkpoint.config(component)
    blob = out / f"{network}.weights"
    with BlobWriter(blob) as writer:
        weights = Weights(writer, written)
        graphs = [(label, _graph(network, tensors, config, family, weights, size)) for label, size in by_size]
    metadata = {
        "com.github.apple.coremltools.version": version("coremltools"),
        "app.anemone.converter.version": __version__,
        "app.anemone.model": name,
        "app.anemone.network": network,
        "app.anemone.attention": ATTENTION,
        "app.anemone.prediction_type": family.prediction_type,
        "app.anemone.vae_scaling_factor": repr(family.vae_scaling_factor),
    }
    packages = {}
    for index, (label, graph) in enumerate(graphs):
        suffix = f"_{label}" if index else ""
        package = f"Stable_Diffusion_version_{name.replace('/', '_')}_{network}{suffix}.mlpackage"
        write_package(out / package, graph, blob, about=_ABOUT[network], descriptions=_DESCRIPTIONS, metadata=metadata)
        packages[label] = package
    blob.unlink()
    return packages


def _scheduler(checkpoint: Checkpoint) -> SchedulerSettings:
    config = checkpoint.config("scheduler")
    return SchedulerSettings(
        num_train_timesteps=int(config.get("num_train_timesteps", 1000)),
        beta_start=float(config.get("beta_start", 0.00085)),
        beta_end=float(config.get("beta_end", 0.012)),
        beta_schedule=str(config.get("beta_schedule", "scaled_linear")),
        timestep_spacing=str(config.get("timestep_spacing", "leading")),
        steps_offset=int(config.get("steps_offset", 1)),
        set_alpha_to_one=bool(config.get("set_alpha_to_one", False)),
    )


def convert(
    source: Path, out: Path, options: ConvertOptions, progress: Callable[[ConvertProgress], None]
) -> ModelFolder:
    """Convert the checkpoint at ``source`` into the model folder ``out``, replacing what is there.

    ``progress`` hears of every tensor written. The folder appears whole or not at all: it is written beside ``out`` and
    renamed. Raises CheckpointError (source or size not convertible) and SpaceError.
    """
    checkpoint = Checkpoint.open(source)
    family = recognise(checkpoint)
    sizes = _sizes(family, options)
    name = options.name or source.resolve().name
    totals = _totals(checkpoint)
    total = sum(totals.values())
    out.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(out.parent).free
    if free < total * 1.1 + 2**24:
        raise SpaceError(
            f"converting needs {total * 1.1 / 2**20 + 16:.0f} MB in {out.parent}; {free / 2**20:.0f} MB are free"
        )

    partial = out.with_name(f"{out.name}.partial-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    done = before = 0

    def written(size: int) -> None:
        nonlocal done
        # Constants that are no checkpoint tensors (masks, frequencies) are not in the total.
        done = min(before + totals[network], done + size)
        progress(ConvertProgress(network, done, total))

    try:
        networks = {}
        for network in NETWORKS:
            networks[network] = _write_network(network, checkpoint, family, sizes, name, partial, written)
            before += totals[network]
            done = before
            progress(ConvertProgress(network, done, total))
        (partial / "tokenizer").mkdir()
        for file, content in checkpoint.tokenizer_files().items():
            (partial / "tokenizer" / file).write_bytes(content)
        Manifest(
            name=name,
            family=family.name,
            prediction_type=family.prediction_type,
            attention=ATTENTION,
            precision="float16",
            sizes=sizes,
            latent_channels=family.latent_channels,
            vae_scale_factor=family.vae_scale_factor,
            vae_scaling_factor=family.vae_scaling_factor,
            batch=_BATCH,
            tokens=family.tokens,
            text_width=family.text_width,
            scheduler=_scheduler(checkpoint),
            defaults=Defaults(
                steps=int(checkpoint.defaults.get("steps", 20)),
                guidance_scale=float(checkpoint.defaults.get("guidance_scale", 7.5)),
            ),
            networks=networks,
            source=Source("diffusers", name, checkpoint.sha256),
            converter=Versions(__version__, version("coremltools")),
        ).write(partial)
        shutil.rmtree(out, ignore_errors=True)
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return ModelFolder.open(out)
