"""A loss that teaches the UNet's cross attention to read each thing's words at that thing's place.

From images alone, a small UNet takes very long to learn which words belong where: after 4400 steps, 15 of 100 images
showed both of two things. The recipe knows each thing's place, and the text encoder separates the first thing, the second
and the ground (`demo.train_text`), so the loss can teach attention directly, as TokenCompose (Wang et al. 2024,
arXiv:2312.03626) does with segmented photographs.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from diffusers import UNet2DConditionModel

from demo.scenes import PLACES, Scene

#: Slots of the text states: the first thing of the caption, the second, the ground.
SLOTS = 3
#: The number of heads that the loss teaches; the others are free.
TAUGHT = 2


class WatchedAttention:
    """An attention processor that stores its probabilities, [batch, heads, queries, tokens]."""

    def __init__(self) -> None:
        self.probs: torch.Tensor | None = None

    def __call__(
        self,
        attn: torch.nn.Module,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        attention_mask: None = None,
    ) -> torch.Tensor:
        """Compute plain attention, like the default processor."""

        def heads(x: torch.Tensor) -> torch.Tensor:
            return x.unflatten(-1, (attn.heads, -1)).transpose(1, 2)

        q, k = heads(attn.to_q(hidden_states)), heads(attn.to_k(encoder_hidden_states))
        v = heads(attn.to_v(encoder_hidden_states))
        self.probs = (q @ k.transpose(-1, -2) * attn.scale).softmax(-1)
        return attn.to_out[0]((self.probs @ v).transpose(1, 2).flatten(2))


def watch(unet: UNet2DConditionModel) -> list[WatchedAttention]:
    """Replace the cross attention after the lowest level by a watched one: before it, no position knows its place."""
    watched = []
    for name, module in unet.named_modules():
        if name.endswith("attn2") and not name.startswith("down_blocks"):
            watched.append(WatchedAttention())
            module.set_processor(watched[-1])
    return watched


def regions(scene: Scene, side: int, reach: float = 1.15) -> np.ndarray:
    """Return the slot of each cell of a side x side grid, int64 [side * side]: 0 and 1 for things, 2 for the ground.

    ``reach``: the extent of a thing, in its radii.
    """
    middle = (np.arange(side) + 0.5) / side
    y, x = np.meshgrid(middle, middle, indexing="ij")
    slots = np.full((side, side), 2)
    for index, thing in enumerate(scene.things):
        cx, cy = PLACES[thing.place]
        slots[np.hypot(x - cx, y - cy) < reach * scene.radius(thing)] = index
    return slots.reshape(-1)


def attention_loss(
    watched: list[WatchedAttention], ids: torch.Tensor, end: int, kept: np.ndarray, scenes: list[Scene]
) -> torch.Tensor:
    """Return the mean of -log of the share of attention that falls on the right slot.

    ``ids``: the batch's token ids [batch, 77]. ``kept``: the members with a caption; ``scenes``: their scenes, things in the
    caption's order. Things and ground have equal weights, whatever their areas.
    """
    after = (ids[kept] == end)[..., None]
    slot = torch.arange(ids.shape[1])[:, None] % SLOTS == torch.arange(SLOTS)
    members = (after & slot).float()
    losses = []
    for attention in watched:
        assert attention.probs is not None
        side = math.isqrt(attention.probs.shape[2])
        wanted = torch.from_numpy(np.stack([regions(s, side) for s in scenes]))
        probs = torch.einsum("bhqt,bts->bqs", attention.probs[kept, :TAUGHT], members) / TAUGHT
        missed = -(probs.gather(2, wanted[..., None])[..., 0] + 1e-4).log()
        ground = wanted == SLOTS - 1
        losses.append(missed[ground].mean() + missed[~ground].mean())
    return torch.stack(losses).mean()
