from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from converter.devices.blocks import blocks
from converter.devices.comparison import DeviceComparison, Row, _predict, compare_devices, likely_inputs
from converter.errors import AnemoneError
from tests.support.apple_chunks import cut_in_two
from tests.support.mac_double.devices import pretend

pytestmark = pytest.mark.slow

UNITS = ("CPU_ONLY", "CPU_AND_NE")


@pytest.fixture
def unet(model_folder, tmp_path):
    """A package of its own, since compiled models are kept beside packages."""
    return Path(shutil.copytree(model_folder.package("unet", 64, 64), tmp_path / "unet.mlpackage"))


@pytest.mark.parametrize(
    ("operation", "block"),
    [
        ("mid_block_resnets_0_conv2", "mid_block_resnets_0"),
        (
            "down_blocks_0_attentions_0_transformer_blocks_0_attn1_heads",
            "down_blocks_0_attentions_0_transformer_blocks_0",
        ),
    ],
)
def test_the_block_in_which_the_engine_goes_wrong_is_named(unet, monkeypatch, operation, block):
    pretend(monkeypatch, noisy=(operation, 0.1))
    comparison = compare_devices(unet, "main", UNITS, run=_predict)
    assert comparison.failed == {}
    assert comparison.first_loss("CPU_AND_NE").block == block
    assert comparison.first_loss("CPU_ONLY") is None
    at = next(row for row in comparison.rows if row.block == block)
    assert at.psnr_db["CPU_AND_NE"] < at.psnr_db["fp16"] - 20
    # Before the fault it is fp16's arithmetic, after it the noise goes through the rest.
    before = comparison.rows[: comparison.rows.index(at)]
    assert all(row.psnr_db["CPU_AND_NE"] == row.psnr_db["fp16"] for row in before)
    assert comparison.rows[-1].block == "noise_pred"
    assert comparison.rows[-1].psnr_db["CPU_AND_NE"] < 50


def test_numbers_that_are_not_finite_part_where_they_begin(unet, monkeypatch):
    pretend(monkeypatch, noisy=("mid_block_resnets_0_conv2", float("inf")))
    comparison = compare_devices(unet, "main", ("CPU_AND_NE",), run=_predict)
    assert comparison.first_loss("CPU_AND_NE").block == "mid_block_resnets_0"
    assert comparison.first_loss("CPU_AND_NE").psnr_db["CPU_AND_NE"] == -np.inf


def test_a_compute_unit_that_does_not_run_is_told_and_the_others_are_compared(unet, monkeypatch):
    pretend(monkeypatch)

    def run(path, function, units, inputs):
        if units == "CPU_AND_NE":
            raise AnemoneError("the process was ended by SIGKILL")
        return _predict(path, function, units, inputs)

    comparison = compare_devices(unet, "main", UNITS, run=run)
    assert comparison.failed == {"CPU_AND_NE": "the process was ended by SIGKILL"}
    assert all(set(row.psnr_db) == {"fp16", "CPU_ONLY"} for row in comparison.rows)
    assert comparison.first_loss("CPU_AND_NE") is None


def test_without_a_double_a_package_runs_in_a_process_of_its_own(model_folder):
    path = model_folder.path / model_folder.manifest.networks["text_encoder"][0].path
    comparison = compare_devices(path, "main", ("CPU_ONLY",))
    assert [row.block for row in comparison.rows[:2]] == ["text_model_encoder_layers_0", "text_model_encoder_layers_1"]
    assert min(row.psnr_db["CPU_ONLY"] for row in comparison.rows) > 30


def test_a_network_cut_in_two_is_compared_half_by_half(unet, monkeypatch, tmp_path):
    first, _ = cut_in_two(unet, tmp_path)
    pretend(monkeypatch, noisy=None)
    comparison = compare_devices(first, "main", ("CPU_ONLY",), run=_predict)
    names = [row.block for row in comparison.rows]
    assert names[-1] == "noise_pred"
    assert {"down_blocks_0_resnets_0", "mid_block_resnets_0"} < set(names)
    whole = {block.name for block in blocks(unet)}
    assert len(whole & set(names)) >= len(whole) - 1
    # In fp32 the halves are the program, except that fp16 lies between them.
    assert min(row.psnr_db["CPU_ONLY"] for row in comparison.rows) > 60


def test_a_device_parts_where_it_loses_more_than_before():
    rows = [Row(str(n), {"fp16": 70.0, "X": db}) for n, db in enumerate([66, 61, 58, 60, 45, 20])]
    # 4, 9, 12, 10, 25, 50 dB under fp16's: no more than 6 beyond all before, until 25.
    assert DeviceComparison(rows).first_loss("X").block == "4"
    assert DeviceComparison(rows[:4]).first_loss("X") is None


def test_where_fp16_itself_overflows_no_device_is_to_blame():
    lost = Row("loud", {"fp16": -np.inf, "X": -np.inf, "Y": 40.0})
    actual = DeviceComparison([lost, Row("next", {"fp16": -np.inf, "X": -np.inf, "Y": 41.0})])
    assert actual.first_loss("X") is None
    assert actual.first_loss("Y") is None


def test_inputs_are_the_same_each_time_and_ids_are_of_the_encoders_own_words(model_folder):
    path = model_folder.path / model_folder.manifest.networks["text_encoder"][0].path
    first, second = likely_inputs(path), likely_inputs(path)
    np.testing.assert_array_equal(first["input_ids"], second["input_ids"])
    assert 0 <= first["input_ids"].min() <= first["input_ids"].max() < 519
