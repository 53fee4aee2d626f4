"""Samplers against diffusers' schedulers of the same configuration."""

from __future__ import annotations

import inspect
from dataclasses import asdict, replace
from itertools import product

import diffusers
import numpy as np
import pytest
import torch

from converter.families import PREDICTIONS
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
ZERO_SNR = replace(STABLE_DIFFUSION, rescale_betas_zero_snr=True, prediction_type="v_prediction")
SPACINGS = ["leading", "trailing", "linspace"]
PEERS = {
    "euler": (diffusers.EulerDiscreteScheduler, {}),
    "euler_a": (diffusers.EulerAncestralDiscreteScheduler, {}),
    "dpm++_2m": (diffusers.DPMSolverMultistepScheduler, {}),
    "dpm++_2m_karras": (diffusers.DPMSolverMultistepScheduler, {"use_karras_sigmas": True}),
    "heun": (diffusers.HeunDiscreteScheduler, {}),
    "lms": (diffusers.LMSDiscreteScheduler, {}),
    "ddim": (diffusers.DDIMScheduler, {"clip_sample": False}),
    "pndm": (diffusers.PNDMScheduler, {"skip_prk_steps": True}),
    "lcm": (diffusers.LCMScheduler, {"clip_sample": False}),
}
#: Those of which diffusers' take no `sample`; what it means of the noise is given to them instead.
NO_SAMPLES = ("euler_a", "pndm")


def model(latents: np.ndarray, timestep: float) -> np.ndarray:
    """A smooth stand-in for a UNet: depends on every input."""
    return (np.tanh(latents * 0.7) * np.cos(timestep / 300) + 0.1 * np.roll(latents, 1)).astype(np.float32)


def peer(name: str, schedule: NoiseSchedule):
    """diffusers' scheduler of the same configuration.

    Its own for PNDM, Heun and LMS know of no rescaling: they are given the betas it makes. Where no signal is left,
    they, DDIM's and LCM's would divide by 0 for noise predicted, and are given what its Euler has there.
    """
    kind, extra = PEERS[name]
    known = inspect.signature(kind).parameters
    wanted = asdict(schedule)
    if schedule.rescale_betas_zero_snr and "rescale_betas_zero_snr" not in known:
        ddim = diffusers.DDIMScheduler(
            **{k: wanted[k] for k in inspect.signature(diffusers.DDIMScheduler).parameters if k in wanted}
        )
        wanted |= {"trained_betas": ddim.betas.tolist()}
    if schedule.prediction_type == "sample" and name in NO_SAMPLES:
        wanted |= {"prediction_type": "epsilon"}
    scheduler = kind(**{key: value for key, value in wanted.items() if key in known}, **extra)
    exact = name == "ddim" and schedule.prediction_type != "epsilon"
    if scheduler.alphas_cumprod[-1] == 0 and not exact:
        scheduler.alphas_cumprod[-1] = 2**-24
    return scheduler


def begin_at(steps: int, strength: float, order: int) -> int:
    return max(steps - min(int(steps * strength), steps), 0) * order


def their_run(name: str, schedule: NoiseSchedule, steps: int, strength: float, start: np.ndarray, noise: np.ndarray):
    scheduler = peer(name, schedule)
    scheduler.set_timesteps(steps)
    begin = begin_at(steps, strength, scheduler.order)
    timesteps = scheduler.timesteps[begin:]
    scheduler.set_begin_index(begin) if hasattr(scheduler, "set_begin_index") else None
    x = torch.from_numpy(start)
    if strength < 1:
        x = scheduler.add_noise(x, torch.from_numpy(noise), timesteps[:1])
    else:
        x = x * scheduler.init_noise_sigma
    generator = torch.Generator().manual_seed(3)
    for i, t in enumerate(timesteps, begin):
        given = scheduler.scale_model_input(x, t)
        predicted = torch.from_numpy(model(given.numpy(), float(t)))
        if schedule.prediction_type == "sample" and name in NO_SAMPLES:
            alpha = 1 / (scheduler.sigmas[i] ** 2 + 1) if hasattr(scheduler, "sigmas") else scheduler.alphas_cumprod[t]
            predicted = (given - alpha**0.5 * predicted) / (1 - alpha) ** 0.5
        extra = {"generator": generator} if name in ("euler_a", "lcm") else {}
        x = scheduler.step(predicted, t, x, **extra).prev_sample
    return timesteps.numpy(), x.numpy()


def our_run(name: str, schedule: NoiseSchedule, steps: int, strength: float, start: np.ndarray, noise: np.ndarray):
    sampler = SCHEDULERS[name].make(schedule, steps)
    begin = begin_at(steps, strength, sampler.order)
    x = sampler.add_noise(start, noise, begin) if strength < 1 else start * np.float32(sampler.init_noise_sigma)
    generator = torch.Generator().manual_seed(3)
    for i in range(begin, len(sampler.timesteps)):
        predicted = model(sampler.scale_model_input(x, i), sampler.timesteps[i])
        x = sampler.step(predicted, i, x, lambda: torch.randn(start.shape, generator=generator).numpy())
    return sampler.timesteps[begin:], x


def assert_same_run(name: str, schedule: NoiseSchedule, steps: int, strength: float = 1.0) -> None:
    rng = np.random.default_rng(0)
    start, noise = (rng.standard_normal((1, 4, 4, 4)).astype(np.float32) for _ in range(2))
    theirs_at, theirs = their_run(name, schedule, steps, strength, start, noise)
    ours_at, ours = our_run(name, schedule, steps, strength, start, noise)
    assert np.isfinite(theirs).all()
    np.testing.assert_allclose(ours_at, theirs_at, atol=1e-3)
    np.testing.assert_allclose(ours, theirs, rtol=2e-3, atol=2e-4 * np.abs(theirs).max())


def cases():
    """Every sampler, prediction and spacing, from noise and from an image, but for what diffusers does differently:
    its LMS, begun part-way, takes coefficients for slopes it does not have.
    """
    runs = [(1, 1.0), (2, 1.0), (7, 1.0), (20, 1.0), (10, 0.55)]
    for name, prediction, spacing, (steps, strength) in product(PEERS, PREDICTIONS, SPACINGS, runs):
        if name != "lms" or strength == 1:
            yield name, prediction, spacing, steps, strength


@pytest.mark.parametrize(("name", "prediction", "spacing", "steps", "strength"), list(cases()))
def test_a_run_ends_where_diffusers_ends(name, prediction, spacing, steps, strength):
    schedule = replace(STABLE_DIFFUSION, prediction_type=prediction, timestep_spacing=spacing)
    assert_same_run(name, schedule, steps, strength)


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
