"""Tensors of a single file outside its networks: left out if they change no image, refused if they might."""

from __future__ import annotations

import re
from collections.abc import Iterable

from converter.errors import CheckpointError, shown

#: Patterns of names that no network takes, and what they belong to; the first match counts.
_KNOWN = (
    (re.compile(r"^model_ema\.|^first_stage_model\.(loss|model_ema)\."), "of the training"),
    (re.compile(r"^(optimizer|lr_schedulers?|callbacks|loops)\.|^(global_step|epoch)$"), "of the training"),
    (
        re.compile(r"^(betas|lvlb_weights|logvar|scale_factor)$|^(alphas|sqrt|log_one|posterior)_|^denoiser\."),
        "the noise schedule's numbers, which are computed anew",
    ),
    (re.compile(r"\.position_ids$|\.attn_mask$"), "numbers of positions and masks, which are always the same"),
    (re.compile(r"\.logit_scale$|\.text_projection(\.weight)?$"), "of CLIP's comparison with images"),
    (
        re.compile(r"\.transformer\.resblocks\.\d+\.|\.(encoder\.layers\.\d+|ln_final|final_layer_norm)\."),
        "of unused layers",
    ),
    (re.compile(r"\.embedders\.\d+\.model\.visual\.|\.vision_model\."), "of CLIP's other half, which reads images"),
)
#: Prefixes of the networks' tensors; an unknown tensor there might be part of one.
_NETWORKS = ("model.diffusion_model.", "first_stage_model.", "cond_stage_model.", "conditioner.")


def left_out_of_file(names: Iterable[tuple[str, tuple[int, ...]]]) -> tuple[str, ...]:
    """Return sentences about the tensors (name and shape) that no network takes and that are left out.

    Raises CheckpointError if one has a network's prefix and is not known to be unused.
    """
    reasons: dict[str, list[str]] = {}
    for name, shape in names:
        why = next((why for pattern, why in _KNOWN if pattern.search(name)), None)
        if why is None and 0 not in shape and name.startswith(_NETWORKS):
            raise CheckpointError(f"it has {name}, which this converter does not know; without it images might differ")
        reasons.setdefault(why or "of no network of Stable Diffusion", []).append(name)
    return tuple(f"the file has {shown(sorted(group))} ({why})" for why, group in reasons.items())
