"""Operators against coremltools' documented semantics: its own NumPy evaluation where it has one, PyTorch's otherwise."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from converter.runtime.ops import OPERATORS


@pytest.fixture(scope="module")
def mb():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from coremltools.converters.mil import Builder

        yield Builder


def held(value):
    if isinstance(value, str):
        return value
    if isinstance(value, list) and isinstance(value[0], np.ndarray):
        return [torch.from_numpy(v) for v in value]
    return torch.from_numpy(np.array(value))


def evaluated(mb, kind, parameters):
    """What coremltools computes for an operation on constants."""
    import coremltools as ct

    result = []

    @mb.program(input_specs=[mb.TensorSpec(shape=(1,))], opset_version=ct.target.iOS16)
    def program(unused):
        plain = {k: bool(v) if isinstance(v, np.bool_) else v for k, v in parameters.items()}
        actual = getattr(mb, kind)(**plain)
        result.extend(actual if isinstance(actual, list | tuple) else [actual])
        return mb.identity(x=unused)

    return [r.val for r in result]


X = np.arange(24, dtype=np.float32).reshape(2, 3, 4) - 7.25
WHOLE = np.arange(24, dtype=np.int32).reshape(2, 3, 4) - 7

CASES = [
    ("add", {"x": X, "y": X[:, :1]}),
    ("sub", {"x": X, "y": np.float32(2)}),
    ("mul", {"x": X, "y": X[0]}),
    ("real_div", {"x": X, "y": np.float32(3)}),
    ("real_div", {"x": WHOLE, "y": np.int32(4)}),
    ("floor_div", {"x": X, "y": np.float32(3)}),
    ("pow", {"x": np.abs(X), "y": np.float32(1.5)}),
    ("maximum", {"x": X, "y": np.float32(0.5)}),
    ("minimum", {"x": X, "y": np.float32(0.5)}),
    ("equal", {"x": WHOLE, "y": np.int32(3)}),
    ("not_equal", {"x": WHOLE, "y": np.int32(3)}),
    ("greater", {"x": X, "y": np.float32(0)}),
    ("greater_equal", {"x": WHOLE, "y": np.int32(0)}),
    ("less", {"x": X, "y": np.float32(0)}),
    ("less_equal", {"x": WHOLE, "y": np.int32(0)}),
    ("abs", {"x": X}),
    ("cos", {"x": X}),
    ("sin", {"x": X}),
    ("exp", {"x": X / 4}),
    ("exp2", {"x": X / 4}),
    ("erf", {"x": X / 4}),
    ("floor", {"x": X}),
    ("sqrt", {"x": np.abs(X)}),
    ("rsqrt", {"x": np.abs(X) + 1}),
    ("log", {"x": np.abs(X) + 1}),
    ("square", {"x": X}),
    ("tanh", {"x": X}),
    ("sigmoid", {"x": X}),
    ("relu", {"x": X}),
    ("clip", {"x": X, "alpha": np.float32(-1), "beta": np.float32(2)}),
    ("leaky_relu", {"x": X, "alpha": np.float32(0.1)}),
    ("logical_not", {"x": WHOLE > 0}),
    ("logical_and", {"x": WHOLE > 0, "y": WHOLE > 4}),
    ("logical_or", {"x": WHOLE > 0, "y": WHOLE > 4}),
    ("cast", {"x": X, "dtype": "int32"}),
    ("cast", {"x": WHOLE, "dtype": "fp32"}),
    ("cast", {"x": X, "dtype": "bool"}),
    ("select", {"cond": X > 0, "a": X, "b": -X}),
    ("gelu", {"x": X, "mode": "EXACT"}),
    ("gelu", {"x": X, "mode": "TANH_APPROXIMATION"}),
    ("gelu", {"x": X, "mode": "SIGMOID_APPROXIMATION"}),
    ("acos", {"x": X / 20}),
    ("asin", {"x": X / 20}),
    ("atan", {"x": X}),
    ("atanh", {"x": X / 20}),
    ("ceil", {"x": X}),
    ("cosh", {"x": X / 4}),
    ("sinh", {"x": X / 4}),
    ("tan", {"x": X / 10}),
    ("round", {"x": np.float32([-2.5, -1.5, -0.5, 0.5, 1.5, 1.6])}),
    ("sign", {"x": X.round()}),
    ("inverse", {"x": np.abs(X) + 1}),
    ("inverse", {"x": X, "epsilon": np.float32(0.1)}),
    ("threshold", {"x": X, "alpha": np.float32(0.5)}),
    ("mod", {"x": WHOLE, "y": np.int32(4)}),
    ("mod", {"x": X, "y": np.float32(-3)}),
    ("floor_div", {"x": WHOLE, "y": np.int32(4)}),
    ("abs", {"x": WHOLE}),
    ("square", {"x": WHOLE}),
    ("logical_xor", {"x": WHOLE > 0, "y": WHOLE > 4}),
    ("relu6", {"x": X}),
    ("clamped_relu", {"x": X, "alpha": np.float32(0.1), "beta": np.float32(3)}),
    ("elu", {"x": X, "alpha": np.float32(0.5)}),
    ("linear_activation", {"x": X, "alpha": np.float32(0.5), "beta": np.float32(3)}),
    ("prelu", {"x": X, "alpha": np.float32([0.5, 0.5, 0.5])}),
    ("prelu", {"x": X[..., None], "alpha": np.float32([0.5, -1, 2])}),
    ("scaled_tanh", {"x": X, "alpha": np.float32(0.5), "beta": np.float32(0.3)}),
    ("sigmoid_hard", {"x": X, "alpha": np.float32(0.2), "beta": np.float32(0.4)}),
    ("softmax", {"x": X, "axis": np.int32(1)}),
    ("softplus", {"x": X * 5}),
    ("softplus_parametric", {"x": X, "alpha": np.float32([1, 2, 3]), "beta": np.float32([0.5, 1, 2])}),
    ("softsign", {"x": X}),
    ("thresholded_relu", {"x": X, "alpha": np.float32(0.5)}),
    ("reduce_l1_norm", {"x": X, "axes": np.array([0, 1], np.int32), "keep_dims": np.True_}),
    ("reduce_log_sum", {"x": np.abs(X), "axes": np.array([1], np.int32), "keep_dims": np.False_}),
    ("reduce_log_sum_exp", {"x": X, "axes": np.array([1], np.int32), "keep_dims": np.False_}),
    ("reduce_prod", {"x": X / 4, "axes": np.array([0, 2], np.int32), "keep_dims": np.False_}),
    ("reduce_sum", {"x": WHOLE, "axes": np.array([0], np.int32), "keep_dims": np.False_}),
    ("reduce_mean", {"x": WHOLE, "axes": np.array([1], np.int32), "keep_dims": np.True_}),
    ("reduce_max", {"x": WHOLE, "axes": np.array([0, 1, 2], np.int32), "keep_dims": np.False_}),
    ("reshape", {"x": X, "shape": np.array([4, -1], np.int32)}),
    ("transpose", {"x": X, "perm": np.array([0, -1, -2], np.int32)}),
    ("expand_dims", {"x": X, "axes": np.array([0, -1], np.int32)}),
    ("squeeze", {"x": X[None], "axes": np.array([0], np.int32)}),
    ("concat", {"values": [X, X], "axis": np.int32(-1), "interleave": np.False_}),
    ("stack", {"values": [X, X], "axis": np.int32(1)}),
    ("split", {"x": X, "split_sizes": np.array([1, 3], np.int32), "axis": np.int32(2)}),
    ("split", {"x": X, "num_splits": np.int32(2), "axis": np.int32(-1)}),
    ("tile", {"x": X, "reps": np.array([1, 2, 3], np.int32)}),
    ("slice_by_size", {"x": X, "begin": np.array([0, 1, 1], np.int32), "size": np.array([2, 1, -1], np.int32)}),
    (
        "slice_by_index",
        {"x": X, "begin": np.array([0, -2, 0], np.int32), "end": np.array([2, 3, -1], np.int32)},
    ),
    (
        "slice_by_index",
        {
            "x": X,
            "begin": np.array([1, 0, 9], np.int32),
            "end": np.array([0, 0, 9], np.int32),
            "stride": np.array([1, 2, -1], np.int32),
            "begin_mask": np.array([False, True, True]),
            "end_mask": np.array([False, True, True]),
            "squeeze_mask": np.array([True, False, False]),
        },
    ),
    ("reduce_mean", {"x": X, "axes": np.array([1, -1], np.int32), "keep_dims": np.True_}),
    ("reduce_sum", {"x": X, "axes": np.array([0], np.int32), "keep_dims": np.False_}),
    ("reduce_max", {"x": X, "axes": np.array([2], np.int32), "keep_dims": np.True_}),
    ("reduce_min", {"x": X, "axes": np.array([2], np.int32), "keep_dims": np.False_}),
    ("reduce_l2_norm", {"x": X, "axes": np.array([1], np.int32), "keep_dims": np.True_}),
    ("reduce_sum_square", {"x": X, "axes": np.array([1], np.int32), "keep_dims": np.True_}),
    ("reduce_argmax", {"x": np.float32([[1, 5, 5], [7, 7, 0]]), "axis": np.int32(-1), "keep_dims": np.False_}),
    ("reduce_argmin", {"x": np.float32([[3, 1, 1], [0, 7, 0]]), "axis": np.int32(1), "keep_dims": np.True_}),
    ("gather", {"x": X, "indices": np.array([[0, 2], [1, 1]], np.int32), "axis": np.int32(1)}),
    ("gather", {"x": X, "indices": np.array([-1, 0], np.int32), "axis": np.int32(-1)}),
    (
        "gather",
        {"x": X, "indices": np.array([[0, 2], [1, 1]], np.int32), "axis": np.int32(1), "batch_dims": np.int32(1)},
    ),
    (
        "gather_along_axis",
        {"x": X, "indices": np.array([[[0, 1, 0, 1]], [[1, 0, 2, 0]]], np.int32), "axis": np.int32(1)},
    ),
    ("gather_nd", {"x": X, "indices": np.array([[0, 2], [1, 1]], np.int32)}),
    ("gather_nd", {"x": X, "indices": np.array([[[2]], [[1]]], np.int32), "batch_dims": np.int32(1)}),
]
#: coremltools types these but does not evaluate them, or wrongly; NumPy says the same.
BY_HAND = {
    "reduce_l2_norm": lambda p: [np.sqrt((p["x"] ** 2).sum(1, keepdims=True))],
    "leaky_relu": lambda p: [np.where(p["x"] >= 0, p["x"], p["x"] * p["alpha"])],
    "erf": lambda p: [torch.erf(torch.from_numpy(p["x"])).numpy()],
    "gather_nd": lambda p: [p["x"][[0, 1], [2, 1]].reshape(-1, *([1] if "batch_dims" in p else []), 4)],
    "relu": lambda p: [np.maximum(p["x"], 0)],
}


@pytest.mark.parametrize(("kind", "parameters"), CASES, ids=[f"{k}-{i}" for i, (k, _) in enumerate(CASES)])
def test_an_operator_computes_what_coremltools_computes(mb, kind, parameters):
    expected = evaluated(mb, kind, parameters)
    if any(e is None for e in expected):
        expected = BY_HAND[kind](parameters) if kind in BY_HAND else pytest.fail(f"no reference for {kind}")
    actual = OPERATORS[kind](**{name: held(value) for name, value in parameters.items()})
    actual = actual if isinstance(actual, list) else [actual]
    for ours, theirs in zip(actual, expected, strict=True):
        assert tuple(ours.shape) == np.shape(theirs)
        np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-5, atol=1e-6)


def test_interleaved_tensors_alternate():
    # The example of coremltools' documentation; its own evaluation of constants forgets the flag.
    a, b = torch.tensor([[1, 2], [3, 4], [5, 6]]), torch.tensor([[7, 8], [9, 10], [11, 12]])
    actual = OPERATORS["concat"]([a, b], torch.tensor(0), torch.tensor(True))
    assert actual.tolist() == [[1, 2], [7, 8], [3, 4], [9, 10], [5, 6], [11, 12]]
