"""Layouts the engine has to pad, copy or turn."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from converter.lint import lint_package

FLAT, LONG = (1, 512, 1, 1024), (1, 512, 1024, 1)


def test_a_linear_layer_of_many_rows_is_a_warning_and_of_one_a_note(mil, linted, serious, noted):
    weight = np.ones((64, 64), np.float16)
    assert serious(linted(lambda x: mil.mb.linear(x=x, weight=weight), (1, 77, 64))) == {"W1"}
    single = linted(lambda x: mil.mb.linear(x=x, weight=weight), (1, 64))
    assert (serious(single), noted(single)) == (set(), {"W1"})


def test_a_product_with_a_weight_is_a_warning_and_of_two_activations_is_not(mil, linted, serious):
    weight = np.ones((64, 64), np.float16)
    assert serious(linted(lambda x: mil.mb.matmul(x=x, y=weight), (1, 77, 64))) == {"W1"}
    assert not serious(linted(lambda x: mil.mb.matmul(x=x, y=x, transpose_y=True), (1, 77, 64)))


@pytest.mark.parametrize(("shape", "broken"), [(LONG, {"W2"}), (FLAT, set())])
def test_activations_padded_to_many_times_their_size_are_a_warning(mil, linted, conv, serious, shape, broken):
    findings = linted(lambda x: conv(mil.mb.relu(x=conv(x, 512)), 512), shape)
    assert serious(findings) - {"W11"} == broken
    if broken:
        (finding,) = (f for f in findings if f.rule == "W2" and f.level == "warning")
        assert finding.places[0].detail == "1.0 MB take 32.0 MB"


def test_padding_by_a_part_is_a_note_with_the_total(mil, linted, conv, serious, noted):
    findings = linted(lambda x: conv(mil.mb.relu(x=conv(x, 512)), 512), (8, 512, 32, 24))
    assert (serious(findings), noted(findings)) == (set(), {"W2"})
    assert "18.0 MB take 24.0 MB" in findings[0].what


def test_turning_rows_between_convolutions_is_a_warning(mil, linted, conv, serious):
    findings = linted(lambda x: conv(mil.mb.transpose(x=conv(x, 512), perm=[0, 3, 2, 1]), 512), FLAT)
    assert serious(findings) == {"W4"}
    assert findings[0].places[0].detail.startswith("from [1, 512, 1, 1024]")
    cut = linted(lambda x: conv(mil.mb.reshape(x=conv(x, 512), shape=(1, 8192, 1, 64)), 512), FLAT)
    assert serious(cut) == {"W4"}


def test_turning_rows_at_the_ends_is_not_reported(mil, linted, conv, serious):
    assert not serious(linted(lambda x: conv(mil.mb.transpose(x=x, perm=[0, 3, 2, 1]), 512), FLAT))
    assert not serious(linted(lambda x: mil.mb.transpose(x=conv(x, 512), perm=[0, 3, 2, 1]), FLAT))


def test_a_feature_map_laid_flat_is_not_reported(mil, linted, conv, serious):
    def build(x):
        flat = conv(mil.mb.reshape(x=conv(x, 512), shape=FLAT), 512)
        return conv(mil.mb.reshape(x=flat, shape=(1, 512, 32, 32)), 512)

    assert not serious(linted(build, (1, 512, 32, 32)))


def test_keys_turned_for_attention_are_not_reported(mil, linted, conv, serious):
    def build(x):
        keys = mil.mb.transpose(x=conv(x, 512), perm=[0, 3, 2, 1])
        heads = []
        for head in (0, 256):
            key = mil.mb.slice_by_index(x=keys, begin=[0, 0, 0, head], end=[1, 1024, 1, head + 256])
            query = mil.mb.slice_by_index(x=x, begin=[0, head, 0, 0], end=[1, head + 256, 1, 1024])
            share = mil.mb.softmax(x=mil.mb.einsum(values=(key, query), equation="bkhc,bchq->bkhq"), axis=1)
            heads.append(mil.mb.einsum(values=(query, share), equation="bchk,bkhq->bchq"))
        return conv(mil.mb.concat(values=heads, axis=1), 512)

    assert not serious(linted(build, FLAT))


@pytest.mark.parametrize(
    ("widths", "axis", "broken"),
    [((1000, 1024), 3, {"W5"}), ((1024, 1000), 3, set()), ((1024, 1024), 1, set())],
)
def test_pieces_joined_within_a_row_are_a_warning(mil, linted, serious, widths, axis, broken):
    shapes = [(1, 512, 1, width) for width in widths]
    assert serious(linted(lambda x, y: mil.mb.concat(values=(x, y), axis=axis), *shapes)) == broken


def test_operations_that_change_nothing_are_reported_by_their_size(mil, linted, serious, noted):
    def build(x):
        return mil.mb.relu(x=mil.mb.transpose(x=mil.mb.reshape(x=x, shape=x.shape), perm=[0, 1, 2, 3]))

    (large,) = (f for f in linted(build, FLAT) if f.rule == "W7" and "reshape" in f.what)
    assert large.level == "warning"
    small = linted(build, (1, 64, 1, 64))
    assert (serious(small), noted(small)) == (set(), {"W7"})
    assert not noted(linted(lambda x: mil.mb.transpose(x=x, perm=[0, 2, 1, 3]), (1, 64, 64, 64)))


WEIGHT = np.ones((64, 64), np.float16)


def hardswish(mil, x):
    """As coremltools spells torch's."""
    cut = mil.mb.thresholded_relu(x=x, alpha=np.float16(-3))
    return mil.mb.mul(x=cut, y=mil.mb.sigmoid_hard(x=cut, alpha=np.float16(1 / 6), beta=np.float16(0.5)))


def clamped(mil, x, shift=3):
    """Return hardswish in small operations, as TensorFlow writes it."""
    gate = mil.mb.relu6(x=mil.mb.add(x=x, y=np.float16(shift)))
    return mil.mb.mul(x=x, y=mil.mb.mul(x=gate, y=np.float16(1 / 6)))


def flat(findings):
    """The levels and places' words of N9."""
    return [(f.level, f.places[0].detail) for f in findings if f.rule == "N9"]


@pytest.mark.parametrize("product", ["linear", "matmul"])
@pytest.mark.parametrize(
    ("activation", "expected"),
    [
        (hardswish, [("warning", "thresholded_relu")]),
        (clamped, [("warning", "relu6")]),
        (
            lambda mil, x: mil.mb.sigmoid_hard(x=x, alpha=np.float16(1), beta=np.float16(0)),
            [("warning", "sigmoid_hard")],
        ),
        (lambda mil, x: mil.mb.silu(x=x), [("note", "silu")]),
        (lambda mil, x: mil.mb.relu(x=x), []),
        (lambda mil, x: mil.mb.relu6(x=x), []),
        (lambda mil, x: clamped(mil, x, shift=1), []),
        (lambda mil, x: mil.mb.square(x=x), []),
    ],
)
def test_a_product_of_rank_2_that_feeds_a_hard_activation_is_a_warning(mil, linted, product, activation, expected):
    def build(x):
        if product == "linear":
            return activation(mil, mil.mb.linear(x=x, weight=WEIGHT))
        return activation(mil, mil.mb.matmul(x=x, y=WEIGHT))

    assert flat(linted(build, (2, 64))) == expected


def test_a_product_of_two_activations_of_rank_2_counts_and_one_of_rank_3_does_not(mil, linted):
    assert flat(linted(lambda x: hardswish(mil, mil.mb.matmul(x=x, y=x)), (64, 64)))
    assert not flat(linted(lambda x: hardswish(mil, mil.mb.linear(x=x, weight=WEIGHT)), (1, 2, 64)))


def test_what_stands_between_a_product_and_its_activation_hides_it_only_at_another_rank(mil, linted):
    mb, bias = mil.mb, np.ones(64, np.float16)

    def through(*steps):
        def build(x):
            y = mb.linear(x=x, weight=WEIGHT)
            for step in steps:
                y = step(y)
            return hardswish(mil, y)

        return flat(linted(build, (2, 64)))

    assert through(
        lambda y: mb.add(x=y, y=bias),
        lambda y: mb.mul(x=y, y=np.float16(2)),
        lambda y: mb.reshape(x=y, shape=(4, 32)),
        lambda y: mb.split(x=y, num_splits=2, axis=1)[1],
    )
    assert not through(lambda y: mb.reshape(x=y, shape=(2, 64, 1, 1)))
    assert not through(lambda y: mb.add(x=y, y=mb.relu(x=y)))
    assert not through(lambda y: mb.square(x=y))


def test_a_product_in_fp32_is_off_the_engine_and_no_flat_product(mil, linted):
    def build(x):
        return hardswish(mil, mil.mb.cast(x=mil.mb.linear(x=x, weight=np.ones((64, 64), np.float32)), dtype="fp16"))

    assert not flat(linted(build, ((2, 64), "fp32")))


@pytest.mark.parametrize(
    ("activation", "level"), [(torch.nn.Hardswish, "warning"), (torch.nn.SiLU, "note"), (torch.nn.ReLU, None)]
)
def test_a_classifier_converted_by_coremltools_is_recognized(mil, tmp_path, activation, level):
    """Return the end of MobileNetV3 with fewer channels, which showed the error, or the same with relu, which did not."""
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(64, 128), activation(), torch.nn.Linear(128, 10)).eval()
    x = torch.zeros(1, 64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = mil.ct.convert(
            torch.jit.trace(module, x),
            inputs=[mil.ct.TensorType(name="x", shape=x.shape)],
            minimum_deployment_target=mil.ct.target.macOS13,
            skip_model_load=True,
        )
        model.save(str(tmp_path / "end.mlpackage"))
    assert [finding[0] for finding in flat(lint_package(tmp_path / "end.mlpackage"))] == ([level] if level else [])
