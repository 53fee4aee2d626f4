"""Tensors of a component that no network takes: left out if they change no image, otherwise refused."""

from __future__ import annotations

import re

from converter.errors import CheckpointError, shown
from converter.sources.component_kinds import ComponentKind
from converter.sources.tensors import Tensors

#: Patterns of the names of tensors that change the image, and what they belong to.
_ADDED = (
    (
        re.compile(r"lora|base_layer"),
        "a LoRA that is not merged (load the checkpoint with diffusers, call fuse_lora() and save it)",
    ),
    (re.compile(r"custom_diffusion"), "custom diffusion, which replaces attention's projections"),
    (re.compile(r"^position_net\.|\.fuser\."), "GLIGEN, which takes boxes"),
    (re.compile(r"_ip(\.|_)|^encoder_hid_proj\."), "an IP-Adapter, which takes an image"),
    (re.compile(r"motion_modules\."), "an AnimateDiff motion module"),
    (re.compile(r"\.add_[kqv]_proj\."), "attention with further inputs"),
    (re.compile(r"hypernet"), "a hypernetwork"),
)


def left_out(component: str, kind: ComponentKind, tensors: Tensors, taken: frozenset[str]) -> tuple[str, ...]:
    """Return sentences about the tensors in a component's files that no network takes.

    Raises CheckpointError if leaving one out changes the image, or if that is unknown.
    """
    reasons: dict[str, list[str]] = {}
    for name in sorted(set(tensors) - taken):
        why = next((why for pattern, why in kind.unused if pattern.search(name)), None)
        if why is None:
            what = next((words for pattern, words in _ADDED if pattern.search(name)), "an unknown part")
            raise CheckpointError(
                f"{component} has {name}, which belongs to {what}; without it the images would differ"
            )
        reasons.setdefault(why, []).append(name)
    return tuple(f"{component}: {shown(names)} ({why})" for why, names in reasons.items())
