"""Stages 3 and 4: draw and encode scenes once, then train the UNet to generate them from their captions."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL

from demo.attention import SLOTS, attention_loss, regions, watch
from demo.captions import caption
from demo.networks import make_text_encoder, make_unet, make_vae
from demo.progress import Averaged, Log, learning_rate, resume, save
from demo.scenes import Scene, draw, held_out, random_scene
from demo.train_text import load_tokenizer, tokenize

IMAGES = 20_000
#: The side of an image's latents.
SIDE = 32
STEPS = 9000
BATCH = 16
#: The share of a batch with two things.
TWO = 0.7
#: The weight of a latent in or around a thing, relative to the ground: a small thing covers 3 in 100 latents, and its shape
#: is learned last.
THINGS = 5.0
#: The weight of the attention loss; with it, that loss starts about as large as the images' loss.
ATTENTION = 0.05
#: Stable Diffusion's schedule, but ending at 0.02: at 0.012 the last step still shows 7 % of the image, and a model
#: learns from it that every ground is nearly gray; here it is 1.6 %.
SCHEDULE = {"num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.02, "beta_schedule": "scaled_linear"}


def alphas_cumprod() -> torch.Tensor:
    """Return the remaining share of signal power at each of the 1000 timesteps."""
    root = torch.linspace(SCHEDULE["beta_start"] ** 0.5, SCHEDULE["beta_end"] ** 0.5, 1000, dtype=torch.float64)
    return torch.cumprod(1 - root**2, 0).float()


def trained_vae(folder: Path) -> AutoencoderKL:
    """Return the autoencoder of stage 1, with its averaged weights."""
    vae = make_vae()
    vae.load_state_dict(torch.load(folder / "vae.pt", weights_only=True)["averaged"])
    return vae.eval().to(memory_format=torch.channels_last)


@torch.inference_mode()
def encode_scenes(folder: Path, *, images: int = IMAGES, seed: int = 3) -> None:
    """Draw ``images`` scenes (none held out) and save their latents (posterior means, fp16) and descriptions."""
    rng = np.random.default_rng(seed)
    vae = trained_vae(folder)
    scenes: list[Scene] = []
    latents = np.empty((images, 4, SIDE, SIDE), np.float16)
    while len(scenes) < images:
        batch: list[Scene] = []
        while len(batch) < min(16, images - len(scenes)):
            scene = random_scene(rng, two=0.55)
            if not held_out(scene):
                batch.append(scene)
        drawn = np.stack([draw(s, rng) for s in batch])
        x = torch.from_numpy(drawn).permute(0, 3, 1, 2).float().div(127.5).sub(1)
        mean = vae.encode(x.contiguous(memory_format=torch.channels_last)).latent_dist.mean
        latents[len(scenes) : len(scenes) + len(batch)] = mean.numpy()
        scenes += batch
        if len(scenes) % 1600 == 0:
            print("encoded", len(scenes), flush=True)
    np.save(folder / "latents.npy", latents)
    (folder / "scenes.pickle").write_bytes(pickle.dumps(scenes))


def train_unet(folder: Path, *, steps: int = STEPS, seed: int = 4) -> None:
    """Train the UNet or resume its training: v-prediction, 1 in 10 captions dropped, with the attention loss.

    All noise levels have equal weights. Min-SNR weights (Hang et al. 2023) leave those above a signal-to-noise ratio of
    1/20, which decide the layout, one twentieth of the gradient.
    """
    torch.manual_seed(seed)
    tokenizer = load_tokenizer(folder / "tokenizer")
    encoder = make_text_encoder(len(tokenizer), tokenizer.bos_token_id, tokenizer.eos_token_id).eval()
    words = torch.load(folder / "text.pt", weights_only=True)["averaged"]
    encoder.load_state_dict({k.removeprefix("encoder."): v for k, v in words.items() if k.startswith("encoder.")})
    latents = torch.from_numpy(np.load(folder / "latents.npy"))
    scenes: list[Scene] = pickle.loads((folder / "scenes.pickle").read_bytes())
    scale = 1 / latents.float().std()
    unet = make_unet().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(unet.parameters(), lr=1.0, weight_decay=0.01, betas=(0.9, 0.99))
    averaged = Averaged(unet, 0.999)
    watched = watch(unet)
    state = folder / "unet.pt"
    start = resume(state, unet, optimizer, averaged)
    log = Log(folder / "unet.log.csv", ("step", "loss", "low", "middle", "high", "attention", "seconds"))
    generator = torch.Generator().manual_seed(seed + start)
    rng = np.random.default_rng(seed + start)
    signal = alphas_cumprod()
    two = np.array([len(scene.things) == 2 for scene in scenes])
    odds = np.where(two, TWO / two.sum(), (1 - TWO) / (~two).sum())
    recent: list[torch.Tensor] = []
    for step in range(start, steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, peak=8e-4, warmup=200)
        averaged.decay = min(0.999, (step + 1) / (step + 20))
        picked = rng.choice(len(scenes), size=BATCH, p=odds)
        captions = [caption(scenes[i], rng) for i in picked]
        kept = np.flatnonzero(rng.random(BATCH) >= 0.1)
        texts = [text if i in kept else "" for i, (text, _) in enumerate(captions)]
        ids = tokenize(tokenizer, texts)
        with torch.no_grad():
            context = encoder(ids).last_hidden_state
        x = latents[picked].float() * scale
        noise = torch.randn(x.shape, generator=generator)
        # Evenly spread over the batch, so that each step sees every part of the schedule.
        t = ((torch.arange(BATCH) + torch.rand(BATCH, generator=generator)) * 1000 / BATCH).long()
        a = signal[t][:, None, None, None]
        noisy = (a.sqrt() * x + (1 - a).sqrt() * noise).contiguous(memory_format=torch.channels_last)
        target = a.sqrt() * noise - (1 - a).sqrt() * x
        squared = (unet(noisy, t, context).sample - target).square()
        captioned = [scene for _, scene in captions]
        around = torch.from_numpy(np.stack([regions(scene, SIDE, 1.4) for scene in captioned])) < SLOTS - 1
        weight = torch.where(around, THINGS, 1.0).view(BATCH, 1, SIDE, SIDE)
        errors = squared.detach().mean((1, 2, 3))
        missed = attention_loss(watched, ids, tokenizer.eos_token_id, kept, [captioned[i] for i in kept])
        loss = (squared * weight).mean() / weight.mean() + ATTENTION * missed
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        averaged.update(unet)
        recent.append(torch.cat([errors, missed.detach()[None]]))
        if step % 50 == 0:
            mean = torch.stack(recent).mean(0)
            low, middle, high = (part.mean() for part in mean[:BATCH].tensor_split(3))
            log.row(step, loss.item(), low, middle, high, mean[BATCH])
            recent = []
        if (step + 1) % 500 == 0 or step + 1 == steps:
            save(state, step + 1, unet, optimizer, averaged)
