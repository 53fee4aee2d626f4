"""Norms and attention against PyTorch's."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from tests.support.mil_programs import assert_same, run_program

DRAWN = np.random.default_rng(0)


def drawn(*shape):
    return DRAWN.standard_normal(shape).astype(np.float32)


X, GAMMA, BETA = drawn(2, 6, 3, 5), drawn(6), drawn(6)


def test_norms_are_pytorchs(tmp_path):
    mean, variance, last = drawn(6), np.abs(drawn(6)) + 0.1, drawn(3, 5)

    def build(mb, x):
        return [
            mb.batch_norm(x=x, mean=mean, variance=variance, gamma=GAMMA, beta=BETA, epsilon=1e-3),
            mb.batch_norm(x=x, mean=mean, variance=variance),
            mb.instance_norm(x=x, gamma=GAMMA, beta=BETA, epsilon=1e-3),
            mb.layer_norm(x=x, axes=[1], gamma=GAMMA, beta=BETA, epsilon=1e-3),
            mb.layer_norm(x=x, axes=[-2, -1], gamma=last, beta=last, epsilon=1e-3),
            mb.layer_norm(x=x, axes=[0, 1, 2, 3]),
            mb.l2_norm(x=x, epsilon=1e-3),
            mb.local_response_norm(x=x, size=3, alpha=0.5, beta=0.6, k=2.0),
        ]

    x, gamma, beta = map(torch.from_numpy, (X, GAMMA, BETA))
    m, v, w = map(torch.from_numpy, (mean, variance, last))
    expected = [
        F.batch_norm(x, m, v, gamma, beta, eps=1e-3),
        F.batch_norm(x, m, v),
        F.instance_norm(x, weight=gamma, bias=beta, eps=1e-3),
        F.layer_norm(x.permute(0, 2, 3, 1), (6,), gamma, beta, 1e-3).permute(0, 3, 1, 2),
        F.layer_norm(x, (3, 5), w, w, 1e-3),
        F.layer_norm(x, x.shape),
        x / ((x**2).sum((1, 2, 3), keepdim=True) + 1e-3).sqrt(),
        F.local_response_norm(x, 3, 0.5, 0.6, 2.0),
    ]
    assert_same(run_program(tmp_path, "iOS15", {"x": X}, build), expected)


def test_a_channel_of_one_pixel_is_all_offset(tmp_path):
    x = X[:, :, :1, :1]

    def build(mb, x):
        return [mb.instance_norm(x=x, gamma=GAMMA, beta=BETA)]

    expected = [np.broadcast_to(BETA[:, None, None], x.shape)]
    assert_same(run_program(tmp_path, "iOS15", {"x": x}, build), expected)


def test_attention_takes_masks_of_either_kind_and_any_rank(tmp_path):
    query, key, value = drawn(2, 3, 4, 8), drawn(2, 3, 7, 8), drawn(2, 3, 7, 5)
    added, allowed, row = drawn(1, 1, 4, 7), DRAWN.random((2, 1, 4, 7)) > 0.3, drawn(7)
    allowed[..., 0] = True

    def build(mb, query, key, value):
        three = [
            mb.squeeze(x=mb.slice_by_size(x=v, begin=[0] * 4, size=[1, -1, -1, -1]), axes=[0])
            for v in (query, key, value)
        ]
        names = ("query", "key", "value")
        given = dict(zip(names, (query, key, value), strict=True))
        return [
            mb.scaled_dot_product_attention(**given),
            mb.scaled_dot_product_attention(**given, attn_mask=added),
            mb.scaled_dot_product_attention(**given, attn_mask=allowed),
            mb.scaled_dot_product_attention(**given, attn_mask=row),
            mb.scaled_dot_product_attention(**dict(zip(names, three, strict=True))),
        ]

    q, k, v = map(torch.from_numpy, (query, key, value))

    def attention(bias=None):
        scores = q @ k.transpose(-1, -2) / 8**0.5
        return torch.softmax(scores if bias is None else scores + bias, -1) @ v

    forbidden = torch.zeros(allowed.shape).masked_fill(~torch.from_numpy(allowed), -torch.inf)
    expected = [
        attention(),
        attention(torch.from_numpy(added)),
        attention(forbidden),
        attention(torch.from_numpy(row)),
        attention()[0],
    ]
    given = {"query": query, "key": key, "value": value}
    assert_same(run_program(tmp_path, "iOS18", given, build), expected)
