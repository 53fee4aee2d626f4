"""Conversion with compressed weights: which networks, how near, how large, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from converter.conversion.convert import convert
from converter.conversion.planning import make_plan
from converter.errors import AnemoneError
from converter.options import ConvertOptions
from converter.runtime import load
from converter.runtime.compressed import Compressed
from converter.runtime.program import read_program
from converter.sources.source import open_source
from converter.verification.limits import least_db
from converter.verification.verify import VerificationError
from tests.support.checkpoints import write_xl_checkpoint


def compressed_layers(package):
    """Return how many convolutions have compressed weights, and how many have not."""
    weights = [op.constants["weight"][0] for op in read_program(package).operations if op.kind == "conv"]
    return sum(isinstance(w, Compressed) for w in weights), sum(not isinstance(w, Compressed) for w in weights)


@pytest.fixture(scope="module")
def bundled_compressed(tmp_path_factory):
    """The bundled model with palettes of 4 bits, and how near its networks are."""
    from server.settings import BUNDLED_MODEL

    agreed = {}
    out = tmp_path_factory.mktemp("compressed") / "out"
    return convert(BUNDLED_MODEL, out, ConvertOptions(bits=4), verified=agreed.__setitem__), agreed


@pytest.mark.parametrize("write", [None, write_xl_checkpoint], ids=["SD 1", "SDXL"])
def test_unet_and_text_encoders_are_compressed_and_the_autoencoder_is_not(checkpoint, tmp_path, write):
    source, agreed = checkpoint if write is None else write(tmp_path / "source"), {}
    made = convert(source, tmp_path / "out", ConvertOptions(bits=6), verified=agreed.__setitem__)
    assert made.manifest.precision == "6-bit palettes"
    layers = {n: compressed_layers(made.path / packages[0].path) for n, packages in made.manifest.networks.items()}
    assert layers["unet"][0] > 3  # most layers of tiny networks are too small
    assert all(layers[network][0] == 0 for network in layers if network.startswith("vae"))
    assert least_db(6) < agreed["unet"] < 60 < agreed["vae_decoder"]


def test_text_encoders_are_compressed_but_not_their_tables_of_words(bundled_compressed):
    made, agreed = bundled_compressed
    package = made.path / made.manifest.networks["text_encoder"][0].path
    compressed, _ = compressed_layers(package)
    table = next(op for op in read_program(package).operations if op.kind == "gather").constants["x"][0]
    assert compressed > 0
    assert isinstance(table, np.ndarray)
    assert 20 < agreed["text_encoder"] < 60


@pytest.mark.parametrize(
    "options",
    [
        {"bits": 8, "quantization": "linear"},
        {"bits": 4, "quantization": "linear", "group_size": 8, "target": "macOS15"},
        {"bits": 6, "group_size": 8, "target": "macOS15", "functions": True, "sizes": ((64, 64), (96, 64))},
        {"bits": 3, "target": "macOS15", "prompt_once": True},
    ],
    ids=["8-bit integers", "4-bit blocks", "groups in functions", "3 bits, prompts once"],
)
def test_every_form_is_verified_and_runs_in_both_engines(checkpoint, tmp_path, options):
    made = convert(checkpoint, tmp_path / "out", ConvertOptions(name="m", **options))
    for package in made.manifest.networks["unet"]:
        for precision in ("fp32", "fast"):
            load(made.path / package.path, function=package.function, precision=precision)


def test_the_least_psnr_follows_the_bits_and_is_said(checkpoint, tmp_path, monkeypatch):
    assert [least_db(bits) for bits in (8, 6, 4, 3, 2)] == [35, 24, 12, 6, 0]
    assert [least_db(None), least_db(8, activations=True), least_db(4, activations=True)] == [35, 20, 12]
    monkeypatch.setattr("converter.verification.verify.psnr", lambda actual, expected: 23.9)
    with pytest.raises(VerificationError, match=r"23\.9 dB .* at least 24 dB is accepted of compressed weights"):
        convert(checkpoint, tmp_path / "out", ConvertOptions(bits=6))


def test_the_space_that_is_asked_for_is_about_what_is_written(checkpoint, tmp_path):
    plan = make_plan(open_source(checkpoint), ConvertOptions(bits=4))
    made = convert(checkpoint, tmp_path / "out", ConvertOptions(bits=4, verify=False))
    written = (made.path / made.best("unet", 64, 64).path / "Data/com.apple.CoreML/weights/weight.bin").stat().st_size
    # Tiny weights have more padding than content.
    assert 0.5 * written < plan.stored_bytes("unet") <= written < plan.weight_bytes()["unet"]


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"bits": 3}, "palettes of 3 bits need macOS 15, and the target is macOS13; convert for macOS15"),
        ({"bits": 6, "group_size": 16}, "palettes for groups of channels need macOS 15"),
        ({"bits": 4, "quantization": "linear"}, "linear integers of 4 bits need macOS 15"),
        ({"bits": 6, "quantization": "linear"}, "linear integers of 6 bits are not accepted; accepted: 8, 4"),
        ({"group_size": 16}, "group_size is for compressed weights; give bits too"),
        *(
            ({"bits": 8, "quantization": kind, "group_size": size, "target": "macOS15"}, f"group_size {size} {why}")
            for kind in ("palette", "linear")
            for size, why in [
                *[(size, "is not accepted; accepted: 1 to 4096$") for size in (0, -4, 4097)],
                (7, "divides the channels of no compressed layer"),
            ]
        ),
        ({"quantization": "linear"}, "quantization is linear, but bits is left out; give bits too: 8 or 4"),
    ],
)
def test_options_that_do_not_fit_are_refused_before_anything_is_written(checkpoint, options, why):
    with pytest.raises(AnemoneError, match=why):
        make_plan(open_source(checkpoint), ConvertOptions(**options))


def test_each_encoding_is_a_conversion_of_its_own(checkpoint):
    source = open_source(checkpoint)
    options = [{}, {"bits": 8}, {"bits": 8, "quantization": "linear"}, {"bits": 6}]
    assert len({make_plan(source, ConvertOptions(**each)).fingerprint for each in options}) == 4
