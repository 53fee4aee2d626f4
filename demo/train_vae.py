"""Stage 1: the autoencoder learns to encode crops of drawn scenes into latents and to decode them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from queue import Queue

import numpy as np
import torch
import torch.nn.functional as F

from demo.networks import make_vae
from demo.progress import Averaged, Log, learning_rate, resume, save
from demo.scenes import draw, random_scene

STEPS = 2400
#: (share of the steps, crop side, batch): many small crops for variety, then larger ones to settle the mid attention.
PHASES = ((0.75, 64, 32), (0.25, 128, 8))


def crops(seed: int, start: int, steps: int) -> Iterator[torch.Tensor]:
    """Yield the batches from step ``start`` on: random windows of scenes, float [batch, 3, side, side] in [-1, 1].

    A thread draws them in advance.
    """
    queue: Queue[torch.Tensor] = Queue(8)

    def fill() -> None:
        rng = np.random.default_rng(seed)
        for step in range(start, steps):
            _, side, batch = PHASES[0] if step < PHASES[0][0] * steps else PHASES[1]
            images = []
            for _ in range(batch):
                left, top = rng.integers(0, (256 - side) // 8 + 1, 2) * 8
                scene = random_scene(rng)
                images.append(draw(scene, rng, window=(left, top, left + side, top + side)))
            queue.put(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 127.5 - 1)

    threading.Thread(target=fill, daemon=True).start()
    for _ in range(start, steps):
        yield queue.get()


def edges(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return horizontal and vertical differences, which make a blurred outline cost more than its mean error."""
    return x[..., :, 1:] - x[..., :, :-1], x[..., 1:, :] - x[..., :-1, :]


def train_vae(folder: Path, *, steps: int = STEPS, seed: int = 1) -> None:
    """Train the autoencoder or resume its training; checkpoints and log are in ``folder``."""
    torch.manual_seed(seed)
    vae = make_vae().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=1.0, weight_decay=1e-3, betas=(0.9, 0.99))
    averaged = Averaged(vae, 0.998)
    state = folder / "vae.pt"
    start = resume(state, vae, optimizer, averaged)
    log = Log(folder / "vae.log.csv", ("step", "loss", "l1", "edge", "kl", "latent_std", "seconds"))
    for step, images in zip(range(start, steps), crops(seed + start, start, steps), strict=True):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, peak=1.2e-3, warmup=50)
        images = images.contiguous(memory_format=torch.channels_last)
        posterior = vae.encode(images).latent_dist
        decoded = vae.decode(posterior.sample()).sample
        l1 = (decoded - images).abs().mean()
        squares = F.mse_loss(decoded, images)
        edge = sum((a - b).abs().mean() for a, b in zip(edges(decoded), edges(images), strict=True))
        kl = posterior.kl().mean() / posterior.mean[0].numel()
        loss = l1 + squares + edge + 2e-4 * kl
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        averaged.update(vae)
        if step % 50 == 0:
            log.row(step, loss.item(), l1.item(), edge.item(), kl.item(), posterior.mean.std().item())
        if (step + 1) % 500 == 0 or step + 1 == steps:
            save(state, step + 1, vae, optimizer, averaged)
