"""Gathering, scattering, sorting and counting, against NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support.mil_programs import assert_same, run_program

DRAWN = np.random.default_rng(0)
X = DRAWN.standard_normal((3, 4, 5)).astype(np.float32)
UFUNCS = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "max": np.maximum,
    "min": np.minimum,
}


def scattered(mode, data, where, updates):
    """NumPy's answer for places that may repeat."""
    actual = data.copy()
    if mode == "update":
        actual[where] = updates
    else:
        UFUNCS[mode].at(actual, where, updates)
    return actual


@pytest.mark.parametrize("mode", ["update", *UFUNCS])
def test_values_are_scattered_by_every_rule_onto_places_that_may_repeat(tmp_path, mode):
    repeat = mode != "update"
    rows = np.array([2, 0, 2 if repeat else 1], np.int32)
    along = np.stack([rows] * 5)[None].transpose(0, 2, 1).repeat(3, 0)
    places = np.array([[0, 1], [2, -1], [0, 1] if repeat else [1, 1]], np.int32)
    wide, deep = (DRAWN.uniform(1, 2, s).astype(np.float32) for s in ((3, 3, 5), (3, 5)))

    def build(mb, x):
        return [
            mb.scatter(data=x, indices=rows, updates=wide, axis=1, mode=mode),
            mb.scatter_along_axis(data=x, indices=along, updates=wide, axis=-2, mode=mode),
            mb.scatter_nd(data=x, indices=places, updates=deep, mode=mode),
        ]

    i, j, k = np.indices((3, 3, 5))
    expected = [
        scattered(mode, X, (i, rows[j], k), wide),
        scattered(mode, X, (i, along, k), wide),
        scattered(mode, X, (places[:, 0], places[:, 1]), deep),
    ]
    assert_same(run_program(tmp_path, "iOS16", {"x": X}, build), expected)


def test_values_are_gathered_by_axis_place_and_batch(tmp_path):
    def build(mb, x):
        return [
            mb.gather(x=x, indices=[[0, 3], [1, 1]], axis=1),
            mb.gather(x=x, indices=[-1, 0], axis=-1),
            mb.gather(x=x, indices=np.int32(2), axis=0),
            mb.gather(x=x, indices=[[0, 2], [1, 1], [3, 0]], axis=1, batch_dims=1),
            mb.gather_along_axis(x=x, indices=np.argsort(X, 1).astype(np.int32), axis=1),
            mb.gather_nd(x=x, indices=[[0, 2], [2, -1]]),
            mb.gather_nd(x=x, indices=[[[2]], [[1]], [[0]]], batch_dims=1),
        ]

    expected = [
        X[:, [[0, 3], [1, 1]]],
        X[..., [-1, 0]],
        X[2],
        X[np.arange(3)[:, None], [[0, 2], [1, 1], [3, 0]]],
        np.sort(X, 1),
        X[[0, 2], [2, -1]],
        X[np.arange(3), [2, 1, 0]][:, None],
    ]
    assert_same(run_program(tmp_path, "iOS16", {"x": X}, build), expected)


def test_of_equal_values_the_first_comes_first(tmp_path):
    x = np.array([[3, 1, 3, 2, 1]], np.float32)

    def build(mb, x):
        return [
            mb.argsort(x=x, axis=1),
            mb.argsort(x=x, axis=-1, ascending=True),
            *mb.topk(x=x, k=3, axis=1),
            *mb.topk(x=x, k=2, axis=-1, ascending=True),
            mb.topk(x=x, k=1, return_indices=False),
            mb.reduce_argmax(x=x, axis=1),
            mb.reduce_argmin(x=x, axis=1, keep_dims=True),
        ]

    expected = [
        [[0, 2, 3, 1, 4]],
        [[1, 4, 3, 0, 2]],
        [[3, 3, 2]],
        [[0, 2, 3]],
        [[1, 1]],
        [[1, 4]],
        [[3]],
        [0],
        [[1]],
    ]
    assert_same(run_program(tmp_path, "iOS16", {"x": x}, build), expected)


def test_sums_run_along_an_axis_either_way_with_or_without_their_own_element(tmp_path):
    def build(mb, x, whole):
        return [
            mb.cumsum(x=x, axis=1),
            mb.cumsum(x=x, axis=1, exclusive=True),
            mb.cumsum(x=x, axis=-1, reverse=True),
            mb.cumsum(x=x, axis=2, reverse=True, exclusive=True),
            mb.cumsum(x=whole),
        ]

    backwards = np.flip(np.flip(X, 2).cumsum(2), 2)
    whole = np.arange(6, dtype=np.int32).reshape(3, 2)
    expected = [X.cumsum(1), X.cumsum(1) - X, backwards, backwards - X, whole.cumsum(0)]
    assert_same(run_program(tmp_path, "iOS15", {"x": X, "whole": whole}, build), expected)


def test_tensors_are_made_of_shapes_numbers_and_positions(tmp_path):
    labels, sparse = np.array([[1, 0], [2, -1]], np.int32), np.array([[0, 2, 0], [1, 0, 3]], np.float32)

    def build(mb, labels, sparse):
        return [
            mb.fill(shape=mb.shape(x=sparse), value=2.5),
            mb.fill_like(ref_tensor=labels, value=np.int32(3)),
            mb.range_1d(start=mb.reduce_max(x=labels, axes=[0, 1]), end=11, step=3),
            mb.range_1d(start=1.0, end=mb.reduce_max(x=sparse, axes=[0, 1]), step=0.5),
            mb.one_hot(indices=labels, one_hot_vector_size=3, on_value=5.0, off_value=-1.0),
            mb.one_hot(indices=labels, one_hot_vector_size=3, axis=0),
            mb.non_zero(x=sparse),
            mb.band_part(x=sparse, lower=0, upper=-1),
            mb.band_part(x=sparse, lower=1, upper=0),
        ]

    hot = np.where(labels[..., None] == np.arange(3), 1, 0)
    expected = [
        np.full((2, 3), 2.5),
        np.full((2, 2), 3),
        [2, 5, 8],
        [1.0, 1.5, 2.0, 2.5],
        hot * 6.0 - 1,
        np.moveaxis(hot, -1, 0),
        np.argwhere(sparse),
        np.triu(sparse),
        np.tril(sparse),
    ]
    assert_same(run_program(tmp_path, "iOS16", {"labels": labels, "sparse": sparse}, build), expected)


def test_overlapping_boxes_are_dropped_unless_of_another_class(tmp_path):
    # The second box covers the first; the third is apart; the fourth scores too little.
    boxes = np.array([[[0, 0, 2, 2], [0.2, 0, 2, 2], [9, 9, 1, 1], [20, 20, 1, 1]]], np.float32)
    scores = np.array([[[0.9, 0.1], [0.2, 0.8], [0.7, 0.3], [0.1, 0.2]]], np.float32)

    def build(mb, boxes, scores):
        given = {"boxes": boxes, "scores": scores, "iou_threshold": 0.5, "score_threshold": 0.4, "max_boxes": 3}
        return [*mb.non_maximum_suppression(**given), *mb.non_maximum_suppression(**given, per_class_suppression=True)]

    outputs = run_program(tmp_path, "iOS16", {"boxes": boxes, "scores": scores}, build)
    first = np.concatenate([boxes[:, [0, 2]], np.zeros((1, 1, 4))], 1)
    rated = np.concatenate([scores[:, [0, 2]], np.zeros((1, 1, 2))], 1)
    all_three = [boxes[:, [0, 1, 2]], scores[:, [0, 1, 2]], [[0, 1, 2]], [3]]
    assert_same(outputs, [first, rated, [[0, 2, -1]], [2], *all_three])


def test_from_ios17_on_boxes_come_last(tmp_path):
    boxes = np.array([[[0, 0.2, 9], [0, 0, 9], [2, 2, 1], [2, 2, 1]]], np.float32)
    scores = np.array([[[0.3, 0.8, 0.7]]], np.float32)

    def build(mb, boxes, scores):
        return list(mb.non_maximum_suppression(boxes=boxes, scores=scores, iou_threshold=0.5, max_boxes=2))

    outputs = run_program(tmp_path, "iOS17", {"boxes": boxes, "scores": scores}, build)
    assert_same(outputs, [boxes[..., [1, 2]], scores[..., [1, 2]], [[1, 2]]])
