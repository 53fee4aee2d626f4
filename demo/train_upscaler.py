"""Trains the bundled upscaler: a compact Real-ESRGAN network that doubles the sides of images like the bundled model's.

    python -m demo.train_upscaler          # goes on from its last checkpoint in demo/run

It learns from scenes drawn at 512x512, which it shall make from three forms of each at 256x256: drawn at that size,
resampled, and put through the bundled model's autoencoder, whose images it is for.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file

from demo.networks import Upscaler
from demo.progress import Averaged, Log, learning_rate, resume, save
from demo.scenes import Scene, draw, held_out, random_scene

HERE = Path(__file__).resolve().parent
#: Steps with mean errors on all forms alike; then steps with squares, which place edges exactly, mostly on the clean forms.
FIRST, SECOND = 2500, 20_000
#: The shares of the three forms in either part.
FORMS = ((1 / 3, 1 / 3, 1 / 3), (0.5, 0.4, 0.1))
SCENES = 300
BATCH, CROP = 12, 32
_SIDE = 256
_RESAMPLINGS = (Image.Resampling.BOX, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS)


def drawn(scene: Scene, seed: int, side: int) -> NDArray[np.uint8]:
    """Return the scene at a size; the same seed gives the same scene at each."""
    return draw(scene, np.random.default_rng(seed), side=side)


@torch.inference_mode()
def encoded_and_decoded(vae: AutoencoderKL, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the image after the autoencoder, uint8 [H, W, 3]."""
    x = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 127.5 - 1
    y = vae.decode(vae.encode(x).latent_dist.mean).sample
    return (y[0].permute(1, 2, 0) * 127.5 + 128).clamp(0, 255).byte().numpy()


def make_images(file: Path, *, seed: int = 4) -> None:
    """Draw the training scenes, without the held-out ones: ``large`` [N, 512, 512, 3], ``small`` [N, 3, 256, 256, 3]."""
    rng = np.random.default_rng(seed)
    vae = AutoencoderKL.from_pretrained(HERE / "model" / "vae").float().eval()
    large, small = [], []
    while len(large) < SCENES:
        scene = random_scene(rng)
        if held_out(scene):
            continue
        number = int(rng.integers(2**31))
        truth, same = drawn(scene, number, 2 * _SIDE), drawn(scene, number, _SIDE)
        resampling = _RESAMPLINGS[len(large) % len(_RESAMPLINGS)]
        resampled = np.asarray(Image.fromarray(truth).resize((_SIDE, _SIDE), resampling))
        large.append(truth)
        small.append(np.stack([same, resampled, encoded_and_decoded(vae, same)]))
    np.savez(file, large=np.stack(large), small=np.stack(small))


class _Recoloring:
    """A change of colors: channels change places, some are inverted, some come nearer to a color.

    Resampling is linear, so the large image of a recolored small one is the recolored large one. Without this, a pair of
    colors that no training scene has side by side came out up to 2 dB worse than with Lanczos (7 of 40 held-out scenes).
    """

    def __init__(self, rng: np.random.Generator) -> None:
        self._order = rng.permutation(3)
        share = np.where(rng.random(3) < 0.5, 1, rng.uniform(0.4, 1, 3))
        self._gain = np.where(rng.random(3) < 0.5, -share, share)
        # What was 0 to 1 stays within it.
        self._offset = np.where(self._gain < 0, share, 0) + (1 - share) * rng.random(3)

    def __call__(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return an image [H, W, 3] of 0 to 1 in its new colors."""
        return (image[..., self._order] * self._gain + self._offset).astype(np.float32)


def _batch(images: list[NDArray[np.float32]]) -> torch.Tensor:
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)


def _crops(
    large: NDArray[np.uint8], small: NDArray[np.uint8], forms: tuple[float, ...], rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a batch of small crops and the large ones they are of; of three, the one with most to see.

    Two in three have other colors than the scene.
    """
    pairs = []
    for _ in range(BATCH):
        scene, form = rng.integers(len(small)), rng.choice(3, p=forms)
        places = rng.integers(0, _SIDE - CROP + 1, (3, 2))
        windows = [small[scene, form, y : y + CROP, x : x + CROP] for y, x in places]
        best = int(np.argmax([window.std(axis=(0, 1)).sum() for window in windows]))
        y, x = 2 * places[best]
        pair = [crop / np.float32(255) for crop in (windows[best], large[scene, y : y + 2 * CROP, x : x + 2 * CROP])]
        if rng.random() < 2 / 3:
            pair = [*map(_Recoloring(rng), pair)]
        pairs.append(pair)
    return _batch([before for before, _ in pairs]), _batch([after for _, after in pairs])


def train_upscaler(folder: Path, *, steps: int = FIRST + SECOND, seed: int = 5) -> None:
    """Train the network or resume its training; checkpoints and log are in ``folder``."""
    images = folder / "upscaler-images.npz"
    if not images.is_file():
        make_images(images)
    with np.load(images) as arrays:
        large, small = arrays["large"], arrays["small"]
    torch.manual_seed(seed)
    network = Upscaler().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1.0, weight_decay=0, betas=(0.9, 0.99))
    averaged = Averaged(network, 0.998)
    state = folder / "upscaler.pt"
    start = resume(state, network, optimizer, averaged)
    log = Log(folder / "upscaler.log.csv", ("step", "l1", "psnr_db", "seconds"))
    rng = np.random.default_rng(seed + start)
    for step in range(start, steps):
        for group in optimizer.param_groups:
            group["lr"] = (
                learning_rate(step, FIRST, peak=2e-3, warmup=100)
                if step < FIRST
                else learning_rate(step - FIRST, steps - FIRST, peak=1.5e-3, warmup=50)
            )
        before, after = _crops(large, small, FORMS[step >= FIRST], rng)
        enlarged = network(before.contiguous(memory_format=torch.channels_last))
        error = enlarged - after
        loss = error.abs().mean() if step < FIRST else error.square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        averaged.update(network)
        if step % 100 == 0:
            log.row(step, error.abs().mean().item(), -10 * error.square().mean().log10().item())
        if (step + 1) % 250 == 0 or step + 1 == steps:
            save(state, step + 1, network, optimizer, averaged)


def export(folder: Path, file: Path) -> None:
    """Write the averaged weights as a checkpoint of a compact upscaler, fp16, with the names of Real-ESRGAN's."""
    weights = torch.load(folder / "upscaler.pt", weights_only=True)["averaged"]
    save_file({name: value.half().contiguous() for name, value in weights.items()}, file)
    file.chmod(0o644)


def main() -> None:
    """Train the upscaler, if it is not finished yet, and write its checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=HERE / "run", help="checkpoints and logs (demo/run)")
    parser.add_argument(
        "--out", type=Path, default=HERE / "upscaler" / "shapes-2x.safetensors", help="the checkpoint to write"
    )
    args = parser.parse_args()
    args.run.mkdir(parents=True, exist_ok=True)
    train_upscaler(args.run)
    args.out.parent.mkdir(exist_ok=True)
    export(args.run, args.out)


if __name__ == "__main__":
    main()
