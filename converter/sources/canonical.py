"""Give each tensor of a network one name, whichever version of diffusers or transformers saved it.

Published checkpoints name CLIP's tensors ``text_model.*`` (transformers 4); transformers 5 leaves the prefix out, in the
files it writes and in its modules. Autoencoders saved before diffusers 0.15 have other names for their attention's
layers. The canonical names are the published ones for CLIP and the newer ones for the attention.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from converter.errors import CheckpointError
from converter.sources.tensors import Tensors

_CLIP_PARTS = ("embeddings.", "encoder.", "final_layer_norm.", "pre_layrnorm.", "post_layernorm.")
_VAE_ATTENTION = re.compile(r"(\.attentions\.\d+)\.(query|key|value|proj_attn)\.")
_VAE_LAYERS = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def clip_name(name: str) -> str:
    """Return the canonical name of a text encoder's tensor."""
    return f"text_model.{name}" if name.startswith(_CLIP_PARTS) else name


def vae_name(name: str) -> str:
    """Return the canonical name of an autoencoder's tensor."""
    return _VAE_ATTENTION.sub(lambda match: f"{match[1]}.{_VAE_LAYERS[match[2]]}.", name)


def safety_checker_name(name: str) -> str:
    """Return the canonical name of a safety checker's tensor."""
    tower = name.removeprefix("vision_model.")
    return f"vision_model.{name}" if tower != name and tower.startswith(_CLIP_PARTS) else name


def canonical(component: str, tensors: Tensors, rename: Callable[[str], str]) -> Tensors:
    """Return the tensors under their canonical names. Raises CheckpointError if two have the same one."""
    names: dict[str, str] = {}
    for name in tensors:
        to = rename(name)
        if to in names:
            raise CheckpointError(f"{component} has both {names[to]} and {name}, which are the same tensor")
        names[to] = name
    return tensors if all(to == name for to, name in names.items()) else tensors.under(names)
