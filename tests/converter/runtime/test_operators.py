"""Operators against coremltools' documented semantics: its own NumPy evaluation where it has one, PyTorch's otherwise."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F

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
        found = getattr(mb, kind)(**plain)
        result.extend(found if isinstance(found, list | tuple) else [found])
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
#: coremltools types these but does not evaluate them; NumPy says the same.
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
    found = OPERATORS[kind](**{name: held(value) for name, value in parameters.items()})
    found = found if isinstance(found, list) else [found]
    for ours, theirs in zip(found, expected, strict=True):
        assert tuple(ours.shape) == np.shape(theirs)
        np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-5, atol=1e-6)


def numbers(*values):
    return torch.tensor(values, dtype=torch.int32)


@pytest.mark.parametrize("kind", ["valid", "custom", "uneven", "same"])
def test_convolution_pads_as_it_is_told(kind):
    x, w, b = torch.randn(1, 4, 9, 7), torch.randn(6, 2, 3, 3), torch.randn(6)
    common = {
        "x": x,
        "weight": w,
        "bias": b,
        "strides": numbers(2, 1),
        "dilations": numbers(1, 1),
        "groups": numbers(2),
    }
    common["groups"] = torch.tensor(2)
    if kind == "valid":
        found, expected = OPERATORS["conv"](**common, pad_type="valid"), F.conv2d(x, w, b, (2, 1), 0, 1, 2)
    elif kind == "custom":
        found = OPERATORS["conv"](**common, pad_type="custom", pad=numbers(1, 1, 2, 2))
        expected = F.conv2d(x, w, b, (2, 1), (1, 2), 1, 2)
    elif kind == "uneven":
        found = OPERATORS["conv"](**common, pad_type="custom", pad=numbers(0, 1, 2, 0))
        expected = F.conv2d(F.pad(x, (2, 0, 0, 1)), w, b, (2, 1), 0, 1, 2)
    else:
        found = OPERATORS["conv"](**common, pad_type="same")
        assert found.shape[2:] == (5, 7)
        expected = F.conv2d(F.pad(x, (1, 1, 1, 1)), w, b, (2, 1), 0, 1, 2)
    torch.testing.assert_close(found, expected)


def test_layer_norm_takes_any_axis():
    x, gamma, beta = torch.randn(2, 6, 1, 5), torch.randn(6), torch.randn(6)
    found = OPERATORS["layer_norm"](x, axes=numbers(1), gamma=gamma, beta=beta, epsilon=torch.tensor(1e-5))
    expected = F.layer_norm(x.permute(0, 2, 3, 1), (6,), gamma, beta, 1e-5).permute(0, 3, 1, 2)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("equation", ["bkhc,bchq->bkhq", "bchk,bkhq->bchq"])
def test_the_neural_engines_einsums_are_einsums(equation):
    sizes = {"b": 2, "k": 5, "h": 1, "c": 3, "q": 4}
    a, b = (torch.randn([sizes[i] for i in side]) for side in equation.split("->")[0].split(","))
    torch.testing.assert_close(OPERATORS["einsum"]([a, b], equation), torch.einsum(equation, a, b))


def test_interleaved_tensors_alternate():
    # The example of coremltools' documentation; its own evaluation of constants forgets the flag.
    a, b = torch.tensor([[1, 2], [3, 4], [5, 6]]), torch.tensor([[7, 8], [9, 10], [11, 12]])
    found = OPERATORS["concat"]([a, b], torch.tensor(0), torch.tensor(True))
    assert found.tolist() == [[1, 2], [7, 8], [3, 4], [9, 10], [5, 6], [11, 12]]


def test_matrix_products_transpose_either_side():
    x, y = torch.randn(2, 3, 4), torch.randn(2, 5, 4)
    torch.testing.assert_close(
        OPERATORS["matmul"](x, y, torch.tensor(False), torch.tensor(True)), x @ y.transpose(1, 2)
    )


@pytest.mark.parametrize("mode", ["constant", "reflect", "replicate"])
def test_padding_is_by_axis_from_the_first(mode):
    x = torch.arange(12.0).reshape(1, 3, 4)
    found = OPERATORS["pad"](x, numbers(0, 0, 1, 0, 2, 1), mode, torch.tensor(0.5))
    kind = {"constant": "constant", "reflect": "reflect", "replicate": "edge"}[mode]
    extra = {"constant_values": 0.5} if mode == "constant" else {}
    np.testing.assert_array_equal(found.numpy(), np.pad(x.numpy(), ((0, 0), (1, 0), (2, 1)), kind, **extra))
