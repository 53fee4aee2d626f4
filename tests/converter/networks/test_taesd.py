"""The tiny autoencoder's decoder against diffusers."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny

from converter.errors import CheckpointError
from converter.mil import FP32, Graph, Weights
from converter.networks.layers import Layers
from converter.networks.taesd import taesd_decoder
from converter.runtime.program import read_program
from tests.support.mil_packages import as_written, halved, package_of, psnr

#: What published TAESD and TAESDXL say of themselves.
PUBLISHED = {
    "act_fn": "relu",
    "decoder_block_out_channels": [64, 64, 64, 64],
    "encoder_block_out_channels": [64, 64, 64, 64],
    "force_upcast": False,
    "in_channels": 3,
    "latent_channels": 4,
    "latent_magnitude": 3,
    "latent_shift": 0.5,
    "num_decoder_blocks": [3, 3, 3, 1],
    "num_encoder_blocks": [1, 3, 3, 3],
    "out_channels": 3,
    "scaling_factor": 1.0,
    "upsampling_scaling_factor": 2,
}


def tiny(**changes):
    torch.manual_seed(6)
    settings = {
        "encoder_block_out_channels": (8, 8, 8),
        "decoder_block_out_channels": (8, 8, 8),
        "num_encoder_blocks": (1, 1, 1),
        "num_decoder_blocks": (2, 1, 1),
    }
    return halved(AutoencoderTiny(**(settings | changes)))


def package(module, folder, height, width):
    config = dict(module.config)
    return package_of(module, folder, lambda layers: taesd_decoder(layers, config, height=height, width=width))


@pytest.mark.parametrize(
    "changes",
    [{}, {"latent_channels": 16}, {"latent_magnitude": 2, "latent_shift": 0.1}],
    ids=["as shipped", "sixteen latent channels", "another byte scale"],
)
def test_a_decoder_paints_what_diffusers_paints(tmp_path, changes):
    module = tiny(**changes)
    # Latents several times the clamp's reach, where it matters.
    z = (4 * np.random.default_rng(0).standard_normal((1, module.config.latent_channels, 6, 8))).astype(np.float16)
    with torch.no_grad():
        expected = module.decode(torch.from_numpy(z).float()).sample.numpy()
    actual = as_written(package(module, tmp_path, 24, 32)).predict({"z": z})["image"]
    assert actual.shape == (1, 3, 24, 32)
    assert psnr(actual, expected) > 70


class Shapes:
    """A module's tensors as zeros that take no memory."""

    def __init__(self, module):
        self._shapes = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
        self.read = set()

    def __contains__(self, name):
        return name in self._shapes

    def shape(self, name):
        return self._shapes[name]

    def array(self, name):
        self.read.add(name)
        return np.broadcast_to(np.float16(0), self._shapes[name])


class Noted(Weights):
    """Weights that are asked for and not written."""

    def __init__(self):
        self.names = set()

    def place(self, name, values):
        self.names.add(name)
        return 0


def test_the_published_decoder_becomes_a_graph_of_all_its_weights():
    with torch.device("meta"):
        module = AutoencoderTiny.from_config(PUBLISHED)
    weights, tensors = Noted(), Shapes(module)
    graph = Graph(weights)
    taesd_decoder(Layers(graph, tensors), PUBLISHED, height=512, width=768)
    assert [(t.name, t.shape) for t in graph.inputs] == [("z", (1, 4, 64, 96))]
    assert [(t.name, t.shape, t.dtype) for t in graph.outputs] == [("image", (1, 3, 512, 768), FP32)]
    # The last bias is so small that it is kept in the program.
    assert weights.names | tensors.read == {name for name in module.state_dict() if name.startswith("decoder.")}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"act_fn": "silu"}, "act_fn = 'silu'; accepted: 'relu'"),
        ({"upsample_fn": "bilinear"}, "upsample_fn = 'bilinear'; accepted: 'nearest'"),
        ({"upsampling_scaling_factor": 4}, "upsampling_scaling_factor = 4; accepted: 2"),
        ({"out_channels": 4}, "out_channels = 4; accepted: 3"),
        ({"scaling_factor": 0.18215}, "scaling_factor = 0.18215; accepted: 1.0"),
        ({"shift_factor": 0.1}, "shift_factor = 0.1; accepted: 0.0"),
        ({"decoder_block_out_channels": [64, 32, 32, 16]}, "the same width for all levels"),
        ({"num_decoder_blocks": [3, 3]}, "num_decoder_blocks for 2 levels and decoder_block_out_channels for 4"),
    ],
)
def test_a_decoder_of_another_kind_is_refused_by_name(changes, words):
    with torch.device("meta"):
        module = AutoencoderTiny.from_config(PUBLISHED)
    with pytest.raises(CheckpointError, match=words):
        taesd_decoder(Layers(Graph(Noted()), Shapes(module)), PUBLISHED | changes, height=512, width=512)


def test_coremltools_loads_the_decoder(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import coremltools as ct
        from coremltools.converters.mil.frontend.milproto.load import load as load_program

        path = package(tiny(), tmp_path, 16, 16)
        spec = ct.utils.load_spec(str(path))
        program = load_program(spec, spec.specificationVersion, str(path / "Data/com.apple.CoreML/weights"))
    shapes = {name: feature.shape for name, feature in read_program(path).outputs.items()}
    assert {v.name: tuple(v.shape) for v in program.functions["main"].outputs} == shapes
