"""Every tensor a network takes is there and has the shape its configuration gives it, before anything is written."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderTiny, ControlNetModel, UNet2DConditionModel
from safetensors.torch import load_file, save_file

from converter.conversion.planning import make_plan
from converter.errors import CheckpointError
from converter.options import ConvertOptions
from converter.sources.source import open_source
from tests.support.checkpoints import write_checkpoint, write_xl_checkpoint

UNET, VAE = "unet/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.safetensors"
TEXT, TEXT_2 = "text_encoder/model.safetensors", "text_encoder_2/model.safetensors"
PREVIEW, CONTROL = "preview/diffusion_pytorch_model.safetensors", "control/diffusion_pytorch_model.safetensors"
EXTRA = {"control": "controlnet", "preview": "preview_decoder"}


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Stable Diffusion 1 and an XL checkpoint, a tiny autoencoder and a ControlNet."""
    root = tmp_path_factory.mktemp("sources")
    write_checkpoint(root / "sd1")
    write_xl_checkpoint(root / "sdxl")
    torch.manual_seed(3)
    tiny = AutoencoderTiny(decoder_block_out_channels=(8,) * 4, encoder_block_out_channels=(8,) * 4)
    tiny.save_pretrained(root / "sd1" / "preview")
    unet = UNet2DConditionModel.from_pretrained(root / "sd1" / "unet", dtype=torch.float32)
    ControlNetModel.from_unet(unet).save_pretrained(root / "sd1" / "control")
    return root


def kinds(file: Path) -> list[str]:
    """A tensor of every kind in a file: the first of those whose names differ in numbers alone."""
    actual: dict[str, str] = {}
    for name in sorted(load_file(file)):
        actual.setdefault(re.sub(r"\d+", "0", name), name)
    return list(actual.values())


def damaged(source: Path, folder: Path, file: str, change: Callable[[dict[str, torch.Tensor]], None]) -> Path:
    shutil.copytree(source, folder)
    weights = load_file(folder / file)
    change(weights)
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, folder / file)
    return folder


def left_out(folder: Path) -> list[str]:
    preview, control = folder / "preview", folder / "control"
    options = ConvertOptions(
        verify=False,
        preview=str(preview) if preview.is_dir() else None,
        controlnets=(str(control),) if control.is_dir() else (),
    )
    return make_plan(open_source(folder), options).left_out()


def taken(sources: Path, family: str, file: str) -> list[str]:
    """Tensors of every kind that a network takes: those not named as left out."""
    said = " ".join(left_out(sources / family))
    return [n for n in kinds(sources / family / file) if n not in said and not n.startswith("encoder.layers")]


HARMS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "larger": lambda t: torch.zeros(t.shape[0] + 1, *t.shape[1:], dtype=t.dtype),
    "flat": lambda t: t.reshape(-1) if t.ndim > 1 else torch.zeros(2, t.shape[0], dtype=t.dtype),
    "empty": lambda t: torch.zeros(0, dtype=t.dtype),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "file"), [("sd1", UNET), ("sd1", VAE), ("sd1", TEXT), ("sdxl", UNET), ("sdxl", TEXT_2), ("sd1", CONTROL)]
)
def test_a_tensor_that_is_missing_or_of_another_shape_is_refused_by_name(sources, tmp_path, family, file):
    names = taken(sources, family, file)
    assert len(names) > 15
    # Of the largest networks every third.
    for number, name in enumerate(names[:: 1 + 2 * (len(names) > 60)]):
        # Each weight is harmed in one way, each bias is left out: the layer would be one without, which some are.
        harm = None if name.endswith("bias") else [*HARMS.values(), None][number % 4]

        def change(weights: dict[str, torch.Tensor], name: str = name, harm: Any = harm) -> None:
            tensor = weights.pop(name)
            if harm is not None:
                weights[name] = harm(tensor)

        with pytest.raises(CheckpointError, match=re.escape(name)):
            left_out(damaged(sources / family, tmp_path / str(number), file, change))
        shutil.rmtree(tmp_path / str(number))


def test_a_preview_decoder_without_a_bias_or_with_another_kernel_is_refused_by_name(sources, tmp_path):
    name = "decoder.layers.2.conv.0"
    with pytest.raises(CheckpointError, match=rf"{name}\.bias"):
        left_out(damaged(sources / "sd1", tmp_path / "a", PREVIEW, lambda w: w.__delitem__(f"{name}.bias")))
    change = {f"{name}.weight": torch.zeros(8, 8, 1, 1)}
    with pytest.raises(CheckpointError, match=rf"{name}\.weight is 8x8, but.*should be 8x8x3x3"):
        left_out(damaged(sources / "sd1", tmp_path / "b", PREVIEW, lambda w: w.update(change)))


@pytest.mark.parametrize(
    ("part", "changes", "words"),
    [
        ("unet", {"in_channels": 9}, r"conv_in\.weight is 16x4x3x3.*should be 16x9x3x3"),
        ("unet", {"block_out_channels": [16, 64]}, r"should be 64x"),
        ("unet", {"block_out_channels": [16, 10**9]}, r"block_out_channels|should be 1000000000x"),
        ("unet", {"layers_per_block": 10**9}, "layers_per_block = 1000000000; accepted: a whole number from 1 to 1000"),
        ("unet", {"layers_per_block": 900}, r"no tensor 'down_blocks\.0\.resnets\.1\.norm1\.weight'"),
        ("unet", {"transformer_layers_per_block": [[10**9], 1]}, "transformer_layers_per_block"),
        ("unet", {"freq_shift": 8}, "freq_shift = 8 and embeds its timesteps in 16 channels"),
        ("unet", {"sample_size": 10**6}, "size 8000000x8000000 is not accepted; a side may have 64 to 4096"),
        ("vae", {"norm_num_groups": 3}, "norm_num_groups = 3, which does not divide 8 channels"),
        ("vae", {"latent_channels": 5}, "in_channels = 4; accepted: 5 or 11"),
        ("text_encoder", {"vocab_size": 10**6}, r"token_embedding\.weight is .*should be 1000000x32"),
        ("text_encoder", {"num_hidden_layers": 10**12}, "num_hidden_layers"),
        ("text_encoder", {"max_position_embeddings": 10**6}, r"position_embedding\.weight is 77x32"),
        ("text_encoder", {"intermediate_size": 65}, r"mlp\.fc1\.weight is 64x32.*should be 65x32"),
    ],
)
def test_a_configuration_its_weights_do_not_fit_is_refused_by_name(sources, tmp_path, part, changes, words):
    shutil.copytree(sources / "sd1", tmp_path / "source", ignore=shutil.ignore_patterns("control"))
    file = tmp_path / "source" / part / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    with pytest.raises(CheckpointError, match=words):
        left_out(tmp_path / "source")
