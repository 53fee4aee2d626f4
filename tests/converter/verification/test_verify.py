"""Verification: what it agrees with, what it refuses, and that conversion runs it."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel

import converter.conversion.programs
from converter.conversion.convert import convert
from converter.networks.features import random_inputs
from converter.networks.registry import write_graph
from converter.options import ConvertOptions
from converter.sources.checkpoint import Checkpoint
from converter.verification.reference import ReferenceNetwork
from converter.verification.verify import VerificationError, psnr, verify_package
from tests.support.checkpoints import write_checkpoint, write_xl_checkpoint
from tests.support.mil_packages import as_written


def test_the_reference_is_what_diffusers_gives(checkpoint, model_folder):
    source = Checkpoint.open(checkpoint)
    package = as_written(model_folder.package("unet", 64, 64))
    config = source.config("unet")
    reference = ReferenceNetwork("unet", config, source.tensors("unet"), package.inputs, package.outputs)
    inputs = random_inputs(package.inputs, config)
    actual = reference.predict(inputs)["noise_pred"]
    module = UNet2DConditionModel.from_pretrained(checkpoint / "unet", dtype=torch.float32).eval()
    given = {name: torch.from_numpy(array.astype(np.float32)) for name, array in inputs.items()}
    states = given["encoder_hidden_states"][:, :, 0].transpose(1, 2)
    with torch.no_grad():
        expected = module(given["sample"], given["timestep"], states).sample.numpy()
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)
    assert all(parameter.is_meta for parameter in reference._module.parameters())


def test_a_package_of_other_weights_is_refused_with_its_figure(checkpoint, model_folder, tmp_path):
    other = Checkpoint.open(write_checkpoint(tmp_path / "other", prediction_type="v_prediction"))
    tensors = other.tensors("unet")
    changed = tensors.array("conv_in.weight")
    assert changed.any()
    package = model_folder.package("unet", 64, 64)
    config = other.config("unet")
    assert verify_package("unet", package, config, tensors) > 60
    wrong = config | {"norm_eps": 1.0}
    with pytest.raises(VerificationError, match=r"noise_pred with \d+\.\d dB .* at least 35 dB"):
        verify_package("unet", package, wrong, tensors)


@pytest.mark.parametrize("write", [write_checkpoint, write_xl_checkpoint])
def test_conversion_verifies_every_network(tmp_path, write):
    agreed = {}
    made = convert(write(tmp_path / "source"), tmp_path / "out", ConvertOptions(), verified=agreed.__setitem__)
    assert set(agreed) == set(made.manifest.networks)
    assert all(psnr_db > 60 for psnr_db in agreed.values())
    assert not list(tmp_path.glob("out/*verify*"))


def test_a_network_that_is_not_its_source_is_not_installed(checkpoint, tmp_path, monkeypatch):
    def wrong(network, tensors, config, *rest):
        if network == "unet":
            config = config | {"flip_sin_to_cos": False}
        return write_graph(network, tensors, config, *rest)

    monkeypatch.setattr(converter.conversion.programs, "write_graph", wrong)
    with pytest.raises(VerificationError, match=r"unet .* not installed"):
        convert(checkpoint, tmp_path / "out", ConvertOptions())
    assert not (tmp_path / "out").exists()
    convert(checkpoint, tmp_path / "out", ConvertOptions(verify=False))


def test_verification_leaves_the_weights_as_they_are(checkpoint, tmp_path):
    actual = set()
    for verify in (True, False):
        made = convert(checkpoint, tmp_path / str(verify), ConvertOptions(name="m", verify=verify))
        file = made.package("unet", 64, 64) / "Data/com.apple.CoreML/weights/weight.bin"
        actual.add(hashlib.sha256(file.read_bytes()).hexdigest())
    assert len(actual) == 1


def test_what_is_not_finite_agrees_with_nothing():
    assert psnr(np.array([np.nan]), np.array([1.0])) == -np.inf
    assert psnr(np.array([1.0, 2.0]), np.array([1.0, 2.0])) > 180
    assert psnr(np.array([1.0, 0.0]), np.array([1.0, 0.1])) == pytest.approx(
        20 * np.log10(1 / (0.1 / 2**0.5)), abs=1e-3
    )
