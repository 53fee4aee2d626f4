"""Tiny networks of every kind as packages for any deployment target, with one function or several sizes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import ControlNetModel
from transformers import CLIPTextModelWithProjection

from converter.mil import Graph, Target, Weights
from converter.mil.package import write_functions, write_package
from converter.networks.clip import text_encoder, text_encoder_config
from converter.networks.controlnet import controlnet
from converter.networks.layers import Attention, Layers
from converter.networks.prompt import unet_prompt
from converter.networks.unet import unet
from converter.networks.unet_shape import unet_shape
from converter.networks.vae import vae_decoder, vae_encoder
from converter.sources.canonical import canonical
from converter.sources.component_kinds import TEXT_ENCODER, ComponentKind
from converter.sources.config_tables import CONTROLNET
from converter.sources.tensors import Tensors
from converter.weights.blob import BlobWriter
from tests.support.checkpoints import tiny_text_encoder, tiny_unet, tiny_vae
from tests.support.mil_packages import METADATA, component_of

POOLED = 24
XL = {
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2),
    "attention_head_dim": (2, 4),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 6 * 8 + POOLED,
}
MODULES: dict[str, Callable[[], torch.nn.Module]] = {
    "text": lambda: tiny_text_encoder(515),
    "second text": lambda: tiny_text_encoder(
        515, kind=CLIPTextModelWithProjection, hidden_act="gelu", projection_dim=POOLED, eos_token_id=2
    ),
    "unet": tiny_unet,
    "xl unet": lambda: tiny_unet(**XL, time_cond_proj_dim=16),
    "controlnet": lambda: ControlNetModel.from_unet(
        tiny_unet(), conditioning_embedding_out_channels=(8, 8, 16, 16), load_weights_from_unet=False
    ),
    "vae": tiny_vae,
}


def _unet(layers: Layers, config: dict[str, Any], height: int, width: int, **forms: bool) -> None:
    shape = unet_shape(config, pooled_width=POOLED)
    unet(layers, shape, batch=2, tokens=7, height=height, width=width, **forms)


def _prompt(layers: Layers, config: dict[str, Any], height: int, width: int) -> None:
    unet_prompt(layers, unet_shape(config, pooled_width=POOLED), batch=2, tokens=7)


def _controlnet(layers: Layers, config: dict[str, Any], height: int, width: int) -> None:
    shape = unet_shape(config, "controlnet/config.json", table=CONTROLNET)
    controlnet(layers, shape, batch=2, tokens=7, height=height, width=width)


@dataclass(frozen=True)
class Network:
    """One network: the module with its weights, its attention implementation, and the function that writes its program."""

    module: str
    write: Callable[[Layers, dict[str, Any], int, int], None]
    attention: Attention = "split_einsum"


NETWORKS = {
    "text_encoder": Network("text", lambda la, config, h, w: text_encoder(la, config)),
    "text_encoder_2": Network("second text", lambda la, config, h, w: text_encoder(la, config, penultimate=True)),
    "unet": Network("unet", _unet),
    "unet for a GPU": Network("xl unet", _unet, "original"),
    "controlled unet": Network(
        "unet", lambda la, config, h, w: _unet(la, config, h, w, control=True), "split_einsum_v2"
    ),
    "unet_prompt": Network("xl unet", _prompt),
    "unet of a projected prompt": Network("xl unet", lambda la, config, h, w: _unet(la, config, h, w, projected=True)),
    "controlnet": Network("controlnet", _controlnet),
    "vae_decoder": Network("vae", lambda la, config, h, w: vae_decoder(la, config, height=8 * h, width=8 * w)),
    "vae_encoder": Network("vae", lambda la, config, h, w: vae_encoder(la, config, height=8 * h, width=8 * w)),
}


class TinyNetworks:
    """Makes packages of networks; their weights are saved in ``folder`` once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        #: Module -> its component kind.
        self._saved: dict[str, ComponentKind] = {}

    def _source(self, module: str) -> tuple[Tensors, dict[str, Any]]:
        folder = self._folder / module
        if module not in self._saved:
            torch.manual_seed(5)
            saved: Any = MODULES[module]().half()
            saved.save_pretrained(folder, safe_serialization=True)
            self._saved[module] = component_of(saved)
        part = self._saved[module]
        tensors, config = (
            Tensors(sorted(folder.glob("*.safetensors"))),
            json.loads((folder / "config.json").read_text()),
        )
        config = text_encoder_config(part.name, config) if part is TEXT_ENCODER else config
        return canonical(part.name, tensors, part.canonical_name), config

    @contextmanager
    def weights(self, blob: Path) -> Iterator[Weights]:
        """Open the weights file ``blob`` for writing."""
        with BlobWriter(blob) as writer:
            yield Weights(writer, lambda size: None)

    def graph(self, name: str, weights: Weights, target: Target, height: int = 8, width: int = 9) -> Graph:
        """Return the network's program; the width 9 is odd, so that the UNet must crop on its way up."""
        network = NETWORKS[name]
        tensors, config = self._source(network.module)
        graph = Graph(weights, target)
        network.write(Layers(graph, tensors, network.attention), config, height, width)
        return graph

    def package(self, name: str, target: Target, out: Path, height: int = 8, width: int = 9) -> Path:
        """Write the network as a package of one function into the new folder ``out``."""
        out.mkdir(parents=True)
        with self.weights(out / "weights") as weights:
            graph = self.graph(name, weights, target, height, width)
        path = out / "network.mlpackage"
        write_package(path, graph, out / "weights", about="test", describe=str.title, metadata=METADATA)
        return path

    def functions(self, name: str, target: Target, out: Path, sizes: dict[str, tuple[int, int]]) -> Path:
        """Write the network at several sizes of latents, by function name, as one package into the new folder ``out``."""
        out.mkdir(parents=True)
        with self.weights(out / "weights") as weights:
            graphs = {function: self.graph(name, weights, target, *size) for function, size in sizes.items()}
        path = out / "network.mlpackage"
        write_functions(
            path,
            graphs,
            out / "weights",
            default=next(iter(sizes)),
            about="test",
            describe=str.title,
            metadata=METADATA,
        )
        return path
