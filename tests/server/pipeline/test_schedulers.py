"""Samplers against diffusers' schedulers of the same configuration."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import diffusers
import numpy as np
import pytest
import torch

from server.pipeline.schedulers import SCHEDULERS, NoiseSchedule, UnknownScheduler, find_scheduler

STABLE_DIFFUSION = NoiseSchedule(
    num_train_timesteps=1000,
    beta_start=0.00085,
    beta_end=0.012,
    beta_schedule="scaled_linear",
    timestep_spacing="leading",
    steps_offset=1,
    set_alpha_to_one=False,
    prediction_type="epsilon",
)
PEERS = {
    "euler": (diffusers.EulerDiscreteScheduler, {}),
    "euler_a": (diffusers.EulerAncestralDiscreteScheduler, {}),
    "dpm++_2m": (diffusers.DPMSolverMultistepScheduler, {}),
    "dpm++_2m_karras": (diffusers.DPMSolverMultistepScheduler, {"use_karras_sigmas": True}),
    "heun": (diffusers.HeunDiscreteScheduler, {}),
    "lms": (diffusers.LMSDiscreteScheduler, {}),
    "ddim": (diffusers.DDIMScheduler, {"clip_sample": False, "set_alpha_to_one": False}),
    "pndm": (diffusers.PNDMScheduler, {"skip_prk_steps": True, "set_alpha_to_one": False}),
    "lcm": (diffusers.LCMScheduler, {"clip_sample": False}),
}


def model(latents: np.ndarray, timestep: float) -> np.ndarray:
    """A smooth stand-in for a UNet: depends on every input."""
    return (np.tanh(latents * 0.7) * np.cos(timestep / 300) + 0.1 * np.roll(latents, 1)).astype(np.float32)


def peer(name: str, schedule: NoiseSchedule):
    kind, extra = PEERS[name]
    return kind(
        num_train_timesteps=1000,
        beta_start=schedule.beta_start,
        beta_end=schedule.beta_end,
        beta_schedule=schedule.beta_schedule,
        timestep_spacing=schedule.timestep_spacing,
        steps_offset=schedule.steps_offset,
        prediction_type=schedule.prediction_type,
        **extra,
    )


def their_run(name: str, schedule: NoiseSchedule, steps: int, strength: float, start: np.ndarray, noise: np.ndarray):
    scheduler = peer(name, schedule)
    scheduler.set_timesteps(steps)
    begin = max(steps - min(int(steps * strength), steps), 0) * scheduler.order
    timesteps = scheduler.timesteps[begin:]
    scheduler.set_begin_index(begin) if hasattr(scheduler, "set_begin_index") else None
    x = torch.from_numpy(start)
    if strength < 1:
        x = scheduler.add_noise(x, torch.from_numpy(noise), timesteps[:1])
    else:
        x = x * scheduler.init_noise_sigma
    generator = torch.Generator().manual_seed(3)
    for t in timesteps:
        given = scheduler.scale_model_input(x, t)
        predicted = torch.from_numpy(model(given.numpy(), float(t)))
        extra = {"generator": generator} if name in ("euler_a", "lcm") else {}
        x = scheduler.step(predicted, t, x, **extra).prev_sample
    return timesteps.numpy(), x.numpy()


def our_run(name: str, schedule: NoiseSchedule, steps: int, strength: float, start: np.ndarray, noise: np.ndarray):
    sampler = SCHEDULERS[name].make(schedule, steps)
    begin = max(steps - min(int(steps * strength), steps), 0) * sampler.order
    x = sampler.add_noise(start, noise, begin) if strength < 1 else start * np.float32(sampler.init_noise_sigma)
    generator = torch.Generator().manual_seed(3)
    for i in range(begin, len(sampler.timesteps)):
        predicted = model(sampler.scale_model_input(x, i), sampler.timesteps[i])
        x = sampler.step(predicted, i, x, lambda: torch.randn(start.shape, generator=generator).numpy())
    return sampler.timesteps[begin:], x


def cases():
    """Every sampler, prediction and spacing, from noise and from a picture, but for what diffusers does differently.

    Its PNDM repeats other timesteps unless they are spaced as Stable Diffusion 1's (leading) and more than one, and its
    LMS, begun part-way, takes coefficients for slopes it does not have.
    """
    runs = [(1, 1.0), (2, 1.0), (7, 1.0), (20, 1.0), (10, 0.55)]
    for name, prediction, spacing, (steps, strength) in product(
        PEERS, ["epsilon", "v_prediction"], ["leading", "trailing", "linspace"], runs
    ):
        if name == "pndm" and (spacing != "leading" or steps == 1):
            continue
        if name == "lms" and strength < 1:
            continue
        yield name, prediction, spacing, steps, strength


@pytest.mark.parametrize(("name", "prediction", "spacing", "steps", "strength"), list(cases()))
def test_a_run_ends_where_diffusers_ends(name, prediction, spacing, steps, strength):
    schedule = replace(STABLE_DIFFUSION, prediction_type=prediction, timestep_spacing=spacing)
    rng = np.random.default_rng(0)
    start, noise = (rng.standard_normal((1, 4, 4, 4)).astype(np.float32) for _ in range(2))
    theirs_at, theirs = their_run(name, schedule, steps, strength, start, noise)
    ours_at, ours = our_run(name, schedule, steps, strength, start, noise)
    np.testing.assert_allclose(ours_at, theirs_at, atol=1e-3)
    np.testing.assert_allclose(ours, theirs, rtol=2e-3, atol=2e-4 * np.abs(theirs).max())


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("Euler a", "euler_a"),
        ("k_euler", "euler"),
        ("DPM++ 2M Karras", "dpm++_2m_karras"),
        ("DPM++ 2M", "dpm++_2m"),
        ("dpmpp_2m", "dpm++_2m"),
        ("PLMS", "pndm"),
        ("ddim", "ddim"),
    ],
)
def test_schedulers_are_found_by_the_names_people_use(spelling, name):
    assert find_scheduler(spelling).name == name


def test_an_unknown_scheduler_is_refused_with_the_names_there_are():
    with pytest.raises(UnknownScheduler, match="euler_a") as refused:
        find_scheduler("warp drive")
    assert "warp drive" in str(refused.value)
