"""Slices, blocks, windows and shapes, against NumPy, PyTorch and the formulas of coremltools' documentation."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from tests.support.mil_programs import assert_same, run_program

DRAWN = np.random.default_rng(0)
X = DRAWN.standard_normal((2, 3, 4)).astype(np.float32)
IMAGE = DRAWN.standard_normal((4, 8, 4, 6)).astype(np.float32)


def test_slices_step_either_way_count_from_the_end_and_drop_axes(tmp_path):
    def build(mb, x):
        open_ends = {"begin_mask": [True, False, False], "end_mask": [False, True, True]}
        return [
            mb.slice_by_index(x=x, begin=[0, -2, 0], end=[2, 3, -1]),
            mb.slice_by_index(x=x, begin=[0, 2, 3], end=[1, 0, 0], stride=[1, -1, -2], **open_ends),
            mb.slice_by_index(x=x, begin=[-1, 0, 0], end=[0, 3, 4], squeeze_mask=[True, False, False]),
            mb.slice_by_index(x=x, begin=[1, 2, -1], end=[0, 0, 0], squeeze_mask=[True, True, True]),
            mb.slice_by_size(x=x, begin=[0, -2, 1], size=[2, 1, -1]),
            mb.sliding_windows(x=x, axis=2, size=2, stride=2),
        ]

    expected = [
        X[0:2, -2:3, 0:-1],
        X[:1, 2::-1, 3::-2],
        X[-1],
        X[1, 2, -1],
        X[:, 1:2, 1:],
        np.stack([X[:, :, 0:2], X[:, :, 2:4]], 2),
    ]
    assert_same(run_program(tmp_path, "iOS16", {"x": X}, build), expected)


def test_a_slice_is_written_where_it_would_be_read(tmp_path):
    one, row = DRAWN.standard_normal((1, 2, 2)).astype(np.float32), DRAWN.standard_normal(4).astype(np.float32)

    def build(mb, x):
        return [
            mb.slice_update(x=x, update=one, begin=[1, 2, 3], end=[2, 0, 0], stride=[1, -1, -2]),
            mb.slice_update(x=x, update=row, begin=[0, 1, 0], end=[0, 0, 4], squeeze_mask=[True, True, False]),
            mb.identity(x=x),
        ]

    first, second = X.copy(), X.copy()
    first[1:2, 2:0:-1, 3:0:-2] = one
    second[0, 1] = row
    assert_same(run_program(tmp_path, "iOS18", {"x": X}, build), [first, second, X])


def test_padding_reaches_any_axis_in_every_mode(tmp_path):
    sides = [1, 0, 2, 1, 0, 3]
    pairs = [(1, 0), (2, 1), (0, 3)]

    def build(mb, x):
        return [
            mb.pad(x=x, pad=sides, constant_val=0.5),
            mb.pad(x=x, pad=sides, mode="reflect"),
            mb.pad(x=x, pad=sides, mode="replicate"),
            mb.pad(x=x, pad=[1, 2], mode="reflect"),
        ]

    expected = [
        np.pad(X, pairs, constant_values=0.5),
        np.pad(X, pairs, "reflect"),
        np.pad(X, pairs, "edge"),
        np.pad(X, [(0, 0), (0, 0), (1, 2)], "reflect"),
    ]
    assert_same(run_program(tmp_path, "iOS16", {"x": X}, build), expected)


def test_blocks_move_between_pixels_channels_and_batch(tmp_path):
    paddings = np.array([[1, 1], [0, 3]], np.int32)

    def build(mb, x):
        deep = mb.space_to_depth(x=x, block_size=2)
        many = mb.space_to_batch(x=x, block_shape=[2, 3], paddings=paddings)
        return [
            mb.pixel_shuffle(x=x, upscale_factor=2),
            mb.pixel_unshuffle(x=x, downscale_factor=np.uint32(2)),
            mb.depth_to_space(x=x, block_size=2),
            deep,
            mb.depth_to_space(x=deep, block_size=2),
            many,
            mb.batch_to_space(x=many, block_shape=[2, 3], crops=paddings),
        ]

    x = torch.from_numpy(IMAGE)
    padded = np.pad(IMAGE, [(0, 0), (0, 0), (1, 1), (0, 3)])
    expected = [
        F.pixel_shuffle(x, 2),
        F.pixel_unshuffle(x, 2),
        # TensorFlow's order: which pixel of a block is the outer part of the channel's number.
        F.pixel_shuffle(x.reshape(4, 4, 2, 4, 6).transpose(1, 2).reshape(x.shape), 2),
        np.concatenate([IMAGE[..., i::2, j::2] for i in range(2) for j in range(2)], 1),
        IMAGE,
        np.concatenate([padded[..., i::2, j::3] for i in range(2) for j in range(3)], 0),
        IMAGE,
    ]
    assert_same(run_program(tmp_path, "iOS16", {"x": IMAGE}, build), expected)


def test_a_0_in_a_shape_keeps_a_size_counted_from_the_right(tmp_path):
    x = DRAWN.standard_normal((2, 50)).astype(np.float32)

    def build(mb, x):
        return [mb.reshape(x=x, shape=[1, 0, -1, 0]), mb.reshape(x=x, shape=[0, 10, -1])]

    # The first is the documentation's own example; in the second, 0 stands three from the right and x has no such axis.
    assert_same(run_program(tmp_path, "iOS17", {"x": x}, build), [x.reshape(1, 1, 2, 50), x.reshape(1, 10, 10)])


def test_shapes_are_taken_from_other_tensors(tmp_path):
    x = np.arange(180, dtype=np.float32)
    first, second = np.zeros((2, 3, 4), np.float32), np.zeros((1, 5, 6), np.float32)

    def build(mb, x, first, second):
        like = mb.reshape_like(x=x, ref_tensors=[first, second], begins=[0, 1], ends=[2, 0], end_masks=[False, True])
        return [like, mb.shape(x=like), mb.flatten2d(x=like, axis=-1), mb.flatten2d(x=like, axis=1)]

    outputs = run_program(tmp_path, "iOS16", {"x": x, "first": first, "second": second}, build)
    shaped = x.reshape(2, 3, 5, 6)
    assert_same(outputs, [shaped, np.array([2, 3, 5, 6]), x.reshape(30, 6), x.reshape(2, 90)])


def test_sequences_are_reversed_up_to_their_lengths(tmp_path):
    x = np.arange(24, dtype=np.float32).reshape(4, 3, 2)

    def build(mb, x):
        return [
            mb.reverse(x=x, axes=[0, -1]),
            mb.reverse(x=x),
            mb.reverse_sequence(x=x, lengths=[0, 2, 4], seq_axis=0, batch_axis=1),
        ]

    part = x.copy()
    part[:2, 1], part[:4, 2] = x[1::-1, 1], x[3::-1, 2]
    assert_same(run_program(tmp_path, "iOS15", {"x": x}, build), [x[::-1, :, ::-1], x[::-1, ::-1, ::-1], part])
