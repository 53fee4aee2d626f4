"""Which of a checkpoint's tensors each network takes, and what becomes of the others: found before anything is written.

Each network's program is built once without writing a weight, so the answer is the writer's own.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from converter.errors import CheckpointError, shown
from converter.mil import Unwritten, Weights
from converter.sources.tensors import Tensors

#: Component -> names whose tensors its library leaves out of the image too, and why.
_PASSED_OVER: dict[str, tuple[tuple[re.Pattern[str], str], ...]] = {
    "text_encoder": (
        (re.compile(r"\.position_ids$"), "the numbers of the positions, which are always the same"),
        (re.compile(r"^logit_scale$|^vision_model\.|^visual_projection\."), "of CLIP's other half, which reads images"),
        (re.compile(r"^text_projection\.weight$"), "of CLIP's comparison with images; this encoder gives bare states"),
        (re.compile(r"^text_model\.(encoder\.layers\.\d+|final_layer_norm)\."), "of layers behind the last one used"),
    ),
    "vae": ((re.compile(r"^loss\.|^model_ema\."), "of the training"),),
    "preview_decoder": ((re.compile(r"^encoder\."), "of the half that reads images"),),
    "safety_checker": (
        (re.compile(r"\.position_ids$"), "the numbers of the positions, which are always the same"),
        (re.compile(r"^logit_scale$|^text_model\.|^text_projection\."), "of CLIP's other half, which reads text"),
    ),
}
_PASSED_OVER["text_encoder_2"] = _PASSED_OVER["text_encoder"]
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


def names_taken(tensors: Tensors, write: Callable[[Tensors, Weights], object]) -> frozenset[str]:
    """The tensors that ``write`` asks for as it builds a program. Raises CheckpointError where one is not there."""
    names: set[str] = set()
    write(tensors.noting(names), Unwritten())
    return frozenset(names)


def left_out(component: str, tensors: Tensors, taken: frozenset[str]) -> tuple[str, ...]:
    """What a component's files have that no network takes, in sentences.

    Raises CheckpointError where that would change the image, or where it is not known whether it would.
    """
    reasons: dict[str, list[str]] = {}
    for name in sorted(set(tensors) - taken):
        why = next((why for pattern, why in _PASSED_OVER.get(component, ()) if pattern.search(name)), None)
        if why is None:
            what = next((words for pattern, words in _ADDED if pattern.search(name)), "something this converter lacks")
            raise CheckpointError(f"{component} has {name}, which is of {what}; without it the images would be others")
        reasons.setdefault(why, []).append(name)
    return tuple(f"{component}: {shown(names)} ({why})" for why, names in reasons.items())
