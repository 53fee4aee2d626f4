"""Damaged packages are refused when they are loaded, with the file and the place."""

from __future__ import annotations

import shutil

import pytest

from converter.mil.mlproto import mil
from converter.runtime import PackageError, load
from tests.support.mil_text import compiled, read_spec

MODEL = "Data/com.apple.CoreML/model.mlmodel"
WEIGHTS = "Data/com.apple.CoreML/weights/weight.bin"


@pytest.fixture
def package(model_folder, tmp_path):
    return shutil.copytree(model_folder.package("vae_decoder", 64, 64), tmp_path / "vae.mlpackage")


def change(package, edit):
    model = read_spec(package)
    block = model.mlProgram.functions["main"].block_specializations["CoreML6"]
    edit(model, block)
    (package / MODEL).write_bytes(model.SerializeToString())
    return package


def stored(block):
    return next(op for op in block.operations if op.attributes["val"].WhichOneof("value") == "blobFileValue")


def first(block, kind):
    return next(op for op in block.operations if op.type == kind)


def test_a_model_that_was_cut_off_is_refused(package):
    raw = (package / MODEL).read_bytes()
    for share in (0.2, 0.5, 0.99):
        (package / MODEL).write_bytes(raw[: int(len(raw) * share)])
        with pytest.raises(PackageError, match=r"vae\.mlpackage: its model is damaged"):
            load(package)


def test_weights_that_were_cut_off_are_refused_naming_the_weight(package):
    raw = (package / WEIGHTS).read_bytes()
    (package / WEIGHTS).write_bytes(raw[: len(raw) // 2])
    with pytest.raises(PackageError, match=r"vae\.mlpackage: \w+: .*weight\.bin.*(no blob at|of \d+ bytes)"):
        load(package)
    (package / WEIGHTS).write_bytes(b"")
    with pytest.raises(PackageError, match=r"vae\.mlpackage: \w+ is damaged"):
        load(package)


def offset(model, block):
    stored(block).attributes["val"].blobFileValue.offset = 1 << 40


def outside(model, block):
    stored(block).attributes["val"].blobFileValue.fileName = "@model_path/../../../weight.bin"


def other_file(model, block):
    stored(block).attributes["val"].blobFileValue.fileName = "@model_path/weights/other.bin"


def unknown_type(model, block):
    stored(block).attributes["val"].type.tensorType.dataType = 77


def brain_float(model, block):
    stored(block).attributes["val"].type.tensorType.dataType = mil().BFLOAT16


def no_value(model, block):
    stored(block).attributes["val"].ClearField("value")


def wrong_count(model, block):
    op = next(op for op in block.operations if op.attributes["val"].immediateValue.tensor.WhichOneof("value") == "ints")
    op.attributes["val"].immediateValue.tensor.ints.values.append(1)


def nested(model, block):
    op = first(block, "silu")
    op.type = "cond"
    op.blocks.add()


def dangling(model, block):
    first(block, "silu").inputs["x"].arguments[0].name = "nowhere"


def lost_output(model, block):
    model.description.output[0].name = "other"


def no_opset(model, block):
    model.mlProgram.functions["main"].opset = "CoreML9"


def list_of_tensors(model, block):
    first(block, "silu").outputs[0].type.Clear()
    first(block, "silu").outputs[0].type.listType.SetInParent()


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (offset, r": \w+: .*weight\.bin has no blob at \d+: the file ends at"),
        (outside, "lie outside the package"),
        (other_file, r"other\.bin is missing: the package has lost its weights"),
        (unknown_type, r": \w+ is a tensor of MIL data type 77"),
        (brain_float, r": \w+ is a tensor of bf16, which is not supported"),
        (no_value, r": \w+ is 0 numbers"),
        (wrong_count, r": \w+ is \d+ numbers, not the \d+ of its shape"),
        (nested, r": \w+ \(cond\) has nested blocks, which are not supported"),
        (dangling, r": \w+ takes nowhere, which no operation before it gives"),
        (lost_output, ": no operation gives its outputs other"),
        (no_opset, "its function main has no operations for its opset 'CoreML9'"),
        (list_of_tensors, r": \w+ \(silu\) is a listType, which is not supported; tensors are"),
    ],
)
def test_what_is_wrong_in_a_program_is_named_at_load(package, edit, words):
    with pytest.raises(PackageError, match=r"vae\.mlpackage.*" + words):
        load(change(package, edit))


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("model.mil", b"\xff\xfe\x00"),
        ("metadata.json", b"[]"),
        ("metadata.json", b"[{}]"),
        ("metadata.json", b'[{"inputSchema": [{"name": "x"}], "outputSchema": []}]'),
        ("metadata.json", b'[{"inputSchema": [{"name": "x", "dataType": "Int4", "shape": "[]"}], "outputSchema": []}]'),
        ("metadata.json", b"{"),
    ],
)
def test_a_compiled_model_whose_files_are_damaged_is_refused(package, tmp_path, file, content):
    folder = compiled(package, tmp_path / "VAE.mlmodelc")
    (folder / file).write_bytes(content)
    with pytest.raises(PackageError, match=r"VAE\.mlmodelc"):
        load(folder)
