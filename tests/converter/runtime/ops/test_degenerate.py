"""The table of `degenerate` at every precision, and operands of ranks that an operator does not take."""

from __future__ import annotations

import numpy as np
import pytest
from degenerate import case, drawn, f, i, ints, operations
from raw_programs import program_of, write_model

from converter.runtime import PackageError, load
from converter.runtime.mil import OperationError
from converter.runtime.ops import OPERATORS
from converter.runtime.ranks import RANKS

TABLE = operations()
#: (precision, whether the program tells the sizes of results): fast finds them out itself where it does not.
WAYS = [("fp32", True), ("fp16", True), ("ane", True), ("fast", True), ("fast", False)]


def test_every_operator_of_the_runtime_is_in_the_table():
    assert set(TABLE) == set(OPERATORS)


@pytest.mark.parametrize(("precision", "known"), WAYS)
@pytest.mark.parametrize("kind", sorted(TABLE))
def test_an_operator_computes_what_numpy_does_on_degenerate_shapes(tmp_path, kind, precision, known):
    half = precision in ("fp16", "ane")
    model, inputs = program_of(TABLE[kind], half=half, known=known)
    found = load(write_model(tmp_path / "m.mlpackage", model), precision=precision).predict(inputs)
    for number, operation in enumerate(TABLE[kind]):
        for place, expected in enumerate(operation.results):
            ours = found[f"r{number}_{place}"]
            assert ours.shape == expected.shape, f"case {number} of {kind}: {operation.given}"
            error = 4e-3 if half else 2e-5
            np.testing.assert_allclose(
                ours, expected, rtol=error, atol=error, err_msg=f"case {number} of {kind}: {operation.given}"
            )
