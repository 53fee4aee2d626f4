"""Whole networks that ``ct.convert`` makes of diffusers and transformers originals, run as PyTorch runs those."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers import ControlNetModel, SD3Transformer2DModel
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from torch import nn
from transformers import CLIPConfig, T5Config, T5EncoderModel

from converter.runtime import load
from converter.runtime.mil import MILNetwork
from tests.support.checkpoints import TEXT_WIDTH, tiny_text_encoder, tiny_unet, tiny_vae
from tests.support.mil_packages import halved, psnr

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def ct():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import coremltools
        from coremltools.converters.mil.frontend.torch import ops, register_torch_op

        # coremltools 9.0 does not know that an alias is its input; exported CLIP models have one.
        @register_torch_op(override=True)
        def alias(context, node):
            context.add(ops._get_inputs(context, node, expected=1)[0], node.name)

        yield coremltools


class Called(nn.Module):
    """A module's outputs as a function gives them, so that they export as plain tensors."""

    def __init__(self, module: nn.Module, call: Callable) -> None:
        super().__init__()
        self.module, self.call = module, call

    def forward(self, *given):
        return self.call(self.module, *given)


def unet():
    module = tiny_unet(
        down_block_types=("CrossAttnDownBlock2D",), up_block_types=("CrossAttnUpBlock2D",), block_out_channels=(16,)
    )
    given = (torch.randn(2, 4, 8, 8), torch.tensor([3.0, 901.0]), torch.randn(2, 7, TEXT_WIDTH))
    return Called(module, lambda m, *x: m(*x, return_dict=False)[0]), given


def controlnet():
    shape = tiny_unet(
        down_block_types=("CrossAttnDownBlock2D",), up_block_types=("CrossAttnUpBlock2D",), block_out_channels=(16,)
    )
    module = ControlNetModel.from_unet(
        shape, conditioning_embedding_out_channels=(4, 4, 8, 8), load_weights_from_unet=False
    )
    for parameter in module.parameters():  # its convolutions are born as zeros
        parameter.data += 0.02 * torch.randn_like(parameter)
    given = (
        torch.randn(2, 4, 8, 8),
        torch.tensor([3.0, 901.0]),
        torch.randn(2, 7, TEXT_WIDTH),
        torch.rand(2, 3, 64, 64),
    )

    def call(m, *x):
        down, middle = m(*x, return_dict=False)
        return (*down, middle)

    return Called(module, call), given


def vae_decoder():
    return Called(tiny_vae(), lambda m, z: m.decode(z, return_dict=False)[0]), (torch.randn(1, 4, 8, 8),)


def vae_encoder():
    return Called(tiny_vae(), lambda m, x: m.quant_conv(m.encoder(x))), (torch.rand(1, 3, 64, 64) * 2 - 1,)


def text_encoder():
    module = tiny_text_encoder(515)
    ids = torch.randint(0, 513, (1, 77))
    ids[0, 40:] = 514
    return Called(module, lambda m, x: tuple(m(x, return_dict=False)[:2])), (ids,)


def mmdit(**changes):
    settings = {
        "sample_size": 8,
        "patch_size": 2,
        "in_channels": 4,
        "out_channels": 4,
        "num_layers": 2,
        "attention_head_dim": 8,
        "num_attention_heads": 2,
        "joint_attention_dim": 16,
        "caption_projection_dim": 16,
        "pooled_projection_dim": 12,
        "pos_embed_max_size": 8,
    }
    given = (torch.randn(2, 4, 8, 8), torch.randn(2, 5, 16), torch.randn(2, 12), torch.tensor([3.0, 901.0]))
    module = SD3Transformer2DModel(**(settings | changes))
    return Called(module, lambda m, *x: m(*x, return_dict=False)[0]), given


def mmdit_of_3_5():
    return mmdit(qk_norm="rms_norm", dual_attention_layers=(0,))


def t5():
    config = T5Config(
        vocab_size=50,
        d_model=16,
        d_kv=8,
        d_ff=32,
        num_layers=2,
        num_heads=2,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
    )
    ids = torch.randint(0, 50, (1, 40))  # far enough apart for the logarithmic buckets
    return Called(T5EncoderModel(config), lambda m, x: m(x, return_dict=False)[0]), (ids,)


def safety_checker():
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = CLIPConfig(text_config={}, vision_config=vision | {"image_size": 28, "patch_size": 14}, projection_dim=16)
    module = StableDiffusionSafetyChecker(config).eval()
    module.concept_embeds.data.normal_()
    module.special_care_embeds_weights.data.fill_(2.0)
    module.concept_embeds_weights.data.fill_(2.0)
    images = torch.randn(2, 3, 28, 28)
    with torch.no_grad():
        embeddings = module.visual_projection(module.vision_model(images)[1])
        likeness = F.cosine_similarity(embeddings, module.concept_embeds[3], dim=1)
    module.concept_embeds_weights.data[3] = likeness.mean()  # one of the two images is unsafe
    # The original writes into the images it is given, which a program's inputs do not allow.
    return Called(module, lambda m, x, y: m.forward_onnx(x, y.clone())), (images, torch.rand(2, 8, 8, 3))


class Dense(nn.Module):
    """ESRGAN's residual dense block."""

    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        outs = [growth] * 4 + [width]
        self.convs = nn.ModuleList(nn.Conv2d(width + i * growth, out, 3, padding=1) for i, out in enumerate(outs))

    def forward(self, x):
        features = [x]
        for conv in self.convs[:4]:
            features.append(F.leaky_relu(conv(torch.cat(features, 1)), 0.2))
        return x + 0.2 * self.convs[4](torch.cat(features, 1))


class Upscaler(nn.Module):
    """An ESRGAN with every way that such networks are known to enlarge an image."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, width, 3, padding=1), nn.Conv2d(width, 3, 3, padding=1)
        self.trunk = nn.Sequential(Dense(width, 8), Dense(width, 8), nn.Conv2d(width, width, 3, padding=1))
        self.after = nn.Conv2d(width, width, 3, padding=1)
        self.shuffled = nn.Sequential(nn.Conv2d(width, 4 * width, 3, padding=1), nn.PixelShuffle(2), nn.PReLU(width))
        self.transposed = nn.ConvTranspose2d(width, width, 3, 2, 1, output_padding=1)

    def forward(self, x):
        h = self.first(x)
        h = h + self.trunk(h)
        h = F.leaky_relu(self.after(F.interpolate(h, scale_factor=2, mode="nearest")), 0.2)
        h = F.interpolate(h, scale_factor=2, mode="bilinear", align_corners=False)
        return torch.clamp(self.last(self.transposed(self.shuffled(h))), -1, 1)


def upscaler():
    return Upscaler(), (torch.rand(1, 3, 9, 10),)


@pytest.mark.parametrize(
    ("make", "target"),
    [
        (unet, "macOS13"),
        (unet, "macOS15"),
        (controlnet, "macOS14"),
        (vae_decoder, "macOS15"),
        (vae_encoder, "macOS13"),
        (text_encoder, "macOS15"),
        (mmdit, "macOS14"),
        (mmdit_of_3_5, "macOS15"),
        (t5, "macOS15"),
        (safety_checker, "macOS13"),
        (upscaler, "macOS13"),
        (upscaler, "macOS15"),
    ],
)
def test_a_package_of_ct_convert_computes_what_its_original_does(ct, tmp_path, make, target):
    torch.manual_seed(0)
    module, given = make()
    module = halved(module)
    # coremltools 9.0 lacks this one form of torch.where, which T5's buckets of distance use.
    table = {torch.ops.aten.where.ScalarOther: lambda which, x, other: torch.where(which, x, torch.full_like(x, other))}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        expected = module(*given)
        exported = torch.export.export(module, given).run_decompositions(table)
        model = ct.convert(exported, minimum_deployment_target=ct.target[target], skip_model_load=True)
        model.save(str(tmp_path / "m.mlpackage"))
    network, fast = MILNetwork(tmp_path / "m.mlpackage"), load(tmp_path / "m.mlpackage")
    arrays = {n: x.numpy().astype(f.dtype) for (n, f), x in zip(network.inputs.items(), given, strict=True)}
    actual, quick = (list(one.predict(arrays).values()) for one in (network, fast))
    originals = expected if isinstance(expected, tuple) else (expected,)
    for ours, rounded, theirs in zip(actual, quick, originals, strict=True):
        theirs = theirs.float().numpy()
        assert ours.shape == rounded.shape == theirs.shape
        assert psnr(ours.astype(np.float32), theirs) >= 60
        assert psnr(rounded.astype(np.float32), theirs) >= 45
