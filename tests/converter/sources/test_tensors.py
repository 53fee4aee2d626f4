"""Safetensors files as the world writes them: types, scales, damage."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from converter.errors import CheckpointError
from converter.sources.entry import Part
from converter.sources.tensors import Tensors

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
EIGHT_BITS = {"F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2}


def opened(path, state):
    save_file(state, path)
    return Tensors([path])


def written(path, header, body):
    text = json.dumps(header).encode() if isinstance(header, dict) else header
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)
    return path


def entry(kind, shape, begin, end):
    return {"dtype": kind, "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize("kind", EIGHT_BITS)
def test_every_8_bit_float_has_pytorchs_value(kind, tmp_path):
    codes = torch.arange(256, dtype=torch.uint8).view(EIGHT_BITS[kind])
    actual = opened(tmp_path / "m.safetensors", {"a.weight": codes}).array("a.weight")
    np.testing.assert_array_equal(actual, codes.float().numpy())


@pytest.mark.parametrize("spelling", ["weight_scale", "scale_weight"])
@pytest.mark.parametrize("per_row", [False, True], ids=["one factor", "a factor a row"])
def test_scaled_8_bit_weights_are_multiplied_by_their_factors(spelling, per_row, tmp_path):
    weight = torch.randn(6, 4)
    scale = weight.abs().amax(1, keepdim=True) / 448 if per_row else (weight.abs().max() / 448).reshape(())
    state = {"l.weight": (weight / scale).to(torch.float8_e4m3fn), f"l.{spelling}": scale, "l.bias": torch.zeros(6)}
    state |= {"l.input_scale": torch.ones(()), "l.comfy_quant": torch.zeros(9, dtype=torch.uint8)}
    actual = opened(tmp_path / "m.safetensors", state | {"scaled_fp8": torch.zeros(2).to(torch.float8_e4m3fn)})
    assert set(actual) == {"l.weight", "l.bias"}
    expected = (state["l.weight"].float() * scale).numpy()
    np.testing.assert_array_equal(actual.array("l.weight"), expected)
    third = actual.renamed({"k": Part("l.weight", 1, 3), "turned": Part("l.weight", form="transposed")})
    np.testing.assert_array_equal(third.array("k"), expected[2:4])
    np.testing.assert_array_equal(third.array("turned"), expected.T)


def test_a_scale_of_blocks_is_refused_by_name(tmp_path):
    state = {"l.weight": torch.zeros(4, 8).to(torch.float8_e4m3fn), "l.weight_scale": torch.ones(4, 2)}
    with pytest.raises(CheckpointError, match=r"l\.weight is scaled by l\.weight_scale \(F32 \[4, 2\]\)"):
        opened(tmp_path / "m.safetensors", state)


@pytest.mark.parametrize(
    ("kind", "shape", "size"),
    [("F8_E8M0", [4], 4), ("C64", [2], 16), ("F4", [5], 3), ("F6_E2M3", [4], 3), ("OF_NEXT_YEAR", [7], 11)],
)
def test_an_unused_tensor_of_a_type_that_is_not_read_is_no_reason_to_refuse_a_file(kind, shape, size, tmp_path):
    header = {"a": entry("F16", [2], 0, 4), "odd": entry(kind, shape, 4, 4 + size)}
    tensors = Tensors([written(tmp_path / "m.safetensors", header, np.float16([1, 2]).tobytes() + bytes(size))])
    np.testing.assert_array_equal(tensors.array("a"), [1, 2])
    with pytest.raises(CheckpointError, match=f"odd is stored as {kind}; accepted: F16"):
        tensors.array("odd")


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ({"a": entry("F16", [4], -8, 0)}, "offsets"),
        ({"a": entry("F16", [4], 8, 0)}, "cut short"),
        ({"a": entry("F16", [4], 0, 99)}, "cut short"),
        ({"a": entry("F16", [-2, -2], 0, 8)}, "shape"),
        ({"a": entry("F16", [2.0, 2], 0, 8)}, "shape"),
        ({"a": entry("F16", [2**62, 4], 0, 8)}, "does not take 8 bytes"),
        ({"a": entry("F16", [4], 0, 8), "b": entry("F16", [4], 4, 12)}, "a and b overlap"),
        ({"a": entry("F16", [4], 0, 8), "b": entry("F16", [2], 0, 4)}, "overlap"),
        ({"a": {"dtype": "F16", "shape": [4]}}, "data_offsets"),
        ({"a": {"dtype": 3, "shape": [4], "data_offsets": [0, 8]}}, "lacks the dtype, shape or data_offsets of a$"),
        ({"a": None}, "lacks the dtype, shape or data_offsets of a$"),
        ({"a": 3}, "its header has 3 for a, not a JSON object"),
        ({"__metadata__": ["a"]}, r"its header has \['a'\] for __metadata__, not a JSON object"),
        (b"[1]", r"its header is \[1\], not a JSON object"),
        (b'{"a": {"dtype": "F16", "shape": [4], "data_offsets": [0, 8]}, "a": {}}', "'a' twice"),
        (b"[" * 5000, "unreadable"),
        (b"{}\xff", "unreadable"),
        (b'{"a": {"dtype": "F16", "shape": [' + b"9" * 5000 + b'], "data_offsets": [0, 8]}}', "unreadable"),
    ],
)
def test_a_damaged_header_is_refused_with_what_is_wrong(header, words, tmp_path):
    with pytest.raises(CheckpointError, match=words):
        Tensors([written(tmp_path / "m.safetensors", header, bytes(16))])


def test_tied_tensors_are_one_with_two_names(tmp_path):
    header = {"a": entry("F16", [2], 0, 4), "b": entry("F16", [2], 0, 4)}
    tensors = Tensors([written(tmp_path / "m.safetensors", header, np.float16([1, 2]).tobytes())])
    np.testing.assert_array_equal(tensors.array("a"), tensors.array("b"))


def test_shards_that_have_the_same_tensor_are_refused(tmp_path):
    for name in ("1", "2"):
        save_file({"a": torch.zeros(2)}, tmp_path / f"{name}.safetensors")
    with pytest.raises(CheckpointError, match="has a, which another"):
        Tensors([tmp_path / "1.safetensors", tmp_path / "2.safetensors"])


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        *((kind, float("nan")) for kind in (*FLOATS, *EIGHT_BITS.values())),
        *((kind, -float("inf")) for kind in (*FLOATS, torch.float8_e5m2)),  # E4M3 has no infinity
    ],
)
def test_values_that_are_not_finite_are_found_wherever_they_lie(dtype, value, tmp_path):
    fine, wrong = torch.ones(300_001), torch.ones(300_001)
    wrong[-1] = value
    tensors = opened(tmp_path / "m.safetensors", {"fine": fine.to(dtype), "wrong": wrong.to(dtype)})
    tensors.require_fp16("fine")
    with pytest.raises(CheckpointError, match="wrong has infinite values or NaNs"):
        tensors.require_fp16("wrong")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_values_are_refused_from_where_fp16_has_infinity(dtype, tmp_path):
    below, above = (65280.0, 65536.0) if dtype == torch.bfloat16 else (65519.9, 65520.0)
    tensors = opened(
        tmp_path / "m.safetensors", {n: torch.full((3,), v, dtype=dtype) for n, v in (("b", -below), ("a", above))}
    )
    assert np.isfinite(tensors.array("b").astype(np.float16)).all()
    tensors.require_fp16("b")
    with pytest.raises(CheckpointError, match="a has values beyond 65504"):
        tensors.require_fp16("a")


def test_a_scaled_weight_that_overflows_fp16_is_refused(tmp_path):
    state = {"l.weight": torch.full((2, 2), 400.0).to(torch.float8_e4m3fn), "l.weight_scale": torch.tensor(200.0)}
    with pytest.raises(CheckpointError, match=r"l\.weight has values beyond 65504"):
        opened(tmp_path / "m.safetensors", state).require_fp16("l.weight")


@pytest.mark.parametrize(
    ("state", "words"),
    [
        # As many factors as there are rows, but beside the columns: they would be multiplied the wrong way round.
        ({"l.weight_scale": torch.ones(1, 8)}, r"l\.weight is scaled by l\.weight_scale \(F32 \[1, 8\]\)"),
        ({"l.weight_scale": torch.ones(1), "l.scale_weight": torch.ones(1)}, "both l.weight_scale and l.scale_weight"),
    ],
)
def test_scales_that_are_not_one_for_a_weight_or_one_for_a_row_are_refused(state, words, tmp_path):
    weight = torch.zeros(8, 8).to(torch.float8_e4m3fn)
    with pytest.raises(CheckpointError, match=words):
        opened(tmp_path / "m.safetensors", {"l.weight": weight} | state)


def test_whole_numbers_beyond_fp16_are_refused(tmp_path):
    tensors = opened(tmp_path / "m.safetensors", {"a": torch.tensor([1, 2**62]), "b": torch.tensor([-65504])})
    with pytest.raises(CheckpointError, match="a has values beyond 65504"):
        tensors.require_fp16("a")
    tensors.require_fp16("b")


@pytest.mark.slow
def test_a_header_of_more_tensors_or_axes_than_any_network_has_is_refused(tmp_path):
    many = {f"t{i}": entry("F16", [0], 0, 0) for i in range(200_001)}
    with pytest.raises(CheckpointError, match="200001 tensors; at most 200000"):
        Tensors([written(tmp_path / "m.safetensors", many, b"")])
    with pytest.raises(CheckpointError, match=r"shape \[1, 1, .*\.\.\. \(30000 characters\); a list of at most 32"):
        Tensors([written(tmp_path / "m.safetensors", {"a": entry("F16", [1] * 10_000, 0, 2)}, bytes(2))])


def test_a_file_that_is_cut_while_it_is_read_is_an_error_and_not_the_processs_end(tmp_path):
    state = {"alpha": torch.tensor(2.5, dtype=torch.bfloat16), "w": torch.ones(9000, dtype=torch.float64)}
    tensors = opened(tmp_path / "a.safetensors", state)
    small = Tensors([tmp_path / "a.safetensors"], mapped=False)
    assert tensors.is_finite("w")
    assert tensors.number("alpha") == 2.5
    with pytest.raises(CheckpointError, match=r"w is \[9000\]; one number is accepted"):
        tensors.number("w")
    (tmp_path / "a.safetensors").write_bytes(b"short")
    for read in (lambda: tensors.is_finite("w"), lambda: tensors.number("alpha")):
        with pytest.raises(CheckpointError, match=r"a.safetensors was cut while it was read"):
            read()
    assert small.array("w").sum() == 9000


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", "a Git LFS pointer, which"),
        (b"<!DOCTYPE html><title>Log in</title>", "a web page"),
        (b"PK\x03\x04\x00\x00\x08\x08archive/data.pkl", "a zip archive or what PyTorch writes"),
        (b"\x80\x02}q\x00.........", "a pickle"),
    ],
)
def test_a_file_of_another_kind_under_this_name_is_told(tmp_path, content, words):
    (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"is not a whole safetensors file \(\d+ bytes\); it is {words}"):
        Tensors([tmp_path / "a.safetensors"])
