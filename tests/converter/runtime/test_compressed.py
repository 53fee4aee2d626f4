"""Compressed weights against coremltools' own decompression."""

from __future__ import annotations

import mmap
import re
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from converter.runtime import PackageError, load
from converter.runtime.compressed import Compressed, dense
from converter.runtime.program import read_program
from converter.weights.blob import BlobError, BlobReader, packed_size, unpack
from converter.weights.dtypes import BY_NAME
from tests.support.mil_text import compiled


@pytest.fixture(scope="module")
def ct(ct):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import coremltools.optimize.coreml  # noqa: F401
    return ct


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.out = nn.Conv2d(8, 16, 3, padding=1), nn.Linear(16, 12)

    def forward(self, x):
        return self.out(self.conv(x).mean((2, 3)))


@pytest.fixture(scope="module")
def plain(ct):
    """The same model for each operator set, uncompressed."""
    torch.manual_seed(0)
    module, x = Small().eval(), torch.randn(1, 8, 4, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(module, x)
        return {
            target: ct.convert(
                traced,
                inputs=[ct.TensorType("x", x.shape)],
                outputs=[ct.TensorType("y", dtype=np.float32)],
                minimum_deployment_target=ct.target[target],
                skip_model_load=True,
            )
            for target in ("iOS16", "iOS17", "iOS18")
        }


def compress(model, *steps):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for step in steps:
            model = step(model)
    return model


def palettes(ct, joint=False, **settings):
    cto = ct.optimize.coreml
    config = cto.OptimizationConfig(global_config=cto.OpPalettizerConfig(weight_threshold=1, **settings))
    return lambda model: cto.palettize_weights(model, config, joint_compression=joint)


def linear(ct, joint=False, **settings):
    cto = ct.optimize.coreml
    config = cto.OptimizationConfig(global_config=cto.OpLinearQuantizerConfig(weight_threshold=1, **settings))
    return lambda model: cto.linear_quantize_weights(model, config, joint_compression=joint)


def pruned(ct, **settings):
    cto = ct.optimize.coreml
    config = cto.OptimizationConfig(global_config=cto.OpThresholdPrunerConfig(**settings))
    return lambda model: cto.prune_weights(model, config)


def theirs(ct, path):
    """What coremltools makes of each constexpr operation that another takes or an ordinary one, by name."""
    from coremltools.converters.mil.frontend.milproto.load import load as load_program

    spec = ct.utils.load_spec(str(path))
    program = load_program(spec, spec.specificationVersion, str(path / "Data/com.apple.CoreML/weights"))
    actual = {}
    for op in program.functions["main"].operations:
        if op.op_type.startswith("constexpr_"):
            if op.op_type == "constexpr_lut_to_dense" and op.lut.val is None:
                # coremltools follows the chain of every parameter but this one.
                dense = op.decompress(op.indices.val, op.lut.op.materialized_val_inference(), None)
            else:
                dense = op.materialized_val_inference()
            actual |= zip([o.name for o in op.outputs], dense if isinstance(dense, tuple) else [dense], strict=True)
    return actual


def ours(path):
    """Every compressed constant of a program, those behind others too, by name."""
    actual = {}

    def visit(value):
        if isinstance(value, Compressed):
            actual[value.name] = value
            for source in value.sources.values():
                visit(source)

    for op in read_program(path).operations:
        for values in op.constants.values():
            for value in values:
                visit(value)
    return actual


def assert_decodes(ct, model, folder, kinds):
    path = folder / "m.mlpackage"
    model.save(str(path))
    expected, actual = theirs(ct, path), ours(path)
    assert {v.kind for v in actual.values() if v.kind.startswith("constexpr_")} == set(kinds)
    compared = 0
    for name, value in actual.items():
        if name in expected:
            decoded = value.dense()
            assert (decoded.shape, decoded.dtype) == (value.shape, value.dtype) == (expected[name].shape, value.dtype)
            # coremltools rounds to fp16 between subtracting an offset and scaling.
            np.testing.assert_allclose(decoded, expected[name], rtol=2e-3, atol=1e-6)
            compared += 1
    assert compared >= 2
    for bare in (False, True):
        from_text = ours(compiled(path, folder / f"{bare}.mlmodelc", bare))
        assert from_text.keys() == actual.keys()
        for name, value in actual.items():
            np.testing.assert_array_equal(from_text[name].dense(), value.dense())


@pytest.mark.parametrize(
    ("target", "step"),
    [
        ("iOS16", lambda ct: palettes(ct, mode="uniform", nbits=4)),
        ("iOS16", lambda ct: linear(ct, mode="linear")),
        ("iOS18", lambda ct: palettes(ct, mode="uniform", nbits=3, granularity="per_grouped_channel", group_size=4)),
        ("iOS18", lambda ct: linear(ct, mode="linear", dtype="uint4", granularity="per_block", block_size=4)),
    ],
)
def test_a_compressed_network_runs_as_its_unfolded_one(ct, plain, tmp_path, target, step):
    model = compress(plain[target], step(ct))
    model.save(str(tmp_path / "m.mlpackage"))
    compress(model, ct.optimize.coreml.decompress_weights).save(str(tmp_path / "dense.mlpackage"))
    x = {"x": np.random.default_rng(0).standard_normal((1, 8, 4, 4)).astype(np.float32)}
    actual, expected = (
        load(tmp_path / f"{name}.mlpackage", precision="fp32").predict(x)["y"] for name in ("m", "dense")
    )
    np.testing.assert_allclose(actual, expected, rtol=5e-3, atol=1e-3)


@pytest.mark.parametrize(("target", "bits"), [("iOS16", n) for n in (1, 2, 4, 6, 8)] + [("iOS17", 4)])
def test_packed_indices_into_one_palette(ct, plain, tmp_path, target, bits):
    model = compress(plain[target], palettes(ct, mode="uniform", nbits=bits))
    assert_decodes(ct, model, tmp_path, ["constexpr_lut_to_dense"])


@pytest.mark.parametrize(
    ("granularity", "bits"), [("per_grouped_channel", n) for n in (1, 2, 3, 4, 6, 8)] + [("per_tensor", 4)]
)
def test_palettes_of_groups_of_channels(ct, plain, tmp_path, granularity, bits):
    step = palettes(ct, mode="uniform", nbits=bits, granularity=granularity, group_size=4)
    assert_decodes(ct, compress(plain["iOS18"], step), tmp_path, ["constexpr_lut_to_dense"])


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize("mode", ["linear", "linear_symmetric"])
@pytest.mark.parametrize("granularity", ["per_tensor", "per_channel"])
@pytest.mark.parametrize("target", ["iOS16", "iOS18"])
def test_eight_bit_integers_with_scales(ct, plain, tmp_path, target, granularity, mode, dtype):
    model = compress(plain[target], linear(ct, mode=mode, dtype=dtype, granularity=granularity))
    kind = "constexpr_affine_dequantize" if target == "iOS16" else "constexpr_blockwise_shift_scale"
    assert_decodes(ct, model, tmp_path, [kind])


@pytest.mark.parametrize("dtype", ["int4", "uint4", "int8", "uint8"])
@pytest.mark.parametrize("mode", ["linear", "linear_symmetric"])
def test_integers_with_scales_of_blocks(ct, plain, tmp_path, mode, dtype):
    step = linear(ct, mode=mode, dtype=dtype, granularity="per_block", block_size=4)
    assert_decodes(ct, compress(plain["iOS18"], step), tmp_path, ["constexpr_blockwise_shift_scale"])


@pytest.mark.parametrize("target", ["iOS16", "iOS18"])
def test_what_pruning_left(ct, plain, tmp_path, target):
    model = compress(plain[target], pruned(ct, threshold=0.08, minimum_sparsity_percentile=0.1, weight_threshold=1))
    assert_decodes(ct, model, tmp_path, ["constexpr_sparse_to_dense"])


@pytest.mark.parametrize(
    ("second", "kinds"),
    [
        (lambda ct: palettes(ct, joint=True, mode="uniform", nbits=4), ["constexpr_lut_to_sparse"]),
        (
            lambda ct: linear(ct, joint=True, mode="linear_symmetric"),
            ["constexpr_sparse_blockwise_shift_scale"],
        ),
    ],
)
def test_what_pruning_left_compressed_again(ct, plain, tmp_path, second, kinds):
    first = pruned(ct, threshold=0.08, minimum_sparsity_percentile=0.1, weight_threshold=1)
    model = compress(plain["iOS18"], first, second(ct))
    assert_decodes(ct, model, tmp_path, [*kinds, "constexpr_sparse_to_dense"])


def test_palettes_that_are_integers_with_scales_themselves(ct, plain, tmp_path):
    model = compress(
        plain["iOS18"],
        palettes(ct, mode="uniform", nbits=4),
        linear(ct, joint=True, mode="linear_symmetric", granularity="per_tensor"),
    )
    assert_decodes(ct, model, tmp_path, ["constexpr_blockwise_shift_scale", "constexpr_lut_to_dense"])


def built(ct, weights, path, target="iOS18"):
    """A package whose outputs are weights that no optimizer here makes; ``weights`` makes them with the builder."""
    from coremltools.converters.mil import Builder as mb

    @mb.program(input_specs=[mb.TensorSpec((1,))], opset_version=ct.target[target])
    def program(x):
        return [mb.identity(x=x), *(mb.cast(x=w, dtype="fp32") for w in weights(mb))]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ct.convert(
            program,
            pass_pipeline=ct.PassPipeline.EMPTY,
            minimum_deployment_target=ct.target[target],
            skip_model_load=True,
        ).save(str(path))


def integers(ct, name, values):
    from coremltools.converters.mil.mil import types

    return np.asarray(values).astype(types.nptype_from_builtin(types.string_to_builtin(name)))


def assert_same(ct, path, rtol=0.0):
    expected, actual = theirs(ct, path), ours(path)
    names = sorted(name for name in expected if name.startswith("w"))
    assert names
    for name in names:
        np.testing.assert_allclose(actual[name].dense(), expected[name], rtol=rtol, err_msg=name)


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 6, 8])
def test_palettes_of_vectors(ct, tmp_path, bits):
    rng = np.random.default_rng(bits)
    indices = integers(ct, f"uint{bits}", rng.integers(0, 1 << bits, (4, 3, 2)))

    def weights(mb):
        for axis in (0, 1, -1):
            for groups in ((1, 1, 1), (2, 1, 2), (1, 3, 1)):
                lut = rng.standard_normal((*groups, 1 << bits, 2)).astype(np.float32)
                name = f"w_{axis % 3}_{'_'.join(map(str, groups))}"
                yield mb.constexpr_lut_to_dense(indices=indices, lut=lut, vector_axis=np.int32(axis), name=name)

    built(ct, weights, tmp_path / "m.mlpackage")
    assert_same(ct, tmp_path / "m.mlpackage")


def test_sparse_palettes_of_vectors(ct, tmp_path):
    rng = np.random.default_rng(0)
    mask = integers(ct, "uint1", rng.integers(0, 2, (4, 6)))

    def weights(mb):
        for bits in (1, 4):
            indices = integers(ct, f"uint{bits}", rng.integers(0, 1 << bits, np.count_nonzero(mask)))
            lut = rng.standard_normal((1, 1, 1 << bits, 2)).astype(np.float32)
            for axis in (0, 1):
                wide, data = mb.constexpr_lut_to_sparse(
                    indices_mask=mask, indices_nonzero_data=indices, lut=lut, vector_axis=np.int32(axis)
                )
                yield mb.constexpr_sparse_to_dense(nonzero_data=data, mask=wide, name=f"w_{bits}_{axis}")

    built(ct, weights, tmp_path / "m.mlpackage")
    assert_same(ct, tmp_path / "m.mlpackage")


@pytest.mark.parametrize(("dtype", "rtol"), [(np.float16, 2e-3), (np.float32, 1e-6)])
def test_scales_and_offsets_of_every_type(ct, tmp_path, dtype, rtol):
    rng = np.random.default_rng(0)

    def weights(mb):
        for kind in ("int4", "uint4", "int8", "uint8", "fp16", "fp32"):
            low = -8 if kind.startswith("i") else 0
            element = f"float{kind[2:]}" if kind.startswith("fp") else None
            data, offset = (
                drawn.astype(element) if element else integers(ct, kind, drawn)
                for drawn in (rng.integers(low, low + 16, size) for size in ((4, 6), (2, 3)))
            )
            scale = rng.standard_normal((2, 3)).astype(dtype)
            yield mb.constexpr_blockwise_shift_scale(data=data, scale=scale, offset=offset, name=f"w_{kind}")

    built(ct, weights, tmp_path / "m.mlpackage")
    assert_same(ct, tmp_path / "m.mlpackage", rtol)


def test_fp16_weights_of_an_fp32_network(ct, tmp_path):
    values = np.random.default_rng(0).standard_normal((3, 40)).astype(np.float16)

    def weights(mb):
        yield mb.constexpr_cast(source_val=values, output_dtype="fp32", name="w")

    built(ct, weights, tmp_path / "m.mlpackage", "iOS16")
    actual = ours(tmp_path / "m.mlpackage")["w"].dense()
    assert actual.dtype == np.float32
    np.testing.assert_array_equal(actual, values.astype(np.float32))


@pytest.mark.parametrize("kind", ["uint1", "uint2", "uint3", "uint4", "uint6", "int4", "int8", "uint8", "int16"])
def test_blobs_are_read_as_coremltools_writes_them(tmp_path, kind):
    from coremltools.libmilstoragepython import _BlobStorageReader, _BlobStorageWriter

    bits, signed = int(kind.lstrip("uint")), kind.startswith("i")
    low = -(1 << (bits - 1)) if signed else 0
    dtype = np.dtype(f"{'' if signed else 'u'}int{max(bits, 8)}")
    values = np.random.default_rng(bits).integers(low, low + (1 << bits), (5, 13)).astype(dtype)
    path = tmp_path / "weight.bin"
    writer = _BlobStorageWriter(str(path))
    offset = getattr(writer, f"write_{kind}_data")(values.reshape(-1))
    del writer
    expected = np.asarray(getattr(_BlobStorageReader(str(path)), f"read_{kind}_data")(offset))
    reader = BlobReader(path)
    if bits >= 8:
        actual = reader.read(offset, dtype, values.shape)
    else:
        actual = unpack(reader.packed(offset, BY_NAME[kind], values.shape), bits, signed, values.shape)
    assert actual.dtype == dtype
    np.testing.assert_array_equal(actual, values)
    np.testing.assert_array_equal(actual.reshape(-1), expected)


def test_packed_integers_of_another_width_or_number_are_refused(tmp_path):
    from coremltools.libmilstoragepython import _BlobStorageWriter

    writer = _BlobStorageWriter(str(tmp_path / "weight.bin"))
    offset = writer.write_uint4_data(np.arange(9, dtype=np.uint8))
    del writer
    reader = BlobReader(tmp_path / "weight.bin")
    for kind, shape in (("int4", (9,)), ("uint2", (9,)), ("uint4", (11,))):
        with pytest.raises(BlobError, match="the blob at 64 is type 11 of 5 bytes, but the program expects"):
            reader.packed(offset, BY_NAME[kind], shape)
    with pytest.raises(ValueError, match="take 2 bytes, not 1"):
        unpack(np.zeros(1, np.uint8), 3, False, (4,))
    assert packed_size(3, (3, 3)) == 4


def test_weights_stay_in_their_file_until_they_are_used(ct, plain, tmp_path):
    model = compress(plain["iOS18"], palettes(ct, mode="uniform", nbits=4))
    model.save(str(tmp_path / "m.mlpackage"))
    weight = max(ours(tmp_path / "m.mlpackage").values(), key=lambda v: v.size)
    data = weight.sources["indices"].sources["data"]
    base = data
    while isinstance(base, np.ndarray):
        base = base.base
    assert isinstance(base, mmap.mmap)
    assert data.nbytes * 2 == weight.size == dense(weight).size


def test_parts_that_do_not_fit_together_are_named(ct, plain, tmp_path):
    compress(plain["iOS18"], linear(ct, mode="linear", dtype="int8")).save(str(tmp_path / "m.mlpackage"))
    weight = next(v for v in ours(tmp_path / "m.mlpackage").values() if v.kind.startswith("constexpr_"))
    for change in ({"scale": np.ones((5, 1, 1, 1), np.float16)}, {"data": np.zeros((3, 3), np.int8)}):
        broken = Compressed("w", weight.kind, 0, weight.shape, weight.dtype, {**weight.sources, **change})
        with pytest.raises(PackageError, match=r"^w \(constexpr_blockwise_shift_scale\) is damaged"):
            dense(broken)


HALVES, BYTES = np.ones((4, 2), np.float16), np.arange(32, dtype=np.int8).reshape(4, 8)
AFFINE = {"quantized_data": BYTES, "scale": HALVES[:, 0], "zero_point": np.int8(0).reshape(()), "axis": np.array(0)}
PALETTE = {"indices": np.zeros(20, np.uint8), "lut": HALVES[0].repeat(8), "shape": np.array([4, 8])}


@pytest.mark.parametrize(
    ("kind", "parameters", "words"),
    [
        (
            "affine_dequantize",
            {**AFFINE, "scale": HALVES[:2, 0]},
            "scale has the shape [2]; accepted: one number, or one",
        ),
        ("affine_dequantize", {**AFFINE, "zero_point": np.zeros((2, 2), np.int8)}, "zero_point has the shape [2, 2]"),
        ("affine_dequantize", {**AFFINE, "axis": np.array(2)}, "axis is 2, and quantized_data has 2 axes"),
        ("affine_dequantize", {**AFFINE, "scale": "1.0"}, "scale is text, not numbers"),
        ("affine_dequantize", {n: v for n, v in AFFINE.items() if n != "axis"}, "missing a required argument: 'axis'"),
        (
            "affine_dequantize",
            {**AFFINE, "quantized_data": BYTES.T, "scale": HALVES[0, 0]},
            "it is of [8, 4], and declared as [4, 8]",
        ),
        (
            "blockwise_shift_scale",
            {"data": BYTES, "scale": HALVES, "offset": BYTES[:2, :4]},
            "offset has the shape [2, 4]",
        ),
        ("blockwise_shift_scale", {"data": HALVES, "scale": HALVES[:3]}, "3 scales along axis 0 do not divide its 4"),
        ("lut_to_dense", {**PALETTE, "lut": np.ones(32, np.float16)}, "integers of 5 bits are not accepted"),
        (
            "sparse_to_dense",
            {"nonzero_data": HALVES[0, :1], "mask": BYTES},
            "nonzero_data has 1 elements, and the mask 31",
        ),
    ],
)
def test_parameters_that_mean_nothing_are_refused_in_words(kind, parameters, words):
    broken = Compressed("w", f"constexpr_{kind}", 0, (4, 8), np.dtype(np.float16), parameters)
    for refuse in (broken.check, broken.dense):
        with pytest.raises(PackageError, match=rf"^w \(constexpr_{kind}\) is damaged: {re.escape(words)}"):
            refuse()


@pytest.mark.parametrize("size", [0, 7])
def test_damaged_weights_that_are_decoded_at_each_use_are_refused_when_they_are_loaded(
    ct, plain, tmp_path, monkeypatch, size
):
    monkeypatch.setattr("converter.runtime.mil._LARGE", 1)
    monkeypatch.setattr("converter.runtime.mil._MANY_ROWS", 0)
    path = tmp_path / "m.mlpackage"
    compress(plain["iOS18"], linear(ct, mode="linear", dtype="int8")).save(str(path))
    (file,) = path.rglob("*.mlmodel")
    spec = ct.utils.load_spec(str(path))
    (block,) = spec.mlProgram.functions["main"].block_specializations.values()
    weight = next(op for op in block.operations if op.type == "constexpr_blockwise_shift_scale")
    weight.outputs[0].type.tensorType.dimensions[0].constant.size = size
    file.write_bytes(spec.SerializeToString())
    with pytest.raises(PackageError, match=r"it is of .*, and declared as"):
        load(path, precision="fp32")
