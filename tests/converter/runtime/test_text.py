"""Programs as text, read as the packages they were compiled from."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from torch import nn

from converter.mil.mlproto import mil
from converter.runtime import PackageError, load
from converter.runtime.program import functions, read_model, read_program
from converter.runtime.text import TextError, read_text
from tests.support.mil_text import Printer, compiled

NETWORKS = ("text_encoder", "unet", "vae_decoder", "vae_encoder")


def package(model_folder, network):
    return model_folder.package(network, *(() if network == "text_encoder" else (64, 64)))


def assert_same_value(actual, expected):
    if isinstance(expected, str):
        assert actual == expected
    elif isinstance(expected, np.ndarray):
        assert actual.dtype == expected.dtype
        np.testing.assert_array_equal(actual, expected)
    else:
        for part in ("kind", "output", "shape", "dtype"):
            assert getattr(actual, part) == getattr(expected, part)
        np.testing.assert_array_equal(actual.dense(), expected.dense())


def assert_same_program(actual, expected):
    assert (actual.inputs, actual.outputs, actual.states) == (expected.inputs, expected.outputs, expected.states)
    assert len(actual.operations) == len(expected.operations)
    for one, other in zip(actual.operations, expected.operations, strict=True):
        for part in ("kind", "inputs", "outputs", "dtypes", "shapes"):
            assert getattr(one, part) == getattr(other, part)
        assert one.constants.keys() == other.constants.keys()
        for name, values in other.constants.items():
            for a, b in zip(one.constants[name], values, strict=True):
                assert_same_value(a, b)


def assert_same_messages(actual, expected):
    assert set(actual.mlProgram.functions) == set(expected.mlProgram.functions)
    for name, function in expected.mlProgram.functions.items():
        function.ClearField("attributes")
        assert actual.mlProgram.functions[name] == function


@pytest.mark.parametrize("bare", [False, True])
@pytest.mark.parametrize("network", NETWORKS)
def test_our_packages_read_the_same_compiled(model_folder, tmp_path, network, bare):
    path = package(model_folder, network)
    folder = compiled(path, tmp_path / "Compiled.mlmodelc", bare)
    assert_same_messages(read_model(folder), read_model(path))
    assert_same_program(read_program(folder), read_program(path))


def test_a_compiled_model_runs_as_its_package(model_folder, tmp_path):
    path = package(model_folder, "vae_decoder")
    z = np.random.default_rng(0).standard_normal((1, 4, 8, 8)).astype(np.float16)
    actual = load(compiled(path, tmp_path / "VAEDecoder.mlmodelc"), precision="fp32").predict({"z": z})["image"]
    np.testing.assert_array_equal(actual, load(path, precision="fp32").predict({"z": z})["image"])


class Odd(nn.Module):
    """Splits, stacks and constants of many ranks and types."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 6, 3, padding=1)

    def forward(self, x):
        import torch

        a, b, c = self.conv(x).chunk(3, 1)
        mask = torch.tensor([[[True, False], [False, True]]]).repeat(1, 4, 4)
        h = torch.where(mask, a * torch.sigmoid(b), torch.tensor(-float("inf"))) + torch.cat([c, c], 1)[:, :2]
        return torch.softmax(h, -1), torch.stack([a, b], 1).argmax(1)


@pytest.mark.parametrize("bare", [False, True])
@pytest.mark.parametrize("precision", ["FLOAT16", "FLOAT32"])
@pytest.mark.parametrize("target", ["macOS12", "macOS13", "macOS14", "macOS15"])
def test_packages_of_coremltools_read_the_same_compiled(ct, tmp_path, target, precision, bare):
    import torch

    torch.manual_seed(0)
    x = torch.randn(1, 4, 8, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ct.convert(
            torch.jit.trace(Odd().eval(), x),
            inputs=[ct.TensorType("x", x.shape)],
            minimum_deployment_target=ct.target[target],
            compute_precision=ct.precision[precision],
            skip_model_load=True,
        ).save(str(tmp_path / "m.mlpackage"))
    folder = compiled(tmp_path / "m.mlpackage", tmp_path / "m.mlmodelc", bare)
    assert_same_messages(read_model(folder), read_model(tmp_path / "m.mlpackage"))
    assert_same_program(read_program(folder), read_program(tmp_path / "m.mlpackage"))


#: Statements as coremlcompiler and others write them, and the message each stands for.
PROGRAM = """program(1.3)
[buildInfo = dict<string, string>({{{{"coremlc-component-MIL", "3520.4.1"}}, {{"note", "a \\"]{{\\" b"}}}})]
{{
    func main<ios18>(tensor<fp16, [1, 4]> x, state<tensor<fp16, [2, 2]>> kept) [FlexibleShapeInformation = \
tuple<tuple<string, dict<string, tensor<int32, [?]>>>>((("DefaultShapes", {{{{"x", [1, 4]}}}})))] {{
        // a comment
        {0}
    }} -> (y);
}}
"""


def parsed(statement):
    function = read_text(PROGRAM.format(statement)).functions["main"]
    return function.block_specializations["CoreML8"].operations[0]


@pytest.mark.parametrize(
    ("spelling", "field", "numbers"),
    [
        ("fp32(0x1.8p-1)", "floats", [0.75]),
        ("tensor<fp32, []>(-0x1p+3)", "floats", [-8.0]),
        ("fp32(0.25)", "floats", [0.25]),
        ("fp64(1e-3)", "doubles", [0.001]),
        ("tensor<fp32, [3]>([inf, -inf, 0x0p+0])", "floats", [np.inf, -np.inf, 0.0]),
        ("tensor<fp32, [2, 1]>([[0x1p-24], [0x1.921fb6p+1]])", "floats", [2.0**-24, np.float32(np.pi)]),
        ("tensor<int32, [0]>([])", "ints", []),
        ("tensor<int32, [4]>([0,-1, 2 ,3])", "ints", [0, -1, 2, 3]),
        ("uint16(7)", "ints", [7]),
        ("int64(-9000000000)", "longInts", [-9000000000]),
        ("tensor<bool, [3]>([true, false, true])", "bools", [True, False, True]),
        ('string("a \\"b\\" \\\\ \\n")', "strings", ['a "b" \\ \n']),
        ('tensor<string, [2]>(["(x)", "[y], "])', "strings", ["(x)", "[y], "]),
    ],
)
def test_values_are_what_they_say(spelling, field, numbers):
    value = parsed(f"int32 v = const()[val = {spelling}];").attributes["val"]
    held = value.immediateValue.tensor
    assert held.WhichOneof("value") == (field if numbers else held.WhichOneof("value"))
    assert list(getattr(held, field).values) == numbers


@pytest.mark.parametrize(
    ("spelling", "data"),
    [
        ("fp16(0x1p-1)", np.float16(0.5).tobytes()),
        ("tensor<fp16, [2]>([nan, 1])", np.array([np.nan, 1], np.float16).tobytes()),
        ("tensor<int8, [3]>([-1, 0, 127])", b"\xff\x00\x7f"),
        ("tensor<uint8, [2]>([1, 255])", b"\x01\xff"),
        ("tensor<int4, [3]>([-1, 7, -8])", b"\x7f\x08"),
        ("tensor<uint1, [9]>([1, 0, 1, 0, 0, 0, 0, 1, 1])", b"\x85\x01"),
        ("tensor<uint3, [3]>([7, 0, 5])", b"\x47\x01"),
    ],
)
def test_values_that_messages_hold_as_bytes_are_packed_lowest_bits_first(spelling, data):
    assert parsed(f"int32 v = const()[val = {spelling}];").attributes["val"].immediateValue.tensor.bytes.values == data


@pytest.mark.parametrize(
    ("spelling", "canonical"),
    [
        ('tensor<fp16,[2]>y=relu(x=x)[name=string("y")] ;', 'tensor<fp16, [2]> y = relu(x = x)[name = string("y")];'),
        ("tensor<fp16, [2]> y =\n  relu(\n x = x);", "tensor<fp16, [2]> y = relu(x = x);"),
        ("/* one\n two */ fp16 y = relu(x = x /* three */); // four", "fp16 y = relu(x = x);"),
        (
            "tensor<fp16, [2]> y = const()[val = tensor<fp16, [2]>([fp16(1), fp16(0x1p-1)])];",
            "tensor<fp16, [2]> y = const()[val = tensor<fp16, [2]>([1, 0x1p-1])];",
        ),
        (
            'fp16 y = relu(x = x)[about = dict<string, list<fp16, ?>>({{"a)", [1]}}), name = string("y")];',
            'fp16 y = relu(x = x)[name = string("y")];',
        ),
        ("tensor<fp16, [rows, 2]> y = relu(x = x);", "tensor<fp16, [?, 2]> y = relu(x = x);"),
    ],
)
def test_texts_written_by_hand_have_the_same_values(spelling, canonical):
    assert parsed(spelling) == parsed(canonical)


def test_a_byte_order_mark_is_skipped():
    text = PROGRAM.format("fp16 y = relu(x = x);")
    assert read_text("\ufeff" + text) == read_text(text)


def test_weights_are_referred_to_by_file_and_offset():
    for spelling in (
        'BLOBFILE(path = string("@model_path/weights/weight.bin"), offset = uint64(64))',
        'BLOBFILE(path = tensor<string, []>("@model_path/weights/weight.bin"), offset = tensor<uint64, []>(64))',
        'BLOBFILE(path=string("@model_path/weights/weight.bin"), offset=uint64(64))',
    ):
        value = parsed(f"tensor<fp16, [8, 3]> w = const()[val = tensor<fp16, [8, 3]>({spelling})];").attributes["val"]
        assert (value.blobFileValue.fileName, value.blobFileValue.offset) == ("@model_path/weights/weight.bin", 64)
        assert [d.constant.size for d in value.type.tensorType.dimensions] == [8, 3]


@pytest.mark.parametrize("form", ["{} a, {} b", "({} a, {} b)"])
def test_an_operation_may_give_several_tensors(form):
    kind = "tensor<fp16, [1, 2]>"
    op = parsed(f'{form.format(kind, kind)} = split(axis = ax, num_splits = n, x = x)[name = string("s")];')
    assert [o.name for o in op.outputs] == ["a", "b"]
    assert op.type == "split"
    assert {name: a.arguments[0].name for name, a in op.inputs.items()} == {"axis": "ax", "num_splits": "n", "x": "x"}


def test_a_tuple_may_hold_tensors_and_values():
    op = parsed("fp16 y = concat(axis = int32(1), values = (x, fp16(0x1p+0), kept));")
    values = op.inputs["values"].arguments
    assert [a.WhichOneof("binding") for a in values] == ["name", "value", "name"]
    assert op.inputs["axis"].arguments[0].value.immediateValue.tensor.ints.values == [1]


def test_writing_a_state_has_no_result():
    op = parsed('write_state(data = x, input = kept)[name = string("w")];')
    assert (op.type, len(op.outputs)) == ("write_state", 0)


def test_states_and_flexible_sizes_are_in_the_types_of_a_function():
    text = "program(1.0) { func f<ios17>(tensor<int32, [1, ?]> ids, state<tensor<fp16, [2]>> s) { } -> (ids); }"
    ids, state = read_text(text).functions["f"].inputs
    assert [d.WhichOneof("dimension") for d in ids.type.tensorType.dimensions] == ["constant", "unknown"]
    assert state.type.stateType.wrappedType.tensorType.dataType == mil().FLOAT16


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("fp16 y = add(x = x, y = );", "line 6: no value at"),
        ("fp16 y = add(x = x, y = y", "line 6: no value at 'y"),
        ("fp16 y = const()[val = fp16(zero)];", r"line 6: 'fp16\(zero\)' is not a value"),
        ("fp16 y = const()[val = tensor<fp16, [2]>([1])];", "line 6: .* needs 2 numbers, not 1"),
        ("fp16 y = const()[val = fp17(1)];", "line 6: fp17 is not a known type"),
        ("fp16 y = const()[val = tensor<bool, [1]>([maybe])];", "line 6: .*maybe is not true or false"),
        ("fp16 y = const()[val = int8(300)];", "line 6: .*300"),
        ("fp16 y = const()[val = int4(8)];", "line 6: .*8 is outside the range of int4, -8 to 7"),
        ("fp16 y = add(x = x, y = x)", "line 7: ; after add is expected"),
        ("fp16 y = cond(pred = x) (bool b) { } -> (b);", r"line 6: y \(cond\) has nested blocks"),
        (
            "list<fp16, 2> y = make_list(a = x);",
            "line 6: an operation gives a list, which is not supported; tensors are",
        ),
        (
            "fp16 y = const()[val = tensor<fp16, [2]>([fp16(1), fp32(2)])];",
            r"line 6: tensor<fp16, \[2\]> cannot have a fp32",
        ),
    ],
)
def test_damaged_text_is_refused_by_its_line(statement, words):
    with pytest.raises(TextError, match=words):
        parsed(statement)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_text_that_was_cut_off_is_refused_naming_file_and_line(model_folder, tmp_path, share):
    folder = compiled(package(model_folder, "vae_decoder"), tmp_path / "m.mlmodelc")
    text = (folder / "model.mil").read_text()
    (folder / "model.mil").write_text(text[: int(len(text) * share)])
    with pytest.raises(PackageError, match=r"m\.mlmodelc/model\.mil, line \d+: "):
        load(folder)


def test_functions_are_named_and_told_apart(ct, tmp_path):
    model = read_spec_of_functions()
    (tmp_path / "f.mlmodelc").mkdir()
    (tmp_path / "f.mlmodelc/model.mil").write_text(Printer(True).program(model))
    (tmp_path / "f.mlmodelc/metadata.json").write_text('[{"inputSchema": [], "outputSchema": []}]')
    assert functions(tmp_path / "f.mlmodelc") == ("large", "small")


def read_spec_of_functions():
    from converter.mil.mlproto import ml

    model = ml().Model()
    for name, size in (("small", 2), ("large", 4)):
        text = f"program(1.3) {{ func {name}<ios18>(tensor<fp16, [{size}]> x) {{ fp16 y = relu(x = x); }} -> (y); }}"
        model.mlProgram.functions[name].CopyFrom(read_text(text).functions[name])
    return model
