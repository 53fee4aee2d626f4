"""What we emit, held against what coremltools 9.0 emits for each deployment target, operation by operation.

The modules here hold one of each operation in the forms the networks use; ``ct.convert`` of them is the golden.
"""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from torch import nn

from converter.mil import FP16, FP32, TARGETS, Graph, TargetError, target_named
from converter.mil.mlproto import mil, ml
from converter.runtime import load as load_package
from converter.runtime.program import read_model
from tests.support.tiny_networks import NETWORKS, TinyNetworks

pytestmark = pytest.mark.slow

#: Int16 indices are what coremltools gives tables smaller than 2**15 rows; CLIP's has 49408.
ROWS = 2**15 + 1


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    return TinyNetworks(tmp_path_factory.mktemp("networks"))


@pytest.fixture(scope="module")
def packages(networks, tmp_path_factory):
    """(network, target) -> its package."""
    out = tmp_path_factory.mktemp("packages")
    return {
        (name, target.name): networks.package(name, target, out / name / target.name)
        for name in NETWORKS
        for target in TARGETS.values()
    }


class Half(nn.Module):
    """What the networks compute in fp16."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.GroupNorm(4, 16)
        with torch.no_grad():
            self.norm.weight.uniform_(0.5, 1.5)
            self.norm.bias.uniform_(-1, 1)
        self.point, self.layer_norm, self.words = nn.Conv2d(16, 16, 1), nn.LayerNorm(16), nn.Embedding(ROWS, 16)
        self.projection = nn.Conv2d(16, 12, 1, bias=False)
        self.token = nn.Parameter(torch.randn(1, 16, 1, 1))
        self.places, self.mask = nn.Parameter(torch.randn(1, 7, 16)), nn.Parameter(torch.randn(1, 256, 1, 256))

    def forward(self, x, ids, pooled_ids):
        h = self.conv(x)
        h = h + nn.functional.silu(self.norm(h))
        h = nn.functional.interpolate(h, scale_factor=2.0, mode="nearest")
        padded = nn.functional.pad(h, (0, 1, 0, 1))
        s = self.point(h.reshape(2, 16, 1, 256))
        left, right = s.chunk(2, dim=1)
        gated = left * nn.functional.gelu(right)
        keys = s.transpose(1, 3)
        logits = torch.einsum("bchq,bkhc->bkhq", s[:, :8], keys[..., :8])
        mixed = torch.einsum("bkhq,bchk->bchq", (logits + self.mask).softmax(1), s[:, :8])
        heads = s.reshape(2, 2, 8, 256)
        share = torch.matmul(heads.transpose(2, 3), heads).softmax(3)
        whole = torch.matmul(heads, share.transpose(2, 3))
        words = self.words(ids.int()) + self.places
        turned = self.layer_norm(words).transpose(1, 2).unsqueeze(2)
        gate = turned * torch.sigmoid(1.702 * turned)
        states = gate.reshape(1, 16, 7).transpose(1, 2)
        first = torch.arange(1)
        own = (ids.int() < ROWS - 1).int()
        last, end = (ids.int() * own).argmax(-1), (pooled_ids.int() == 3).int().argmax(-1)
        projected = self.projection(states[first, end].unsqueeze(2).unsqueeze(3)).reshape(1, 12)
        bounded = torch.relu(torch.tanh(torch.cat([self.token, turned], 3)))
        return padded, gated, torch.cat([mixed, mixed], 1), whole, states[first, last], projected, bounded


class Single(nn.Module):
    """What they compute in fp32."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.rand(1, 16))
        self.conv, self.norm = nn.Conv2d(16, 12, 1, bias=False), nn.GroupNorm(1, 16)
        self.register_buffer("thresholds", torch.rand(1, 16, 1, 1))

    def forward(self, timestep, embedding, passed):
        angles = timestep.float().unsqueeze(1) * self.frequencies
        waves = torch.cat([angles.cos(), angles.sin()], 1)
        x = self.norm(embedding.float())
        x = x / torch.sqrt(x.mean(1, keepdim=True) + 1e-3)
        margins = x - self.thresholds
        actual = (margins[:, :4].amax(1, keepdim=True) > 0.0005).float()
        return waves.half(), self.conv(x), (margins + actual * 0.01).reshape(1, 16), 1 - actual, passed


def converted(ct, module, shapes, outputs, target, **more):
    """The model that ``ct.convert`` makes; ``shapes`` and types of inputs by name, types of outputs in order."""
    examples = tuple(torch.rand(shape) for shape, _ in shapes.values())
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        return ct.convert(
            torch.jit.trace(module.eval(), examples),
            inputs=[ct.TensorType(name, shape, dtype=dtype) for name, (shape, dtype) in shapes.items()],
            outputs=[ct.TensorType(dtype=dtype) for dtype in outputs],
            minimum_deployment_target=getattr(ct.target, target),
            skip_model_load=True,
            **more,
        ).get_spec()


@pytest.fixture(scope="module")
def goldens(ct):
    """Target -> the goldens for it."""
    half, single = np.float16, np.float32
    words = {"x": ((2, 8, 16, 16), half), "ids": ((1, 7), single), "pooled_ids": ((1, 7), single)}
    numbers = {"timestep": ((2,), half), "embedding": ((1, 16, 1, 1), half), "passed": ((1, 3), single)}
    return {
        target: [
            converted(ct, Half(), words, [single] * 7, target),
            converted(
                ct,
                Single(),
                numbers,
                [half, single, single, single, single],
                target,
                compute_precision=ct.precision.FLOAT32,
            ),
        ]
        for target in TARGETS
    }


def body(model):
    """The operations of a model of one function."""
    (function,) = model.mlProgram.functions.values()
    (block,) = function.block_specializations.values()
    return function, block.operations


def named(number):
    return mil().DataType.Name(number)


def signatures(model):
    """Operation -> the parameters it was given: constant or not, type, a constant's rank; and the types it gives."""
    function, operations = body(model)
    known = {i.name: ("tensor", named(i.type.tensorType.dataType)) for i in function.inputs}
    actual: dict[str, set[tuple]] = {}
    for op in operations:
        types = tuple(named(out.type.tensorType.dataType) for out in op.outputs)
        if op.type == "const":
            rank = len(op.outputs[0].type.tensorType.dimensions)
            known[op.outputs[0].name] = ("constant", *types, rank)
            continue
        known |= {out.name: ("tensor", kind) for out, kind in zip(op.outputs, types, strict=True)}
        parameters = frozenset((key, frozenset(known[a.name] for a in v.arguments)) for key, v in op.inputs.items())
        actual.setdefault(op.type, set()).add((parameters, frozenset(types), frozenset(op.attributes)))
    return actual


def storage(model):
    """How constants are kept: type, whether there are ten or more values, and in which field."""
    actual = set()
    for op in body(model)[1]:
        if op.type == "const":
            value = op.attributes["val"]
            sizes = [d.constant.size for d in value.type.tensorType.dimensions]
            field = value.WhichOneof("value")
            if field == "immediateValue":
                field = value.immediateValue.tensor.WhichOneof("value")
            actual.add((named(value.type.tensorType.dataType), np.prod(sizes, dtype=int) >= 10, field))
    return actual


@pytest.fixture(scope="module")
def spelled(goldens):
    """Target -> all signatures of its goldens."""
    actual: dict[str, dict[str, set]] = {target: {} for target in goldens}
    for target, models in goldens.items():
        for model in models:
            for kind, forms in signatures(model).items():
                actual[target].setdefault(kind, set()).update(forms)
    return actual


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("network", NETWORKS)
def test_operations_are_spelled_as_coremltools_spells_them(spelled, packages, network, target):
    ours = signatures(read_model(packages[network, target]))
    assert len(ours) >= (4 if network == "unet_prompt" else 9)
    for kind, forms in ours.items():
        assert forms <= spelled[target].get(kind, set()), kind


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_so_are_the_forms_that_the_networks_here_do_not_use(spelled, networks, tmp_path, target):
    with networks.weights(tmp_path / "weights") as weights:
        graph = Graph(weights, target)
        small = graph.cast(graph.input("x", (1, 16, 1, 1), FP32), FP16, "small")
        token = graph.weight("token", (1, 16, 1, 1), FP16, lambda: np.ones((1, 16, 1, 1), np.float16))
        joined = graph.unary("relu", graph.unary("tanh", graph.concat([token, small], 3, "joined"), "bounded"), "rest")
        x = graph.cast(joined, FP32, "wide")
        above = graph.greater(graph.reduce_max(x, [1], "most"), 0.5, "above")
        graph.output(graph.sub(graph.constant("one", np.float32(1)), graph.cast(above, FP32, "found"), "kept"), "y")
    model = ml().Model()
    model.mlProgram.functions["main"].CopyFrom(graph.function)
    ours = signatures(model)
    assert set(ours) == {"cast", "concat", "tanh", "relu", "reduce_max", "greater", "sub", "identity"}
    for kind, forms in ours.items():
        assert forms <= spelled[target.name].get(kind, set()), kind


@pytest.mark.parametrize("target", TARGETS)
def test_constants_are_kept_where_and_how_coremltools_keeps_them(goldens, packages, target):
    theirs = set().union(*(storage(model) for model in goldens[target]))
    for network in NETWORKS:
        assert storage(read_model(packages[network, target])) <= theirs, network


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_a_target_has_the_opset_and_version_that_coremltools_gives_it(goldens, packages, target):
    golden, model = goldens[target.name][0], read_model(packages["unet", target.name])
    assert model.specificationVersion == golden.specificationVersion == target.specification_version
    functions = body(golden)[0], body(model)[0]
    assert [f.opset for f in functions] == [target.opset] * 2
    assert [list(f.block_specializations) for f in functions] == [[target.opset]] * 2


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("network", NETWORKS)
def test_coremltools_loads_every_package_and_infers_the_types_we_wrote(ct, packages, network, target):
    from coremltools.converters.mil.frontend.milproto.load import load
    from coremltools.converters.mil.mil.types import builtin_to_string

    path = packages[network, target]
    spec = ct.utils.load_spec(str(path))
    program = load(spec, spec.specificationVersion, str(path / "Data/com.apple.CoreML/weights"))
    words = {"FLOAT16": "fp16", "FLOAT32": "fp32", "INT32": "int32", "UINT16": "uint16", "BOOL": "bool"}
    written = {
        out.name: (
            tuple(d.constant.size for d in out.type.tensorType.dimensions),
            words[named(out.type.tensorType.dataType)],
        )
        for op in body(read_model(path))[1]
        if op.type != "const"
        for out in op.outputs
    }
    inferred = {
        out.name: (tuple(out.shape), builtin_to_string(out.dtype))
        for op in program.functions["main"].operations
        if op.op_type != "const"
        for out in op.outputs
    }
    assert inferred == written


@pytest.mark.parametrize("target", TARGETS)
def test_coremltools_opens_a_package_and_leaves_it_as_it_is(ct, packages, target):
    for network in NETWORKS:
        path = packages[network, target]
        before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
        opened = ct.models.MLModel(str(path), skip_model_load=True).get_spec()
        assert opened == ct.utils.load_spec(str(path))
        assert [o.name for o in opened.description.output] == [o.name for o in read_model(path).description.output]
        assert {file: file.read_bytes() for file in path.rglob("*") if file.is_file()} == before


@pytest.mark.parametrize("network", NETWORKS)
def test_the_weights_file_is_the_same_for_every_target(packages, network):
    files = [packages[network, t] / "Data/com.apple.CoreML/weights/weight.bin" for t in TARGETS]
    first, *others = (file.read_bytes() for file in files)
    assert len(first) > 1000
    assert all(other == first for other in others)


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_the_same_network_gives_the_same_bytes(networks, packages, tmp_path, target):
    again, first = networks.package("text_encoder", target, tmp_path / "again"), packages["text_encoder", target.name]
    names = [p.relative_to(first) for p in first.rglob("*") if p.is_file()]
    assert len(names) == 3
    for name in names:
        assert (again / name).read_bytes() == (first / name).read_bytes(), name


@pytest.mark.parametrize("network", ["text_encoder", "text_encoder_2"])
def test_targets_differ_in_spelling_alone(packages, network):
    ids = np.random.default_rng(0).permutation(500)[None, :77].astype(np.float32)
    ids[0, 40] = 514
    first, *others = (load_package(packages[network, target]).predict({"input_ids": ids}) for target in TARGETS)
    assert np.abs(first["pooled_outputs"]).max() > 0.01
    for other in others:
        for name, array in first.items():
            np.testing.assert_array_equal(other[name], array)


def test_an_unknown_target_is_refused_by_name():
    assert target_named("macOS14").opset == "CoreML7"
    with pytest.raises(TargetError, match="unknown deployment target 'macOS12'; accepted: macOS13, macOS14, macOS15"):
        target_named("macOS12")


def test_names_that_programs_do_not_take_are_changed_or_refused(ct, networks, tmp_path):
    from coremltools.converters.mil.mil.passes.defs.preprocess import NameSanitizer

    with networks.weights(tmp_path / "weights") as weights:
        graph = Graph(weights)
    x = graph.input("x", (1, 4), FP32)
    for name in ("0.proj", "tensor", "state", "a b", "üb", "fp16", "_under"):
        actual = graph.unary("relu", x, name).name
        assert NameSanitizer().sanitize_name(actual) == actual
    for name in ("512", "tensor", "a-b", ""):
        with pytest.raises(ValueError, match="cannot name an input or output"):
            graph.input(name, (1,), FP32)
    with pytest.raises(ValueError, match="'x' is already in use"):
        graph.output(x, "x")


def test_a_constant_that_belongs_in_the_weights_file_is_refused(networks, tmp_path):
    with networks.weights(tmp_path / "weights") as weights:
        graph = Graph(weights)
    assert graph.constant("nine", np.zeros(9, np.float16)).shape == (9,)
    with pytest.raises(ValueError, match="'ten' has 10 floats"):
        graph.constant("ten", np.zeros(10, np.float16))
