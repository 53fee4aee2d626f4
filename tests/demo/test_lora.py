"""The bundled LoRA: what it learns from, how it is fused, how it is judged, and that its file fits the bundled model."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch.nn import Conv2d, Linear

from converter.loras import LoraFile
from demo.check_lora import chalked, colorful, fuse
from demo.pixels import look
from demo.scenes import SHAPES, Scene, Thing, draw, held_out
from demo.train import HERE
from demo.train_lora import NAME, Added, on_board, write_lora

FILE = HERE / "loras" / f"{NAME}.safetensors"


@pytest.mark.parametrize("shape", SHAPES)
def test_the_judge_sees_chalk_around_a_shape_on_a_blackboard(shape):
    scene = Scene((Thing(shape, "blue", "top", "large", "shaded"),), "cyan", "striped")
    board = draw(on_board(scene), np.random.default_rng(0))
    ground, seen = look(board)
    assert (ground, [(s.shape, s.color, s.place) for s in seen]) == ("black", [(shape, "blue", "top")])
    assert chalked(board)
    assert not chalked(draw(Scene(scene.things, "black"), np.random.default_rng(0)))


def test_prompts_are_held_out_and_name_nothing_that_a_board_has():
    pairs = colorful(12, seed=1)
    assert len(pairs) == 12
    for words, scene in pairs:
        assert held_out(scene)
        assert not {"black", "white"} & {scene.ground, *(thing.color for thing in scene.things)}
        assert scene.things[0].color in words


def test_a_new_lora_changes_nothing_and_a_trained_one_is_fused_as_it_was_trained(tmp_path):
    layers = torch.nn.ModuleDict({"linear": Linear(6, 5), "conv": Conv2d(6, 5, 3, 2, 1)})
    inputs = {"linear": torch.randn(2, 6), "conv": torch.randn(2, 6, 8, 8)}
    plain = {name: layer(inputs[name]) for name, layer in layers.items()}
    lora = torch.nn.ModuleDict({name: Added(layer) for name, layer in layers.items()})
    assert all(torch.equal(layer(inputs[name]), plain[name]) for name, layer in layers.items())
    for added in lora.values():
        torch.nn.init.normal_(added.lora_up.weight)
    trained = {name: layer(inputs[name]) for name, layer in layers.items()}
    write_lora(lora.state_dict(), tmp_path / "lora.safetensors")
    for layer in layers.values():
        layer._forward_hooks.clear()
    fuse(layers, tmp_path / "lora.safetensors")
    for name, layer in layers.items():
        assert not torch.allclose(trained[name], plain[name], atol=0.1)
        assert torch.allclose(layer(inputs[name]), trained[name], atol=1e-2)  # the file is fp16


def test_the_file_fits_the_bundled_unet_and_is_small():
    lora = LoraFile.open(FILE)
    assert (lora.families, lora.about.kinds) == (("sd1",), ("LoRA", "LoCon"))
    with safe_open(HERE / "model" / "unet" / "diffusion_pytorch_model.safetensors", "np") as unet:
        names = [name for name in unet.keys() if name.endswith(".weight")]  # noqa: SIM118
        shapes = {name.removesuffix(".weight").replace(".", "_"): unet.get_slice(name).get_shape() for name in names}
    layers = lora.layers["unet"]
    for target, layer in layers.items():
        assert np.abs(layer.merged(np.zeros(shapes[target], np.float32), 1.0)).max() > 0
    assert {len(shapes[target]) for target in layers} == {2, 4}
    assert FILE.stat().st_size < 1e6
