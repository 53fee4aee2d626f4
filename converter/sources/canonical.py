"""One name for each tensor of a network, whichever version of diffusers or transformers saved it.

Published checkpoints name CLIP's tensors ``text_model.*`` (transformers 4); transformers 5 leaves that out, in the
files it writes and in its modules. Autoencoders saved before diffusers 0.15 call their attention's layers otherwise.
The canonical name is the published one of CLIP's, and the newer one of the attention's.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from converter.errors import CheckpointError
from converter.sources.tensors import Tensors

_CLIP_PARTS = ("embeddings.", "encoder.", "final_layer_norm.", "pre_layrnorm.", "post_layernorm.")
_VAE_ATTENTION = re.compile(r"(\.attentions\.\d+)\.(query|key|value|proj_attn)\.")
_VAE_LAYERS = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def _text_encoder(name: str) -> str:
    return f"text_model.{name}" if name.startswith(_CLIP_PARTS) else name


def _vae(name: str) -> str:
    return _VAE_ATTENTION.sub(lambda match: f"{match[1]}.{_VAE_LAYERS[match[2]]}.", name)


def _safety_checker(name: str) -> str:
    tower = name.removeprefix("vision_model.")
    return f"vision_model.{name}" if tower != name and tower.startswith(_CLIP_PARTS) else name


_NAMES: dict[str, Callable[[str], str]] = {
    "text_encoder": _text_encoder,
    "text_encoder_2": _text_encoder,
    "vae": _vae,
    "vae_decoder": _vae,
    "vae_encoder": _vae,
    "safety_checker": _safety_checker,
}


def canonical_name(network: str, name: str) -> str:
    """The canonical name of a network's (or a checkpoint component's) tensor ``name``; most are their own."""
    rename = _NAMES.get(network)
    return name if rename is None else rename(name)


def canonical(network: str, tensors: Tensors) -> Tensors:
    """The tensors under their canonical names. Raises CheckpointError where two of them have the same one."""
    names: dict[str, str] = {}
    for name in tensors:
        to = canonical_name(network, name)
        if to in names:
            raise CheckpointError(f"{network} has both {names[to]} and {name}, which are the same tensor")
        names[to] = name
    return tensors if all(to == name for to, name in names.items()) else tensors.under(names)
