"""Attention in forms that are slow on the engine, or overflow."""

from __future__ import annotations

import numpy as np
import pytest

from converter.lint.rules import attention


def split(mil, query, key, scale=None):
    """One head's attention with the keys on the channel axis, as the engine likes it."""
    mb = mil.mb
    logits = mb.einsum(values=(key, query), equation="bkhc,bchq->bkhq")
    if scale is not None:
        logits = scale(logits)
    share = mb.softmax(x=logits, axis=1)
    return mb.einsum(values=(query, share), equation="bchk,bkhq->bchq")


def softmax_of(findings):
    return [(f.rule, f.level) for f in findings if f.rule == "W3"]


@pytest.mark.parametrize(
    ("batch", "length", "expected"),
    [
        (2, 1024, []),
        (2, 4096, [("W3", "note")]),
        (1, 16384, [("W3", "note")]),
        (2, 16384, [("W3", "warning")]),
    ],
)
def test_a_head_s_logits_are_a_note_until_they_are_huge(mil, linted, batch, length, expected):
    shapes = (batch, 32, 1, length), (batch, length, 1, 32)
    assert softmax_of(linted(lambda q, k: split(mil, q, k), *shapes)) == expected


@pytest.mark.parametrize(("length", "expected"), [(64, []), (1024, [("W3", "warning")])])
def test_a_large_softmax_over_the_last_axis_is_a_warning(mil, linted, length, expected):
    def build(q, k):
        logits = mil.mb.matmul(x=q, y=k, transpose_y=True)
        return mil.mb.matmul(x=mil.mb.softmax(x=logits, axis=-1), y=k)

    findings = linted(build, (1, 8, length, 32), (1, 8, length, 32))
    assert softmax_of(findings) == expected
    if expected:
        assert findings[0].places[0].detail == "16.0 MB"
        assert "split_einsum" in findings[0].cure


def test_fused_attention_is_a_warning(mil, linted, serious):
    def build(q):
        return mil.mb.scaled_dot_product_attention(query=q, key=q, value=q)

    findings = linted(build, (1, 8, 64, 32), target="iOS18")
    assert serious(findings) == {"W8"}
    assert "on the CPU" in findings[0].places[0].detail
    assert "on the engine" in linted(build, (1, 16, 2048, 64), target="iOS18")[0].places[0].detail


@pytest.mark.parametrize(("many", "broken"), [(1, {"W9"}), (2, set())])
def test_too_many_products_are_a_warning(mil, linted, serious, monkeypatch, many, broken):
    monkeypatch.setattr(attention, "_MANY_EINSUMS", many)
    assert serious(linted(lambda q, k: split(mil, q, k), (1, 32, 1, 64), (1, 64, 1, 32))) == broken


def test_a_scale_after_the_product_is_a_warning(mil, linted, serious):
    mb, shapes = mil.mb, ((1, 32, 1, 64), (1, 64, 1, 32))
    late = linted(lambda q, k: split(mil, q, k, lambda x: mb.mul(x=x, y=np.float16(0.125))), *shapes)
    assert serious(late) == {"N3"}
    assert "8.0 times as far" in late[0].places[0].detail
    divided = linted(lambda q, k: split(mil, q, k, lambda x: mb.real_div(x=x, y=np.float16(8))), *shapes)
    assert serious(divided) == {"N3"}
    masked = np.zeros((1, 64, 1, 64), np.float16)
    before = linted(lambda q, k: split(mil, mb.mul(x=q, y=np.float16(0.125)), k), *shapes)
    added = linted(lambda q, k: split(mil, q, k, lambda x: mb.add(x=x, y=masked)), *shapes)
    assert not serious(before) | serious(added)


def flat_attention(mil, q, k, *, mask=None):
    """As transformers wrote CLIP's: heads in the batch, the mask added at rank 4."""
    mb = mil.mb
    logits = mb.matmul(x=q, y=k, transpose_y=True)
    if mask is not None:
        heads, rows, keys = logits.shape
        whole = mb.add(x=mb.reshape(x=logits, shape=(1, heads, rows, keys)), y=mask)
        logits = mb.reshape(x=whole, shape=(heads, rows, keys))
    return mb.matmul(x=mb.softmax(x=logits, axis=-1), y=k)


@pytest.mark.parametrize("masked", [False, True])
def test_attention_of_three_axes_is_noted_for_the_gpu(mil, linted, masked):
    mask = np.zeros((1, 1, 77, 77), np.float16) if masked else None
    shapes = (12, 77, 64), (12, 77, 64)
    findings = [f for f in linted(lambda q, k: flat_attention(mil, q, k, mask=mask), *shapes) if f.rule == "W8"]
    assert [(f.level, len(f.places)) for f in findings] == [("note", 1)]
    assert "macOS 27.2" in findings[0].what


def test_attention_of_four_axes_and_a_softmax_without_a_product_before_are_not_noted(mil, linted):
    shapes = (1, 12, 77, 64), (1, 12, 77, 64)
    four = linted(lambda q, k: flat_attention(mil, q, k), *shapes)
    pooled = linted(lambda x, y: mil.mb.matmul(x=mil.mb.softmax(x=x, axis=-1), y=y), (12, 77, 77), (12, 77, 64))
    assert "W8" not in {f.rule for f in [*four, *pooled]}
