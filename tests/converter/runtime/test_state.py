"""Networks with states between predictions."""

from __future__ import annotations

import numpy as np
import pytest

from converter.runtime import InputError
from converter.runtime.mil import MILNetwork
from tests.support.fp16_programs import fp16, mb, package_of_program, state


@pytest.fixture(scope="module")
def summing(tmp_path_factory):
    """A network that adds its input to a state; its outputs are twice the sum and the state from before."""

    def body(x, total):
        before = mb.read_state(input=total)
        after = mb.coreml_update_state(state=total, value=mb.add(x=before, y=x))
        return mb.identity(x=before, name="before"), mb.mul(x=after, y=np.float16(2), name="twice")

    return package_of_program(tmp_path_factory.mktemp("summing"), [fp16(1, 3), state(1, 3)], body)


def input_of(*values):
    return {"x": np.array([values], np.float16)}


def test_a_state_begins_at_zero_and_goes_on_from_prediction_to_prediction(summing):
    network = MILNetwork(summing)
    kept = network.make_state()
    assert [*network.inputs] == ["x"]
    for n in range(3):
        outputs = network.predict(input_of(1, 2, -3), kept)
        np.testing.assert_array_equal(outputs["before"], [[n, 2 * n, -3 * n]])
        np.testing.assert_array_equal(outputs["twice"], 2 * kept.read("total"))
    np.testing.assert_array_equal(kept.read("total"), np.array([[3, 6, -9]], np.float16))
    assert kept.read("total").dtype == np.float16


def test_states_of_one_network_are_independent_and_can_be_written(summing):
    network = MILNetwork(summing)
    first, second = network.make_state(), network.make_state()
    network.predict(input_of(5, 5, 5), first)
    second.write("total", np.array([[1.0001, 0, 0]]))
    np.testing.assert_array_equal(network.predict(input_of(0, 1, 0), second)["twice"], [[2, 2, 0]])
    np.testing.assert_array_equal(first.read("total"), [[5, 5, 5]])


def test_what_a_caller_does_with_an_output_does_not_reach_the_state(tmp_path):
    def body(x, kept):
        return mb.cast(x=mb.coreml_update_state(state=kept, value=x), dtype="fp32", name="y")

    network = MILNetwork(package_of_program(tmp_path, [fp16(1, 3), state(1, 3)], body))
    kept = network.make_state()
    network.predict(input_of(1, 2, 3), kept)["y"][:] = 0
    np.testing.assert_array_equal(kept.read("kept"), [[1, 2, 3]])


def test_a_state_is_rounded_in_fp16_and_not_in_fp32(summing):
    for precision, expected in (("fp32", 2049), ("fp16", 2048)):
        network = MILNetwork(summing, precision=precision)
        kept = network.make_state()
        network.predict(input_of(2048, 0, 0), kept)
        network.predict(input_of(1, 0, 0), kept)
        assert network.predict(input_of(0, 0, 0), kept)["twice"][0, 0] == np.float16(2 * expected)
        assert kept.tensors["total"][0, 0] == expected


def test_a_network_with_states_is_not_run_without_one_or_on_anothers(summing, tmp_path):
    network = MILNetwork(summing)
    with pytest.raises(InputError, match=r"has states \(total\); pass a state from its make_state"):
        network.predict(input_of(1, 2, 3))
    path = package_of_program(tmp_path, [fp16(1, 3)], lambda x: mb.add(x=x, y=np.float16(1), name="y"))
    plain = MILNetwork(path)
    with pytest.raises(InputError, match="the state has total; the network has no state"):
        plain.predict(input_of(1, 2, 3), network.make_state())
    with pytest.raises(InputError, match=r"state total has shape \[3\]; \[1, 3\] is accepted"):
        network.make_state().write("total", np.zeros(3))
    np.testing.assert_array_equal(plain.predict(input_of(1, 2, 3), plain.make_state())["y"], [[2, 3, 4]])
