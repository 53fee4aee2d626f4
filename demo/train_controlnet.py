"""A ControlNet for the bundled model: edges say which shape is where, the prompt says its color.

`python -m demo.train_controlnet` trains beside the finished checkpoint in demo/model, whose weights stay as they are, and
writes demo/model/controlnet/canny. Its maps are the edges that the server's own canny finds in a drawn scene: in half of
them of the things alone, flat and on a plain ground, as a person would draw a map, in the others of the complete image.
"""

from __future__ import annotations

import argparse
import pickle
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from numpy.typing import NDArray
from transformers import CLIPTextModel, logging

from demo.attention import SLOTS, regions
from demo.captions import caption
from demo.progress import Averaged, Log, learning_rate, resume, save
from demo.scenes import SHAPES, Scene, draw, held_out, random_scene
from demo.train import HERE
from demo.train_text import load_tokenizer, tokenize
from demo.train_unet import SIDE, THINGS, alphas_cumprod
from server.pipeline.preprocessors.edges import canny

NAME = "canny"
IMAGES = 1024
BATCH = 8
STEPS = 2100
#: How much more often scenes with something small are seen: their shapes are what is learned last.
SMALL = 3
#: The furthest that a scene is moved, in pixels: the nine places alone would teach that a map means a place's name.
SHIFT = 16
#: Channels of the map's embedding from 256x256 down to 32x32. Diffusers' (16, 32, 96, 256) take as long as the UNet.
CONDITION_WIDTHS = (8, 16, 32, 64)


@dataclass(frozen=True)
class Example:
    """A drawn scene and its edges: canny of the things alone or of the complete image, packed bits [256, 32]."""

    scene: Scene
    edges: NDArray[np.uint8]


def moved(window: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return the window of `draw` that shows a scene ``window`` pixels further left and up."""
    left, top = window
    return left, top, left + 256, top + 256


def control_map(scene: Scene, seed: int, window: tuple[int, int], *, alone: bool) -> NDArray[np.uint8]:
    """Return the edges of a scene, uint8 [256, 256, 3]; ``alone`` of its things, flat and on a plain ground.

    The same seed draws the things at the same place in both.
    """
    if alone:
        # Every color has an edge on its opposite, whatever the caption's colors are.
        things = tuple(replace(t, color="white", style="flat") for t in scene.things)
        scene = Scene(things, "black")
    return canny(draw(scene, np.random.default_rng(seed), window=moved(window)))


@torch.inference_mode()
def draw_examples(folder: Path, vae: AutoencoderKL, *, images: int = IMAGES, seed: int = 11) -> None:
    """Draw ``images`` scenes (none held out); save their latents (fp16), scenes and edges in ``folder``."""
    rng = np.random.default_rng(seed)
    examples: list[Example] = []
    latents = np.empty((images, 4, SIDE, SIDE), np.float16)
    while len(examples) < images:
        drawn = []
        while len(drawn) < min(16, images - len(examples) + len(drawn)):
            scene = random_scene(rng, two=0.3)
            if held_out(scene):
                continue
            own, (dx, dy) = int(rng.integers(2**31)), rng.integers(-SHIFT, SHIFT + 1, 2)
            edges = control_map(scene, own, (dx, dy), alone=bool(rng.random() < 0.5))
            examples.append(Example(scene, np.packbits(edges[..., 0] > 0, axis=1)))
            drawn.append(draw(scene, np.random.default_rng(own), window=moved((dx, dy))))
        x = torch.from_numpy(np.stack(drawn)).permute(0, 3, 1, 2).float().div(127.5).sub(1)
        mean = vae.encode(x.contiguous(memory_format=torch.channels_last)).latent_dist.mean
        latents[len(examples) - len(drawn) : len(examples)] = mean.numpy()
        if len(examples) % 256 == 0:
            print("drawn", len(examples), flush=True)
    np.save(folder / "control-latents.npy", latents)
    (folder / "control-examples.pickle").write_bytes(pickle.dumps(examples))


def unplaced(scene: Scene, rng: np.random.Generator) -> str:
    """Return a caption that leaves it to the map where things are, and often which shapes they are.

    Of ten captions three are empty, as guidance subtracts what is said without one; three name the shapes, three do not,
    and one names any. Two things keep their shapes in all that are not empty.
    """
    kind = rng.random()
    if kind < 0.3:
        return ""
    things = scene.things
    if kind >= 0.6 and len(things) == 1:
        things = (replace(things[0], shape=str(rng.choice(SHAPES)) if kind >= 0.9 else "shape"),)
    return caption(replace(scene, things=things), rng, places=False)[0]


def make_controlnet(unet: UNet2DConditionModel) -> ControlNetModel:
    """Return a ControlNet with the weights of the UNet's way down, whose residuals are zero at first."""
    return ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=CONDITION_WIDTHS)


@dataclass
class Batches:
    """Batches of examples: noisy latents, timesteps, token ids, maps, and what the UNet should say of them."""

    latents: torch.Tensor
    examples: list[Example]
    batch: int

    def draw(self, rng: np.random.Generator) -> Iterator[tuple[torch.Tensor, list[str], torch.Tensor, torch.Tensor]]:
        """Yield latents fp32 [B, 4, 32, 32], captions, maps fp32 [B, 3, 256, 256] in 0 to 1, and the loss's weights."""
        often = np.array([SMALL if any(t.size == "small" for t in e.scene.things) else 1 for e in self.examples])
        while True:
            picked = rng.choice(len(self.examples), size=self.batch, p=often / often.sum())
            chosen, mirrored = [self.examples[i] for i in picked], rng.random(self.batch) < 0.5
            edges = np.stack([np.unpackbits(e.edges, axis=1) for e in chosen]).astype(np.float32)[:, None]
            around = np.stack([regions(e.scene, SIDE, 1.6) for e in chosen]) < SLOTS - 1
            # All latents around things together count as much as the complete image does, however small the things are.
            things = np.maximum(THINGS, SIDE**2 / around.sum(1, keepdims=True))
            weight = np.where(around, things, 1.0).astype(np.float32).reshape(self.batch, 1, SIDE, SIDE)
            yield (
                _mirror(self.latents[picked].float(), mirrored),
                [unplaced(e.scene, rng) for e in chosen],
                _mirror(torch.from_numpy(edges), mirrored).expand(-1, 3, -1, -1),
                _mirror(torch.from_numpy(weight), mirrored),
            )


def _mirror(images: torch.Tensor, mirrored: NDArray[np.bool_]) -> torch.Tensor:
    """Return the images [B, C, h, w], some of them with left and right exchanged; every shape is symmetric."""
    return torch.where(torch.from_numpy(mirrored)[:, None, None, None], images.flip(-1), images)


def train_controlnet(folder: Path, model: Path, *, steps: int = STEPS, seed: int = 12) -> ControlNetModel:
    """Train the ControlNet, or resume its training, with the frozen networks of ``model``; return the averaged weights.

    The loss is the UNet's own, v-prediction with latents around things weighted five times or more, but high noise is
    more frequent: shapes and places are decided there. Only the ControlNet and the UNet's way up need gradients.
    """
    torch.manual_seed(seed)
    logging.set_verbosity_error()
    tokenizer = load_tokenizer(model / "tokenizer")
    encoder = CLIPTextModel.from_pretrained(model / "text_encoder", dtype=torch.float32).eval()
    unet = UNet2DConditionModel.from_pretrained(model / "unet", torch_dtype=torch.float32)
    unet = unet.to(memory_format=torch.channels_last).requires_grad_(False)
    vae = AutoencoderKL.from_pretrained(model / "vae", torch_dtype=torch.float32).eval()
    if not (folder / "control-examples.pickle").is_file():
        draw_examples(folder, vae.to(memory_format=torch.channels_last))
    batches = Batches(
        torch.from_numpy(np.load(folder / "control-latents.npy")) * vae.config.scaling_factor,
        pickle.loads((folder / "control-examples.pickle").read_bytes()),
        BATCH,
    )
    net = make_controlnet(unet).to(memory_format=torch.channels_last).requires_grad_(True).train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1.0, weight_decay=0.01, betas=(0.9, 0.99))
    averaged = Averaged(net, 0.99)
    state = folder / "controlnet.pt"
    start = resume(state, net, optimizer, averaged)
    log = Log(folder / "controlnet.log.csv", ("step", "loss", "low", "middle", "high", "seconds"))
    generator = torch.Generator().manual_seed(seed + start)
    drawn = batches.draw(np.random.default_rng(seed + start))
    signal = alphas_cumprod()
    recent: list[torch.Tensor] = []
    for step in range(start, steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, peak=8e-4, warmup=30)
        averaged.decay = min(0.99, (step + 1) / (step + 20))
        x, captions, maps, weight = next(drawn)
        with torch.no_grad():
            context = encoder(tokenize(tokenizer, captions)).last_hidden_state
        noise = torch.randn(x.shape, generator=generator)
        even = (torch.arange(BATCH) + torch.rand(BATCH, generator=generator)) / BATCH
        t = (even.sqrt() * 1000).long().clamp(max=999)
        a = signal[t][:, None, None, None]
        noisy = (a.sqrt() * x + (1 - a).sqrt() * noise).contiguous(memory_format=torch.channels_last)
        target = a.sqrt() * noise - (1 - a).sqrt() * x
        down, middle = net(noisy, t, context, maps, return_dict=False)
        predicted = unet(
            noisy, t, context, down_block_additional_residuals=down, mid_block_additional_residual=middle
        ).sample
        squared = (predicted - target).square()
        loss = (squared * weight).mean() / weight.mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        averaged.update(net)
        recent.append(squared.detach().mean((1, 2, 3)))
        if step % 20 == 0:
            low, mid, high = (part.mean() for part in torch.stack(recent).mean(0).tensor_split(3))
            log.row(step, loss.item(), low, mid, high)
            recent = []
        if (step + 1) % 25 == 0 or step + 1 == steps:
            save(state, step + 1, net, optimizer, averaged)
    net.load_state_dict(averaged.weights)
    return net.eval()


def main() -> None:
    """Train the ControlNet and write it into the model's folder in fp16."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, default=HERE / "run", help="checkpoints and logs (demo/run)")
    parser.add_argument("--model", type=Path, default=HERE / "model", help="the checkpoint it is for (demo/model)")
    parser.add_argument("--steps", type=int, default=STEPS)
    args = parser.parse_args()
    args.run.mkdir(parents=True, exist_ok=True)
    net = train_controlnet(args.run, args.model, steps=args.steps)
    out = args.model / "controlnet" / NAME
    net.to(torch.float16, memory_format=torch.contiguous_format).save_pretrained(out, safe_serialization=True)
    for file in out.iterdir():
        file.chmod(0o644)


if __name__ == "__main__":
    main()
