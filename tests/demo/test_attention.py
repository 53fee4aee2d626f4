from __future__ import annotations

import numpy as np
import torch

from demo.attention import SLOTS, TAUGHT, attention_loss, regions, watch
from demo.networks import make_unet
from demo.scenes import PLACES, Scene, Thing

END = 9
SCENE = Scene((Thing("circle", "red", "left"), Thing("star", "blue", "right")), "white")


def test_watching_changes_nothing_but_keeps_what_cross_attention_looks_at():
    torch.manual_seed(0)
    unet = make_unet().eval()
    given = (torch.randn(2, 4, 32, 32), torch.tensor([10, 900]), torch.randn(2, 77, 128))
    with torch.no_grad():
        plain = unet(*given).sample
        watched = watch(unet)
        torch.testing.assert_close(unet(*given).sample, plain, rtol=1e-4, atol=1e-5)
    assert [attention.probs.shape for attention in watched] == [(2, 4, 256, 77), (2, 4, 256, 77), (2, 4, 64, 77)]
    for attention in watched:
        torch.testing.assert_close(attention.probs.sum(-1), torch.ones(attention.probs.shape[:3]))


def test_a_things_region_lies_round_its_place_and_the_rest_is_ground():
    cells = regions(SCENE, 16).reshape(16, 16)
    for slot, thing in enumerate(SCENE.things):
        rows, columns = np.nonzero(cells == slot)
        center = ((columns.mean() + 0.5) / 16, (rows.mean() + 0.5) / 16)
        np.testing.assert_allclose(center, PLACES[thing.place], atol=0.02)
    assert cells[0, 0] == SLOTS - 1


class _Looking:
    """Attention that looks at the padding's tokens of the slot a cell belongs to, ``shift`` slots on."""

    def __init__(self, ids, shift):
        slot = np.arange(ids.shape[1]) % SLOTS
        wanted = (regions(SCENE, 8) + shift) % SLOTS
        after = (ids[0] == END).numpy()
        share = torch.from_numpy((after & (slot == wanted[:, None])).astype(np.float32))
        self.probs = (share / share.sum(-1, keepdim=True)).expand(1, TAUGHT, -1, -1)


def test_attention_is_only_right_where_it_reads_the_things_own_states():
    ids = torch.cat([torch.arange(8), torch.full((20,), END)])[None]
    kept = np.array([0])
    right, wrong = (attention_loss([_Looking(ids, shift)], ids, END, kept, [SCENE]).item() for shift in (0, 1))
    assert abs(right) < 1e-3
    assert wrong > 10
