"""Recording, counting and excusing of conformance cases, without running them."""

from __future__ import annotations

import pytest

from benchmarks.conformance import Case, Kept, Results, report
from benchmarks.conformance_exceptions import excuse

HALF = "TestConv::test_builder_to_backend_stress[precision='fp32', x_weight_dtype=(<class 'numpy.float16'>,)]"


def difference(most: float) -> str:
    return f"AssertionError: Not equal to tolerance rtol=1e-05 Max absolute difference among violations: {most}"


def test_cases_are_kept_as_they_run_and_read_back(tmp_path):
    cases = [Case("a", "passed", ["add"], ""), Case("b", "failed", None, "ValueError: no")]
    kept = Kept(tmp_path / "cases.jsonl")
    for number, case in enumerate(cases, 1):
        kept.add(case)
        assert Kept(tmp_path / "cases.jsonl").cases == cases[:number]


def test_cases_count_for_each_of_their_operators_and_excuses_for_none():
    actual = Results(
        [
            Case("one", "passed", ["add", "conv"], ""),
            Case("two", "failed", ["add"], "ValueError: no"),
            Case(HALF, "failed", ["conv"], difference(4e-4)),
            Case("three", "passed", None, ""),
            Case("four", "failed", None, "ValueError: no"),
            Case("five", "skipped", None, ""),
        ]
    )
    assert (actual.total.passed, actual.total.failed, actual.total.excused) == (1, 1, 1)
    assert (actual.operators["conv"].passed, actual.operators["conv"].excused) == (1, 1)
    assert [case.name for case in actual.failures] == ["two"]
    assert sum(actual.inapplicable.values()) == 3
    assert "FAILED two" in report(actual)


@pytest.mark.parametrize(
    ("name", "reason", "excused"),
    [
        (HALF, difference(9e-4), True),
        (HALF, difference(2e-3), False),
        (HALF, "RuntimeError: Unable to compute", False),
        (HALF.replace("'fp32'", "'fp16'"), difference(4e-4), False),
        (HALF.replace("float16", "float32"), difference(4e-4), False),
        (HALF.replace("TestConv:", "TestLinear:"), difference(4e-4), False),
        ("TestJointCompressionOps::test[precision='fp32'-lut_dtype=fp16]", difference(4.8e-4), True),
        ("TestJointCompressionOps::test[precision='fp32'-lut_dtype=fp16]", difference(5e-4), False),
    ],
)
def test_rounding_is_excused_by_the_kind_of_test_and_how_far_off_it_is(name, reason, excused):
    assert (excuse(name, ["conv"], reason) is not None) == excused
