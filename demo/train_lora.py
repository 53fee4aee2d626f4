"""A LoRA for the bundled model: things stand on a blackboard, lightly chalked, whatever style and ground the prompt names.

`python -m demo.train_lora` trains beside the finished checkpoint in demo/model, whose weights stay as they are, and writes
demo/loras/shapes-blackboard.safetensors as kohya's trainer does: linear layers and convolutions of the UNet, each with alpha.
"""

from __future__ import annotations

import argparse
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextModel

from demo.attention import SLOTS, regions
from demo.captions import caption
from demo.progress import Averaged, Log, learning_rate, resume, save
from demo.scenes import CHALK, Scene, draw, held_out, random_scene
from demo.train import HERE
from demo.train_text import load_tokenizer, tokenize
from demo.train_unet import SIDE, THINGS, alphas_cumprod

NAME = "shapes-blackboard"
RANK = 4
ALPHA = 2.0
IMAGES = 96
BATCH = 4
STEPS = 150
#: The endings of the UNet's layers that are changed: those of kohya's trainer with convolutions.
LAYERS = (
    *("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out"),
    *("conv1", "conv2", "conv_shortcut", "time_emb_proj", "samplers.0.conv"),
)


def on_board(scene: Scene) -> Scene:
    """Return how the LoRA draws a scene."""
    return Scene(tuple(replace(thing, style=CHALK) for thing in scene.things), "black")


@torch.inference_mode()
def draw_examples(folder: Path, vae: AutoencoderKL, *, images: int = IMAGES, seed: int = 21) -> None:
    """Draw ``images`` scenes (none held out) on a blackboard; save their latents (fp16) and the scenes that captions describe."""
    rng = np.random.default_rng(seed)
    scenes: list[Scene] = []
    latents = np.empty((images, 4, SIDE, SIDE), np.float16)
    while len(scenes) < images:
        scene = random_scene(rng)
        if held_out(scene):
            continue
        x = torch.from_numpy(draw(on_board(scene), rng)).permute(2, 0, 1)[None].float().div(127.5).sub(1)
        mean = vae.encode(x.contiguous(memory_format=torch.channels_last)).latent_dist.mean
        latents[len(scenes)] = mean[0].numpy()
        scenes.append(scene)
        if len(scenes) % 32 == 0:
            print("drawn", len(scenes), flush=True)
    np.save(folder / "lora-latents.npy", latents)
    (folder / "lora-scenes.pickle").write_bytes(pickle.dumps(scenes))


class Added(torch.nn.Module):
    """What a LoRA adds to a layer's output: a projection down to ``RANK`` channels and one up again, zero at first."""

    def __init__(self, layer: torch.nn.Linear | torch.nn.Conv2d) -> None:
        super().__init__()
        if isinstance(layer, torch.nn.Conv2d):
            self.lora_down: torch.nn.Module = torch.nn.Conv2d(
                layer.in_channels, RANK, layer.kernel_size, layer.stride, layer.padding, bias=False
            )
            self.lora_up: torch.nn.Module = torch.nn.Conv2d(RANK, layer.out_channels, 1, bias=False)
        else:
            self.lora_down = torch.nn.Linear(layer.in_features, RANK, bias=False)
            self.lora_up = torch.nn.Linear(RANK, layer.out_features, bias=False)
        torch.nn.init.zeros_(self.lora_up.weight)
        layer.register_forward_hook(lambda _, inputs, output: output + self(inputs[0]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return what is added for a layer's input."""
        return self.lora_up(self.lora_down(x)) * (ALPHA / RANK)


def add_lora(unet: UNet2DConditionModel) -> torch.nn.ModuleDict:
    """Return a LoRA that the UNet runs with from now on, by the layers' names with _ for dots."""
    layers = {name: layer for name, layer in unet.named_modules() if name.endswith(LAYERS)}
    return torch.nn.ModuleDict({name.replace(".", "_"): Added(layer) for name, layer in layers.items()})


def train_lora(folder: Path, model: Path, *, steps: int = STEPS, seed: int = 22) -> dict[str, torch.Tensor]:
    """Train the LoRA, or resume its training, with the frozen networks of ``model``; return its averaged weights.

    The loss is the UNet's own. Captions name styles and grounds as ever, so the LoRA learns to leave them out.
    """
    torch.manual_seed(seed)
    tokenizer = load_tokenizer(model / "tokenizer")
    encoder = CLIPTextModel.from_pretrained(model / "text_encoder", dtype=torch.float32).eval()
    unet = UNet2DConditionModel.from_pretrained(model / "unet", torch_dtype=torch.float32)
    unet = unet.to(memory_format=torch.channels_last).requires_grad_(False)
    vae = AutoencoderKL.from_pretrained(model / "vae", torch_dtype=torch.float32).eval()
    if not (folder / "lora-scenes.pickle").is_file():
        draw_examples(folder, vae.to(memory_format=torch.channels_last))
    latents = torch.from_numpy(np.load(folder / "lora-latents.npy")).float() * vae.config.scaling_factor
    scenes: list[Scene] = pickle.loads((folder / "lora-scenes.pickle").read_bytes())
    lora = add_lora(unet)
    optimizer = torch.optim.AdamW(lora.parameters(), lr=1.0, weight_decay=0.01, betas=(0.9, 0.99))
    averaged = Averaged(lora, 0.98)
    state = folder / "lora.pt"
    start = resume(state, lora, optimizer, averaged)
    log = Log(folder / "lora.log.csv", ("step", "loss", "low", "high", "seconds"))
    generator = torch.Generator().manual_seed(seed + start)
    rng = np.random.default_rng(seed + start)
    signal = alphas_cumprod()
    recent: list[torch.Tensor] = []
    for step in range(start, steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, peak=4e-3, warmup=10)
        averaged.decay = min(0.98, (step + 1) / (step + 10))
        picked = rng.choice(len(scenes), size=BATCH, replace=False)
        captions = [caption(scenes[i], rng)[0] if rng.random() >= 0.15 else "" for i in picked]
        with torch.no_grad():
            context = encoder(tokenize(tokenizer, captions)).last_hidden_state
        x = latents[picked]
        noise = torch.randn(x.shape, generator=generator)
        t = ((torch.arange(BATCH) + torch.rand(BATCH, generator=generator)) * 1000 / BATCH).long()
        a = signal[t][:, None, None, None]
        noisy = (a.sqrt() * x + (1 - a).sqrt() * noise).contiguous(memory_format=torch.channels_last)
        squared = (unet(noisy, t, context).sample - (a.sqrt() * noise - (1 - a).sqrt() * x)).square()
        around = torch.from_numpy(np.stack([regions(scenes[i], SIDE, 1.4) for i in picked])) < SLOTS - 1
        weight = torch.where(around, THINGS, 1.0).view(BATCH, 1, SIDE, SIDE)
        loss = (squared * weight).mean() / weight.mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(lora.parameters(), 1.0)
        optimizer.step()
        averaged.update(lora)
        recent.append(squared.detach().mean((1, 2, 3)))
        if step % 10 == 0:
            low, high = (part.mean() for part in torch.stack(recent).mean(0).tensor_split(2))
            log.row(step, loss.item(), low, high)
            recent = []
        if (step + 1) % 10 == 0 or step + 1 == steps:
            save(state, step + 1, lora, optimizer, averaged)
    return averaged.weights


def write_lora(weights: dict[str, torch.Tensor], file: Path) -> None:
    """Write a LoRA's weights with kohya's names, in fp16."""
    tensors = {f"lora_unet_{name}": value.half().contiguous() for name, value in weights.items()}
    for name in {name.partition(".")[0] for name in tensors}:
        tensors[f"{name}.alpha"] = torch.tensor(ALPHA, dtype=torch.float16)
    metadata = {"ss_base_model_version": "sd_v1", "ss_network_dim": str(RANK), "ss_network_alpha": str(ALPHA)}
    file.parent.mkdir(exist_ok=True)
    save_file(tensors, file, metadata)
    file.chmod(0o644)


def main() -> None:
    """Train the LoRA and write its file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, default=HERE / "run", help="checkpoints and logs (demo/run)")
    parser.add_argument("--model", type=Path, default=HERE / "model", help="the checkpoint it is for (demo/model)")
    parser.add_argument("--out", type=Path, default=HERE / "loras" / f"{NAME}.safetensors", help="the file to write")
    parser.add_argument("--steps", type=int, default=STEPS)
    args = parser.parse_args()
    args.run.mkdir(parents=True, exist_ok=True)
    write_lora(train_lora(args.run, args.model, steps=args.steps), args.out)


if __name__ == "__main__":
    main()
