"""The table of `degenerate` at every precision, and operands of ranks that an operator does not take."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest

from converter.runtime import PRECISIONS, PackageError, load
from converter.runtime.mil import OperationError
from converter.runtime.ops import OPERATORS
from converter.runtime.ranks import RANKS
from tests.support.degenerate import case, drawn, f, i, ints, operations
from tests.support.raw_programs import program_of, write_model

TABLE = operations()
#: (precision, whether the program tells the sizes of results): fast finds them out itself where it does not.
WAYS = [("fp32", True), ("fp16", True), ("ane", True), ("fast", True), ("fast", False)]


def test_every_operator_of_the_runtime_is_in_the_table():
    assert set(TABLE) == set(OPERATORS)


@pytest.mark.parametrize(("precision", "known"), WAYS)
@pytest.mark.parametrize("kind", sorted(TABLE))
def test_an_operator_computes_what_numpy_does_on_degenerate_shapes(tmp_path, kind, precision, known):
    half = precision in ("fp16", "ane")
    model, inputs = program_of(TABLE[kind], fp16=half, known=known)
    outputs = load(write_model(tmp_path / "m.mlpackage", model), precision=precision).predict(inputs)
    for number, operation in enumerate(TABLE[kind]):
        for place, expected in enumerate(operation.results):
            ours = outputs[f"r{number}_{place}"]
            assert ours.shape == expected.shape, f"case {number} of {kind}: {operation.given}"
            error = 4e-3 if half else 2e-5
            np.testing.assert_allclose(
                ours, expected, rtol=error, atol=error, err_msg=f"case {number} of {kind}: {operation.given}"
            )


def loaded(tmp_path, *operations, precision="fp32", known=True):
    """A program of the operations, and what to give it."""
    model, inputs = program_of(operations, known=known)
    return load(write_model(tmp_path / "m.mlpackage", model), precision=precision), inputs


def wrong_ranks():
    for (kind, parameter), (least, greatest) in RANKS.items():
        wrong = [least - 1, *([] if greatest is None else [greatest + 1])]
        operation = next((one for one in TABLE[kind] if parameter in one.given), None)
        for rank in wrong:
            yield pytest.param(operation, parameter, rank, id=f"{kind}-{parameter}-{rank}")


@pytest.mark.parametrize("precision", ["fast", "fp32"])
@pytest.mark.parametrize(("operation", "parameter", "rank"), list(wrong_ranks()))
def test_a_rank_that_an_operator_does_not_take_is_refused_at_load(tmp_path, operation, parameter, rank, precision):
    array = np.ones((1,) * rank, np.int32 if parameter == "indices" else np.float32)
    wrong = replace(operation, given={**operation.given, parameter: array})
    with pytest.raises(
        PackageError, match=rf"r0_0 \({wrong.kind}\): {parameter} has rank {rank}; rank \d.* is accepted"
    ):
        loaded(tmp_path, wrong, precision=precision)


@pytest.mark.parametrize("kind", ["reduce_max", "reduce_min", "reduce_argmax", "reduce_argmin"])
def test_the_greatest_of_nothing_is_refused_at_load(tmp_path, kind):
    axes = {"axis": i(1)} if "arg" in kind else {"axes": ints(1)}
    with pytest.raises(PackageError, match=rf"r0_0 \({kind}\): x has no elements along"):
        loaded(tmp_path, case(kind, np.zeros(2, np.float32), x=np.zeros((2, 0), np.float32), **axes))


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("precision", ["fast", "fp32", "fp16"])
@pytest.mark.parametrize(
    "operation",
    [
        case("gather", np.zeros(1, np.float32), x=drawn((3,)), indices=ints(7)),
        case("slice_by_index", f(0), x=drawn((0,)), begin=ints(0), end=ints(1), squeeze_mask=np.array([True])),
        case("cast", drawn((3,)), x=drawn((3,)), dtype="fp8"),
        case("scatter", drawn((3,)), data=drawn((3,)), indices=ints(0), updates=drawn((1,)), axis=i(0), mode="xor"),
        case("matmul", drawn((2, 2)), x=drawn((2, 3)), y=drawn((2, 2))),
    ],
    ids=lambda one: one.kind,
)
def test_what_an_operator_cannot_compute_is_a_sentence_that_names_it(tmp_path, operation, precision, known):
    network, inputs = loaded(tmp_path, operation, precision=precision, known=known)
    with pytest.raises(OperationError, match=rf"^{operation.kind} r0_0"):
        network.predict(inputs)


def test_one_size_of_a_flexible_input_is_a_number(tmp_path, ct):
    """What converters write for ``x.shape[1]``: a gather of one place in a vector, whose result has rank 0."""
    from coremltools.converters.mil.mil import get_new_symbol

    from tests.support.fp16_programs import mb, types

    @mb.program(input_specs=[mb.TensorSpec((1, get_new_symbol()), dtype=types.fp32)], opset_version=ct.target.iOS16)
    def program(x):
        size = mb.gather(x=mb.shape(x=x), indices=np.int32(1), axis=0)
        return mb.mul(x=x, y=mb.cast(x=size, dtype="fp32"), name="y")

    flexible = ct.TensorType("x", ct.Shape((1, ct.RangeDim(1, 8, default=3))), dtype=np.float32)
    path = tmp_path / "m.mlpackage"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ct.convert(
            program,
            inputs=[flexible],
            minimum_deployment_target=ct.target.iOS16,
            compute_precision=ct.precision.FLOAT32,
            skip_model_load=True,
        ).save(str(path))
    for precision in PRECISIONS:
        network = load(path, precision=precision)
        for size in (3, 1, 8):
            x = np.ones((1, size), np.float32)
            np.testing.assert_array_equal(network.predict({"x": x})["y"], x * size)
