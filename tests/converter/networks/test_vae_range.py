"""SDXL's autoencoder in fp16: evaluated with every operation's result rounded, against diffusers in fp32."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from diffusers.models.resnet import ResnetBlock2D

from converter.networks.vae import trunk_scale, vae_config, vae_decoder, vae_encoder
from converter.runtime.ops import OPERATORS
from converter.runtime.program import read_program
from tests.support.checkpoints import SIDE, tiny_vae
from tests.support.mil_packages import as_written, halved, package_of, psnr

XL = {"scaling_factor": 0.13025, "force_upcast": True}
FITTED = {"scaling_factor": 0.13025, "force_upcast": False}
#: The least normal fp16; what is below may be taken for 0.
NORMAL = 2.0**-14


def half(values, flush):
    """Values as an fp16 unit keeps them: infinite beyond 65504, and 0 below the normal numbers where it flushes."""
    values = values.half().float()
    return torch.where(values.abs() < NORMAL, torch.zeros_like(values), values) if flush else values


def held(value, flush):
    if isinstance(value, str):
        return value
    tensor = torch.from_numpy(np.array(value))
    return half(tensor.float(), flush) if value.dtype == np.float16 else tensor


def in_half(path, inputs, *, flush=False):
    """The outputs of the package at ``path`` with every fp16 result rounded to fp16."""
    program = read_program(path)
    live = {name: torch.from_numpy(array).float() for name, array in inputs.items()}
    for op in program.operations:
        given = {name: [held(v, flush) for v in values] for name, values in op.constants.items()}
        given |= {name: [live[n] for n in names] for name, names in op.inputs.items()}
        results = OPERATORS[op.kind](**{name: v if name == "values" else v[0] for name, v in given.items()})
        results = results if isinstance(results, list) else [results]
        for name, result, dtype in zip(op.outputs, results, op.dtypes, strict=True):
            live[name] = half(result, flush) if dtype == np.float16 else result
    return {name: live[name].numpy() for name in program.outputs}


def loud(module):
    """The module with branches that add tens of thousands, and more on every level, to sums that begin below 1."""
    with torch.no_grad():
        for block in (m for m in module.modules() if isinstance(m, ResnetBlock2D)):
            for norm, conv in ((block.norm1, block.conv1), (block.norm2, block.conv2)):
                norm.weight.mul_(400)
                norm.bias.normal_(0, 40)
                conv.weight.mul_(600)
                conv.bias.normal_(0, 2000)
        for norm in (module.decoder.conv_norm_out, module.encoder.conv_norm_out):
            norm.weight.mul_(2)
    return halved(module)


def usual(module):
    """The module with weights that keep its sums between 1 and 100, where plain fp16 is at its best."""
    torch.manual_seed(5)
    for weight in module.parameters():
        if weight.ndim > 1:
            torch.nn.init.kaiming_normal_(weight)
    return halved(module)


def given(network):
    rng = np.random.default_rng(3)
    if network is vae_decoder:
        return {"z": rng.standard_normal((1, 4, SIDE // 8, SIDE // 8)).astype(np.float16)}
    return {"x": rng.uniform(-1, 1, (1, 3, SIDE, SIDE)).astype(np.float16)}


def expected(network, module, inputs):
    """What diffusers makes of the inputs, and the greatest value of a residual block's result or of its first half."""
    greatest = []

    def look(module, args, result):
        greatest.append(float(result.abs().max()))

    blocks = [m for m in module.modules() if isinstance(m, ResnetBlock2D)]
    hooks = [m.register_forward_hook(look) for block in blocks for m in (block, block.conv1)]
    (x,) = (torch.from_numpy(array).float() for array in inputs.values())
    with torch.no_grad():
        # Not by encode(), whose distribution clamps the log variance.
        actual = module.decode(x).sample if network is vae_decoder else module.quant_conv(module.encoder(x))
    for hook in hooks:
        hook.remove()
    return actual.numpy(), max(greatest)


def package(network, module, folder, config):
    return package_of(module, folder, lambda layers: network(layers, config, height=SIDE, width=SIDE))


@pytest.mark.parametrize("flush", [False, True], ids=["subnormals kept", "subnormals flushed"])
@pytest.mark.parametrize("network", [vae_decoder, vae_encoder])
def test_what_overflows_in_plain_fp16_is_right_in_the_scaled_form(tmp_path, network, flush):
    module = loud(tiny_vae(**XL))
    inputs = given(network)
    wanted, greatest = expected(network, module, inputs)
    assert 2e5 < greatest < 65504 / trunk_scale(XL)

    plain = package(network, module, tmp_path / "plain", dict(module.config) | FITTED)
    (broken,) = in_half(plain, inputs, flush=flush).values()
    assert not np.isfinite(broken).all()

    scaled = package(network, module, tmp_path / "scaled", dict(module.config))
    (actual,) = in_half(scaled, inputs, flush=flush).values()
    assert psnr(actual, wanted) > 50
    (exact,) = as_written(scaled).predict(inputs).values()
    assert psnr(exact, wanted) > 90


@pytest.mark.parametrize("network", [vae_decoder, vae_encoder])
def test_at_usual_magnitudes_the_scaled_form_is_as_good_as_the_plain_one(tmp_path, network):
    module = usual(tiny_vae(**XL))
    inputs = given(network)
    wanted, greatest = expected(network, module, inputs)
    assert 1 < greatest < 255
    paths = [
        package(network, module, tmp_path / name, dict(module.config) | config)
        for name, config in (("plain", FITTED), ("scaled", XL))
    ]
    (plain,), (scaled,) = (in_half(path, inputs).values() for path in paths)
    assert psnr(scaled, wanted) > max(60, psnr(plain, wanted) - 3)
    (exact,) = as_written(paths[1]).predict(inputs).values()
    assert psnr(exact, wanted) > 90


def test_a_group_of_one_value_and_a_group_near_the_epsilon_are_normalised_exactly(tmp_path):
    """Zero latents make constant groups; latents of 1e-3 with no bias make variances of the epsilon's size."""
    module = tiny_vae(**XL)
    with torch.no_grad():
        module.decoder.conv_in.bias.zero_()
        module.post_quant_conv.bias.zero_()
    halved(module)
    path = package(vae_decoder, module, tmp_path, dict(module.config))
    for size in (0, 1e-3):
        inputs = {"z": (given(vae_decoder)["z"] * size).astype(np.float16)}
        wanted, _ = expected(vae_decoder, module, inputs)
        (actual,) = as_written(path).predict(inputs).values()
        assert psnr(actual, wanted) > 70


@pytest.mark.parametrize(
    ("config", "scale"),
    [
        (XL, 2**-5),
        ({"scaling_factor": 0.13025}, 2**-5),
        (FITTED, 1),
        ({"scaling_factor": 0.18215, "force_upcast": True}, 1),
        ({}, 1),
    ],
    ids=["sdxl", "sdxl without a word", "made for fp16", "sd1 saved by a new diffusers", "sd1"],
)
def test_only_sdxls_own_autoencoder_is_scaled(tmp_path, config, scale):
    levels = {
        "block_out_channels": [32],
        "down_block_types": ["DownEncoderBlock2D"],
        "up_block_types": ["UpDecoderBlock2D"],
    }
    assert trunk_scale(vae_config("vae", levels | config)) == scale
    module = tiny_vae()
    settings = vae_config("vae", {k: v for k, v in module.config.items() if k not in XL} | config)
    kinds = {op.kind for op in read_program(package(vae_decoder, module, tmp_path, settings)).operations}
    assert ("reduce_max" in kinds) == (scale != 1)


@pytest.mark.parametrize("network", [vae_decoder, vae_encoder])
def test_coremltools_loads_the_scaled_form(tmp_path, network):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import coremltools as ct
        from coremltools.converters.mil.frontend.milproto.load import load as load_program

        module = tiny_vae(**XL)
        path = package(network, module, tmp_path, dict(module.config))
        spec = ct.utils.load_spec(str(path))
        program = load_program(spec, spec.specificationVersion, str(path / "Data/com.apple.CoreML/weights"))
    shapes = {name: feature.shape for name, feature in read_program(path).outputs.items()}
    assert {v.name: tuple(v.shape) for v in program.functions["main"].outputs} == shapes
