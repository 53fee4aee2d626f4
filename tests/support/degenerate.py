"""Cases of every operator: scalars, empty arrays, axes of one element, ranks 0 to 5; with NumPy's results."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np

from tests.support.raw_programs import Operation

DRAWN = np.random.default_rng(3)
SHAPES = [(), (1,), (0,), (3,), (2, 0), (1, 1), (2, 3), (1, 3, 1), (2, 1, 3, 2), (1, 2, 0, 1, 2), (2, 1, 2, 1, 3)]
#: Shapes of two operands.
PAIRS = [
    ((), ()),
    ((3,), ()),
    ((), (2, 3)),
    ((0,), (1,)),
    ((2, 0), ()),
    ((2, 1), (1, 3)),
    ((1, 1, 1, 1, 1), (3,)),
    ((2, 1, 2, 1, 3), (2, 1, 1)),
]
#: Parameters that are inputs of the program; all others are constants.
FED = frozenset(
    {"x", "y", "a", "b", "data", "updates", "values", "query", "key", "value", "input", "boxes", "scores", "update"}
    | {"ref_tensor", "ref_tensors"}
)


def drawn(shape: tuple[int, ...], low: float = 0.25, high: float = 0.9) -> np.ndarray:
    """Return random numbers that fp16 can represent."""
    return np.array(DRAWN.uniform(low, high, shape)).astype(np.float16).astype(np.float32)


def whole(shape: tuple[int, ...], low: int = -4, high: int = 5) -> np.ndarray:
    return np.array(DRAWN.integers(low, high, shape), np.int32)


def ints(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int32)


def f(number: Any) -> np.ndarray:
    return np.array(number, np.float32)


def i(number: int) -> np.ndarray:
    return np.array(number, np.int32)


def case(kind: str, results: Any, fed: frozenset[str] = FED, **parameters: Any) -> Operation:
    """Return an operation with its results; a single result need not be a list."""
    arrays = [np.asarray(r) for r in (results if isinstance(results, list) else [results])]
    return Operation(kind, parameters, arrays, fed)


def _erf(x: np.ndarray) -> np.ndarray:
    return np.asarray(np.vectorize(math.erf, otypes=[np.float32])(x))


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-x)))


UNARY: dict[str, tuple[Any, dict[str, Any]]] = {
    "abs": (np.abs, {}),
    "acos": (np.arccos, {}),
    "asin": (np.arcsin, {}),
    "atan": (np.arctan, {}),
    "atanh": (np.arctanh, {}),
    "cast": (lambda x: x.astype(np.int32), {"dtype": "int32"}),
    "ceil": (np.ceil, {}),
    "clamped_relu": (lambda x: np.minimum(x, 0.5), {"alpha": f(0.5), "beta": f(0.5)}),
    "clip": (lambda x: np.clip(x, 0.3, 0.5), {"alpha": f(0.3), "beta": f(0.5)}),
    "cos": (np.cos, {}),
    "cosh": (np.cosh, {}),
    "elu": (lambda x: x, {"alpha": f(0.5)}),
    "erf": (_erf, {}),
    "exp": (np.exp, {}),
    "exp2": (np.exp2, {}),
    "floor": (np.floor, {}),
    "gelu": (lambda x: x * (1 + _erf(x / math.sqrt(2))) / 2, {"mode": "EXACT"}),
    "identity": (lambda x: x, {}),
    "inverse": (lambda x: 1 / (x + 0.5), {"epsilon": f(0.5)}),
    "leaky_relu": (lambda x: x, {"alpha": f(0.5)}),
    "linear_activation": (lambda x: 2 * x + 1, {"alpha": f(2), "beta": f(1)}),
    "log": (np.log, {}),
    "relu": (lambda x: np.maximum(x, 0), {}),
    "relu6": (lambda x: np.clip(x, 0, 6), {}),
    "round": (np.round, {}),
    "rsqrt": (lambda x: 1 / np.sqrt(x), {}),
    "scaled_tanh": (lambda x: 2 * np.tanh(x * 0.5), {"alpha": f(2), "beta": f(0.5)}),
    "sigmoid": (_sigmoid, {}),
    "sigmoid_hard": (lambda x: np.clip(0.5 * x + 0.25, 0, 1), {"alpha": f(0.5), "beta": f(0.25)}),
    "sign": (np.sign, {}),
    "silu": (lambda x: x * _sigmoid(x), {}),
    "sin": (np.sin, {}),
    "sinh": (np.sinh, {}),
    "softplus": (lambda x: np.log1p(np.exp(x)), {}),
    "softsign": (lambda x: x / (1 + np.abs(x)), {}),
    "sqrt": (np.sqrt, {}),
    "square": (np.square, {}),
    "tan": (np.tan, {}),
    "tanh": (np.tanh, {}),
    "threshold": (lambda x: np.maximum(x, 0.5), {"alpha": f(0.5)}),
    "thresholded_relu": (lambda x: np.where(x >= 0.5, x, 0), {"alpha": f(0.5)}),
}
BINARY: dict[str, Any] = {
    "add": np.add,
    "equal": np.equal,
    "floor_div": np.floor_divide,
    "greater": np.greater,
    "greater_equal": np.greater_equal,
    "less": np.less,
    "less_equal": np.less_equal,
    "maximum": np.maximum,
    "minimum": np.minimum,
    "mod": np.mod,
    "mul": np.multiply,
    "not_equal": np.not_equal,
    "pow": np.power,
    "real_div": np.divide,
    "sub": np.subtract,
}
LOGICAL = {"logical_and": np.logical_and, "logical_or": np.logical_or, "logical_xor": np.logical_xor}
REDUCE: dict[str, Any] = {
    "reduce_l1_norm": lambda x, **at: np.abs(x).sum(**at),
    "reduce_l2_norm": lambda x, **at: np.sqrt(np.square(x).sum(**at)),
    "reduce_log_sum": lambda x, **at: np.log(x.sum(**at)),
    "reduce_log_sum_exp": lambda x, **at: np.log(np.exp(x).sum(**at)),
    "reduce_max": lambda x, **at: x.max(**at),
    "reduce_mean": lambda x, **at: x.mean(**at),
    "reduce_min": lambda x, **at: x.min(**at),
    "reduce_prod": lambda x, **at: x.prod(**at),
    "reduce_sum": lambda x, **at: x.sum(**at),
    "reduce_sum_square": lambda x, **at: np.square(x).sum(**at),
}
FROM_RANK_1 = [s for s in SHAPES if s]
FROM_RANK_2 = [s for s in SHAPES if len(s) > 1]
#: Batches of images with one pixel or one row, and an empty batch.
IMAGES = [(1, 4, 1, 1), (0, 4, 2, 2), (2, 4, 1, 3)]


def _unary() -> list[Operation]:
    return [
        case(kind, np.asarray(compute(x)), x=x, **more)
        for kind, (compute, more) in UNARY.items()
        for x in map(drawn, SHAPES)
    ]


def _binary() -> list[Operation]:
    cases = []
    for a, b in PAIRS:
        x, y = drawn(a), drawn(b)
        cases += [case(kind, compute(x, y), x=x, y=y) for kind, compute in BINARY.items()]
        p, q = x > 0.5, y > 0.5
        cases += [case(kind, compute(p, q), x=p, y=q) for kind, compute in LOGICAL.items()]
        cases += [case("select", np.where(p, x, y), cond=p, a=x, b=np.broadcast_to(y, np.broadcast_shapes(a, b)))]
    return cases + [case("logical_not", ~(x > 0.5), x=x > 0.5) for x in map(drawn, SHAPES)]


def _reduce() -> list[Operation]:
    cases = []
    for kind, compute in REDUCE.items():
        for x in map(drawn, SHAPES):
            if kind not in ("reduce_max", "reduce_min") or x.size:
                cases += [case(kind, compute(x), x=x)]
                cases += [case(kind, compute(x, keepdims=True), x=x, keep_dims=np.True_)]
            cases += [case(kind, compute(x, axis=()), x=x, axes=ints())]
            if x.ndim and (kind not in ("reduce_max", "reduce_min") or x.shape[-1]):
                cases += [case(kind, compute(x, axis=-1), x=x, axes=ints(-1), keep_dims=np.False_)]
    for x in map(drawn, FROM_RANK_1):
        if x.size:
            cases += [
                case("reduce_argmax", x.argmax(-1), x=x, axis=i(-1)),
                case("reduce_argmin", x.argmin(0), x=x, axis=i(0)),
            ]
            cases += [case("reduce_argmax", x.argmax(0, keepdims=True), x=x, axis=i(0), keep_dims=np.True_)]
    return cases


def _shapes() -> list[Operation]:
    cases = []
    for x in map(drawn, SHAPES):
        n = x.ndim
        perm = list(range(n))[::-1]
        cases += [
            case("shape", np.array(x.shape, np.int32), x=x),
            case("reshape", x.reshape(x.size), x=x, shape=ints(-1), fed=frozenset("x")),
            case("reshape", x.reshape(*x.shape, 1), x=x, shape=ints(*x.shape, 1), fed=frozenset("x"))
            if x.size
            else case("reshape", x, x=x, shape=ints(*[0] * n), fed=frozenset("x")),
            case("reshape_like", x, x=x, ref_tensors=[x], begins=[i(0)], ends=[i(0)], end_masks=[np.True_]),
            case("transpose", x.transpose(perm), x=x, perm=ints(*perm)),
            case("transpose", x.transpose(perm), x=x, perm=ints(*[d - n for d in perm])),
            case("expand_dims", x[..., None], x=x, axes=ints(-1)),
            case("expand_dims", x[None], x=x, axes=ints(0)),
            case("squeeze", np.squeeze(x), x=x),
            case("squeeze", x, x=x[None], axes=ints(0)),
            case("squeeze", x, x=x[..., None], axes=ints(-1)),
            case("concat", np.concatenate([x, x], -1) if n else np.stack([x, x]), values=[x, x], axis=i(-1 if n else 0)),
            case("concat", np.atleast_1d(x), values=[x], axis=i(0)),
            case("stack", np.stack([x, x], -1), values=[x, x], axis=i(-1)),
            case("stack", np.stack([x]), values=[x], axis=i(0)),
            case("tile", np.tile(x, [2] * n), x=x, reps=ints(*[2] * n)),
            case("reverse", np.flip(x), x=x),
            case("reverse", x, x=x, axes=ints()),
            case("fill_like", np.full_like(x, 3), ref_tensor=x, value=f(3)),
            case("fill", np.full(x.shape, 3, np.float32), shape=ints(*x.shape), value=f(3), fed=frozenset()),
            case("non_zero", np.argwhere(x).astype(np.int32), x=x),
            case("slice_by_index", x, x=x, begin=ints(*[0] * n), end=ints(*x.shape)),
            case("slice_by_index", x[(slice(None, None, -1),) * n], x=x, begin=ints(*[-1] * n), end=ints(*[0] * n),
                 stride=ints(*[-1] * n), begin_mask=np.ones(n, bool), end_mask=np.ones(n, bool)),
            case("slice_by_index", x[(slice(1, 1),) * n], x=x, begin=ints(*[1] * n), end=ints(*[1] * n)),
            case("slice_by_size", x, x=x, begin=ints(*[0] * n), size=ints(*[-1] * n)),
            case("slice_by_size", x[(slice(0, 0),) * n], x=x, begin=ints(*[0] * n), size=ints(*[0] * n)),
            case("pad", np.pad(x, [(1, 0)] * n, constant_values=2) if n else x, x=x, pad=ints(*[1, 0] * n),
                 mode="constant", constant_val=f(2)),
            case("one_hot", (whole(x.shape, 0, 2)[..., None] * 0 == np.arange(2)).astype(np.int32),
                 indices=np.zeros(x.shape, np.int32), one_hot_vector_size=i(2)),
            case("flatten2d", x.reshape(1, x.size), x=x, axis=i(0)),
            case("dequantize", np.full(x.shape, 2.5, np.float32), input=np.full(x.shape, 7, np.int8), scale=f(0.5),
                 zero_point=np.array(2, np.int8)),
            case("quantize", np.clip(np.round(x / 0.5), -128, 127).astype(np.int8), input=x, scale=f(0.5),
                 output_dtype="int8"),
            case("const", x, val=x, fed=frozenset()),
        ]  # fmt: skip
        if n:
            cases += [
                case("slice_by_index", x[(0,) * n], x=x, begin=ints(*[0] * n), end=ints(*[1] * n),
                     squeeze_mask=np.ones(n, bool)),
                case("slice_update", np.ones_like(x), x=x, update=np.ones_like(x), begin=ints(*[0] * n),
                     end=ints(*x.shape)),
                case("split", [x, x[..., :0]], x=x, axis=i(-1), split_sizes=ints(x.shape[-1], 0)),
                case("split", [x], x=x, axis=i(0), num_splits=i(1)),
            ] if x.size else []  # fmt: skip
            cases += [case("flatten2d", x.reshape(-1, x.shape[-1]) if x.size else x.reshape(
                math.prod(x.shape[:-1]), x.shape[-1]), x=x, axis=i(-1))]  # fmt: skip
    for shape in ((), (2, 3)):
        cases += [
            case(
                "random_uniform",
                np.full(shape, 2, np.float32),
                shape=ints(*shape),
                low=f(2),
                high=f(2),
                fed=frozenset(),
            )
        ]
        cases += [
            case(
                "random_normal",
                np.full(shape, 2, np.float32),
                shape=ints(*shape),
                mean=f(2),
                stddev=f(0),
                fed=frozenset(),
            )
        ]
        cases += [case("random_bernoulli", np.ones(shape, np.float32), shape=ints(*shape), prob=f(1), fed=frozenset())]
    cases += [case("random_uniform", np.zeros((0, 2), np.float32), shape=ints(0, 2), fed=frozenset())]
    cases += [
        case("random_categorical", np.zeros((*s[:-1], 2), np.float32), x=drawn((*s[:-1], 1)), size=i(2))
        for s in FROM_RANK_1
    ]
    cases += [case("range_1d", np.arange(a, b, c, np.int32), start=i(a), end=i(b), step=i(c)) for a, b, c in
              ((0, 0, 1), (0, 1, 1), (3, 0, -1), (0, 5, 2))]  # fmt: skip
    cases += [case("range_1d", np.arange(0, 1, 0.5, np.float32), start=f(0), end=f(1), step=f(0.5))]
    return cases


def _ordered() -> list[Operation]:
    cases = []
    for x in map(drawn, FROM_RANK_1):
        order = np.argsort(x, -1, kind="stable").astype(np.int32)
        exclusive = np.cumsum(x, 0) - x
        exponent = np.exp(x)
        probs = exponent / exponent.sum(-1, keepdims=True)
        cases += [
            case("argsort", order, x=x, axis=i(-1), ascending=np.True_),
            case("cumsum", np.cumsum(x, 0), x=x, axis=i(0)),
            case("cumsum", exclusive, x=x, axis=i(-x.ndim), exclusive=np.True_),
            case("topk", [np.sort(x, -1), order], x=x, k=i(-1), axis=i(-1), ascending=np.True_),
            case("topk", [x[..., :0], order[..., :0]], x=x, k=i(0), axis=i(-1)),
            case("softmax", probs, x=x, axis=i(-1)),
            case("sliding_windows", x[..., None], x=x, axis=i(-1), size=i(1)),
            case("gather_along_axis", np.sort(x, -1), x=x, indices=order, axis=i(-1)),
            case("scatter_along_axis", np.zeros_like(x), data=x, indices=order, updates=np.zeros_like(x), axis=i(-1),
                 mode="update"),
            case("gather", x[..., :0], x=x, indices=ints(), axis=i(-1)),
            case("scatter", x, data=x, indices=ints(), updates=x[:0], axis=i(0), mode="add"),
            case("gather_nd", np.stack([x] * 2) if x.ndim == 0 else x[:0], x=x, indices=np.zeros((0, 1), np.int32)),
            case("scatter_nd", x, data=x, indices=np.zeros((0, 1), np.int32), updates=x[:0], mode="add"),
            case("layer_norm", np.zeros_like(x), x=x * 0, axes=ints(-1)),
        ]  # fmt: skip
        if x.shape[-1]:
            cases += [
                case("gather", x[..., 0], x=x, indices=i(0), axis=i(-1)),
                case("gather", x[..., -1], x=x, indices=i(-1), axis=i(-1), batch_dims=i(0)),
                case("gather", x[..., [[-1]]], x=x, indices=np.array([[-1]], np.int32), axis=i(-1)),
            ]  # fmt: skip
        if x.size:
            first = np.zeros(x.ndim, np.int32)
            changed = x.copy()
            changed[(0,) * x.ndim] += 1
            cases += [
                case("gather_nd", x[(0,) * x.ndim], x=x, indices=first),
                case("scatter_nd", changed, data=x, indices=first[None], updates=np.ones(1, np.float32), mode="add"),
                case("scatter", np.concatenate([x[:1] + x[:1], x[1:]]), data=x, indices=i(0), updates=x[0], axis=i(0),
                     mode="add"),
            ]  # fmt: skip
    for x in map(drawn, FROM_RANK_2):
        n = x.ndim
        channel = (1, -1, *[1] * (n - 2))
        alpha = np.linspace(0.25, 1, x.shape[1]).astype(np.float32)
        down = np.arange(x.shape[-2])[:, None] - np.arange(x.shape[-1])
        mean = drawn((x.shape[1],))
        cases += [
            case("prelu", x * -1 * alpha.reshape(channel), x=-x, alpha=alpha),
            case("softplus_parametric", alpha.reshape(channel) * np.log1p(np.exp(x * alpha.reshape(channel))), x=x,
                 alpha=alpha, beta=alpha),
            case("band_part", np.where(down == 0, x, 0), x=x, lower=i(0), upper=i(0)),
            case("batch_norm", (x - mean.reshape(channel)) / np.sqrt(1.5), x=x, mean=mean,
                 variance=np.ones_like(mean), epsilon=f(0.5)),
            case("crop", x, x=x, crop_height=ints(0, 0), crop_width=ints(0, 0)),
            case("crop", x[..., x.shape[-2] :, :], x=x, crop_height=ints(x.shape[-2], 0), crop_width=ints(0, 0)),
            case("reverse_sequence", x, x=x, lengths=ints(*[0] * x.shape[0]), seq_axis=i(1), batch_axis=i(0)),
            case("gather", x[:, :0], x=x, indices=np.zeros((x.shape[0], 0), np.int32), axis=i(1), batch_dims=i(1)),
        ]  # fmt: skip
        if x.shape[1]:
            cases += [
                case("gather", x[:, :1], x=x, indices=np.zeros((x.shape[0], 1), np.int32), axis=i(1), batch_dims=i(1)),
                case("gather", x[:, 0], x=x, indices=np.zeros(x.shape[0], np.int32), axis=i(-n + 1), batch_dims=i(1)),
                case("gather_nd", x[:, 0], x=x, indices=np.zeros((x.shape[0], 1), np.int32), batch_dims=i(1)),
            ]  # fmt: skip
        if x.size:
            cases += [
                case("pad", np.pad(x, [(0, 0)] * (n - 1) + [(1, 1)], "edge"), x=x, pad=ints(1, 1), mode="replicate")
            ]
            twice = x.repeat(2, -2).repeat(2, -1)
            one = x[..., :1, :1]
            cases += [
                case("upsample_nearest_neighbor", twice, x=x, scale_factor_height=f(2), scale_factor_width=f(2)),
                case("resize_nearest_neighbor", one, x=x, target_size_height=i(1), target_size_width=i(1)),
                case("upsample_bilinear", x, x=x, scale_factor_height=f(1), scale_factor_width=f(1)),
                case("resize_bilinear", x, x=x, target_size_height=i(x.shape[-2]), target_size_width=i(x.shape[-1])),
                case("resize_bilinear", one.repeat(3, -1), x=one, target_size_height=i(1), target_size_width=i(3)),
                case("resize", one.repeat(3, -1), x=one, shape=ints(1, 3), resized_dims=i(2), interpolation_mode="LINEAR",
                     fed=frozenset("x")),
            ]  # fmt: skip
    cases += [case("resize", x, x=x, shape=ints(), resized_dims=i(0), fed=frozenset("x")) for x in map(drawn, SHAPES)]
    return cases


def _products() -> list[Operation]:
    cases = []
    sizes = [((1,), (1,)), ((3,), (3,)), ((0,), (0,)), ((2, 3), (3,)), ((3,), (3, 2)), ((2, 0), (0, 3)), ((0, 2), (2, 1)),
             ((1, 2, 3), (2, 3, 1)), ((2, 1, 1, 2), (1, 3, 2, 1)), ((1, 0, 2, 3), (3, 2)), ((1, 1, 2, 1, 3), (3, 1))]  # fmt: skip
    cases += [case("matmul", np.matmul(x, y), x=x, y=y) for x, y in ((drawn(a), drawn(b)) for a, b in sizes)]
    for shape in ((3,), (1, 3), (0, 3), (1, 2, 3), (2, 0, 1, 3), (1, 1, 2, 1, 3)):
        x, weight, bias = drawn(shape), drawn((2, 3)), drawn((2,))
        cases += [
            case("linear", x @ weight.T + bias, x=x, weight=weight, bias=bias),
            case("linear", x @ weight.T, x=x, weight=weight),
        ]
    cases += [
        case("linear", np.ones((3, 1), np.float32), x=np.ones((3, 1), np.float32), weight=np.ones((1, 1), np.float32))
    ]
    for a, b, equation in (((2,), (2,), "i,i->"), ((1, 0), (0, 2), "ij,jk->ik"), ((1, 2, 1, 3), (1, 3, 1, 2), "bkhc,bchq->bkhq"),
                           ((0, 2, 1, 3), (0, 3, 1, 2), "bkhc,bchq->bkhq"), ((1, 2, 1, 3), (1, 3, 1, 2), "bchk,bkhq->bchq")):  # fmt: skip
        x, y = drawn(a), drawn(b)
        cases += [case("einsum", np.einsum(equation, x, y), values=[x, y], equation=equation)]
    for lead in ((), (1,), (0,), (1, 2), (2, 1, 1)):
        q, v = drawn((*lead, 1, 4)), drawn((*lead, 1, 4))
        cases += [case("scaled_dot_product_attention", v, query=q, key=q, value=v)]
    q, empty = drawn((1, 0, 4)), drawn((1, 3, 4))
    cases += [case("scaled_dot_product_attention", q, query=q, key=empty, value=empty)]
    return cases


def _windows() -> list[Operation]:
    cases = []
    for spatial in ((1,), (3,), (1, 1), (2, 3), (1, 1, 1), (1, 2, 1)):
        rank = len(spatial)
        letters = "dhw"[:rank]
        for batch in (1, 0):
            x, weight, bias = drawn((batch, 3, *spatial)), drawn((2, 3, *[1] * rank)), drawn((2,))
            seen = np.einsum(f"nc{letters},oc->no{letters}", x, weight.reshape(2, 3))
            cases += [
                case("conv", seen, x=x, weight=weight, pad_type="valid"),
                case("conv", seen + bias.reshape(1, 2, *[1] * rank), x=x, weight=weight, bias=bias, pad_type="same",
                     strides=ints(*[1] * rank), dilations=ints(*[1] * rank), groups=i(1)),
                case("conv_transpose", seen, x=x, weight=weight.swapaxes(0, 1), pad_type="valid"),
            ]  # fmt: skip
            for kind, same in (("avg_pool", x), ("max_pool", x), ("l2_pool", np.abs(x))):
                cases += [case(kind, same, x=x, kernel_sizes=ints(*[1] * rank), pad_type="valid")]
            axes = tuple(range(2, x.ndim))
            whole_window: dict[str, Any] = {"kernel_sizes": ints(*spatial), "pad_type": "valid"}
            cases += [
                case("avg_pool", x.mean(axes, keepdims=True), x=x, **whole_window),
                case("max_pool", x.max(axes, keepdims=True), x=x, **whole_window),
                case("l2_pool", np.sqrt(np.square(x).sum(axes, keepdims=True)), x=x, **whole_window),
            ]
            deviation = np.sqrt(x.var(axes, keepdims=True) + 0.5)
            squares = np.sqrt(np.square(x).sum((-3, -2, -1), keepdims=True) + 0.5)
            cases += [
                case("instance_norm", (x - x.mean(axes, keepdims=True)) / deviation, x=x, epsilon=f(0.5)),
                case("l2_norm", x / squares, x=x, epsilon=f(0.5)),
                case("local_response_norm", x / (1 + 0.5 * x * x) ** 0.75, x=x, size=i(1), alpha=f(0.5), beta=f(0.75),
                     k=f(1)),
            ]  # fmt: skip
    for x in map(drawn, FROM_RANK_1):
        deviation = np.sqrt(x.var(-1, keepdims=True) + 0.5) if x.shape[-1] else 1
        mean = x.mean(-1, keepdims=True) if x.shape[-1] else 0
        cases += [case("layer_norm", (x - mean) / deviation, x=x, axes=ints(-1), epsilon=f(0.5))]
        if x.size:
            cases += [case("layer_norm", (x - x.mean()) / np.sqrt(x.var() + 0.5), x=x, epsilon=f(0.5))]
    return cases


def _images() -> list[Operation]:
    cases = []
    for x in map(drawn, IMAGES):
        n, c, h, w = x.shape
        deep = x.reshape(n, 2, 2, 1, h, w).transpose(0, 3, 4, 1, 5, 2).reshape(n, 1, 2 * h, 2 * w)
        shuffled = x.reshape(n, 1, 2, 2, h, w).transpose(0, 1, 4, 2, 5, 3).reshape(n, 1, 2 * h, 2 * w)
        where = np.zeros((n, h, w, 2), np.float32) + np.stack(np.meshgrid(np.arange(w), np.arange(h)), -1)
        sampling: dict[str, Any] = {"sampling_mode": "bilinear", "padding_mode": "constant", "padding_value": f(0),
                    "align_corners": np.True_}  # fmt: skip
        cases += [
            case("depth_to_space", deep, x=x, block_size=i(2)),
            case("space_to_depth", x, x=deep, block_size=i(2)),
            case("pixel_shuffle", shuffled, x=x, upscale_factor=i(2)),
            case("pixel_unshuffle", x, x=shuffled, downscale_factor=i(2)),
            case("space_to_batch", x, x=x, block_shape=ints(1, 1), paddings=np.zeros((2, 2), np.int32)),
            case("batch_to_space", x, x=x, block_shape=ints(1, 1), crops=np.zeros((2, 2), np.int32)),
            case("resample", x, x=x, coordinates=where, coordinates_mode="unnormalized", **sampling),
            case("affine", x, x=x, transform_matrix=np.array([[1, 0, 0, 0, 1, 0]] * n, np.float32).reshape(n, 6),
                 output_height=i(h), output_width=i(w), coordinates_mode="normalized_minus_one_to_one", **sampling),
        ]  # fmt: skip
        if n == 1:
            box: dict[str, Any] = {"target_height": i(h), "target_width": i(w), "sampling_mode": "ALIGN_CORNERS"}
            cases += [case("crop_resize", x, x=x, boxes=f([[0, 0, h - 1, w - 1]]), box_indices=ints(0), **box)]
        cases += [case("crop_resize", np.zeros((0, c, 2, 2), np.float32), x=x, boxes=np.zeros((0, 4), np.float32),
                       box_indices=ints(), target_height=i(2), target_width=i(2))]  # fmt: skip
    for count in (0, 1, 2):
        boxes = np.array([[0, 0, 1, 1], [10, 10, 1, 1]], np.float32)[None, :count]
        scores = np.array([0.75, 0.5], np.float32).reshape(1, 2, 1)[:, :count]
        kept, rated, numbers = (
            np.zeros((1, 2, 4), np.float32),
            np.zeros((1, 2, 1), np.float32),
            np.full((1, 2), -1, np.int32),
        )
        kept[:, :count], rated[:, :count], numbers[:, :count] = boxes, scores, np.arange(count)
        cases += [case("non_maximum_suppression", [kept, rated, numbers, ints(count)], boxes=boxes, scores=scores,
                       iou_threshold=f(0.5), score_threshold=f(0.25), max_boxes=i(2))]  # fmt: skip
    return cases


def operations() -> dict[str, list[Operation]]:
    """Return all cases by operator."""
    cases: dict[str, list[Operation]] = {}
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore", RuntimeWarning)  # NumPy warns of the mean of empty arrays
        for operation in (
            *_unary(),
            *_binary(),
            *_reduce(),
            *_shapes(),
            *_ordered(),
            *_products(),
            *_windows(),
            *_images(),
        ):
            cases.setdefault(operation.kind, []).append(operation)
    return cases
