"""Tensors of a component that no network takes: left out where they change no image, otherwise refused."""

from __future__ import annotations

import re

from converter.errors import CheckpointError, shown
from converter.sources.component_kinds import ComponentKind
from converter.sources.tensors import Tensors

#: What tensors that change the image belong to, by their names.
_ADDED = (
    (re.compile(r"lora|base_layer"), "a LoRA that is not merged; load it with diffusers and save it after fuse_lora()"),
    (re.compile(r"custom_diffusion"), "custom diffusion, which replaces attention's projections"),
    (re.compile(r"^position_net\.|\.fuser\."), "GLIGEN, which is given boxes"),
    (re.compile(r"_ip(\.|_)|^encoder_hid_proj\."), "an IP-Adapter, which is given an image"),
    (re.compile(r"motion_modules\."), "an AnimateDiff motion module"),
    (re.compile(r"\.add_[kqv]_proj\."), "attention with further inputs"),
    (re.compile(r"hypernet"), "a hypernetwork"),
)


def left_out(component: str, kind: ComponentKind, tensors: Tensors, taken: frozenset[str]) -> tuple[str, ...]:
    """Return what a component's files have that no network takes, in sentences.

    Raises CheckpointError where that would change the image, or where it is not known whether it would.
    """
    reasons: dict[str, list[str]] = {}
    for name in sorted(set(tensors) - taken):
        why = next((why for pattern, why in kind.unused if pattern.search(name)), None)
        if why is None:
            what = next((words for pattern, words in _ADDED if pattern.search(name)), "something this converter lacks")
            raise CheckpointError(f"{component} has {name}, which is of {what}; without it the images would be others")
        reasons.setdefault(why, []).append(name)
    return tuple(f"{component}: {shown(names)} ({why})" for why, names in reasons.items())
