"""Where the UNet looks while it paints: cross attention taught to read each thing's words at that thing's place.

From pictures alone a small UNet takes very long to find out which words belong where: after 4400 steps it painted
both of two things in 15 of 100 pictures. The recipe knows each thing's place, and the text encoder keeps the first
thing, the second and the ground apart (`demo.train_text`), so attention can be told directly, as TokenCompose
(Wang et al. 2024, arXiv:2312.03626) does with segmented photographs.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from diffusers import UNet2DConditionModel

from demo.scenes import PLACES, Scene

#: Slots of the text states: the first thing told, the second, the ground.
SLOTS = 3
#: Heads that are taught; the others may look where they like.
TAUGHT = 2


class WatchedAttention:
    """An attention processor that keeps its probabilities, [batch, heads, queries, tokens]."""

    def __init__(self) -> None:
        self.seen: torch.Tensor | None = None

    def __call__(
        self,
        attn: torch.nn.Module,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        attention_mask: None = None,
    ) -> torch.Tensor:
        """Plain attention; what the default processor computes."""

        def heads(x: torch.Tensor) -> torch.Tensor:
            return x.unflatten(-1, (attn.heads, -1)).transpose(1, 2)

        q, k = heads(attn.to_q(hidden_states)), heads(attn.to_k(encoder_hidden_states))
        v = heads(attn.to_v(encoder_hidden_states))
        self.seen = (q @ k.transpose(-1, -2) * attn.scale).softmax(-1)
        return attn.to_out[0]((self.seen @ v).transpose(1, 2).flatten(2))


def watch(unet: UNet2DConditionModel) -> list[WatchedAttention]:
    """Watch the cross attention after the lowest level: before it, a position cannot know where it is."""
    watched = []
    for name, module in unet.named_modules():
        if name.endswith("attn2") and not name.startswith("down_blocks"):
            watched.append(WatchedAttention())
            module.set_processor(watched[-1])
    return watched


def regions(scene: Scene, side: int, reach: float = 1.15) -> np.ndarray:
    """Which slot each cell of a side x side grid belongs to, int64 [side * side]: 0 and 1 things, 2 ground.

    ``reach`` is where a thing ends, in its radii.
    """
    middle = (np.arange(side) + 0.5) / side
    y, x = np.meshgrid(middle, middle, indexing="ij")
    found = np.full((side, side), 2)
    for index, thing in enumerate(scene.things):
        cx, cy = PLACES[thing.place]
        found[np.hypot(x - cx, y - cy) < reach * scene.radius(thing)] = index
    return found.reshape(-1)


def attention_loss(
    watched: list[WatchedAttention], ids: torch.Tensor, end: int, kept: np.ndarray, told: list[Scene]
) -> torch.Tensor:
    """How much attention misses its slot: mean of -log of the share that falls on the right one.

    ``ids`` are the batch's token ids [batch, 77], ``kept`` the members that have a caption and ``told`` their scenes,
    things in the caption's order. Things and ground count alike, whatever their areas.
    """
    after = (ids[kept] == end)[..., None]
    slot = torch.arange(ids.shape[1])[:, None] % SLOTS == torch.arange(SLOTS)
    members = (after & slot).float()
    losses = []
    for one in watched:
        assert one.seen is not None
        side = math.isqrt(one.seen.shape[2])
        wanted = torch.from_numpy(np.stack([regions(s, side) for s in told]))
        share = torch.einsum("bhqt,bts->bqs", one.seen[kept, :TAUGHT], members) / TAUGHT
        missed = -(share.gather(2, wanted[..., None])[..., 0] + 1e-4).log()
        ground = wanted == SLOTS - 1
        losses.append(missed[ground].mean() + missed[~ground].mean())
    return torch.stack(losses).mean()
