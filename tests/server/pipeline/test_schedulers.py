"""Schedulers against diffusers' schedulers of the same configuration."""

from __future__ import annotations

import inspect
from dataclasses import asdict, replace
from itertools import product

import diffusers
import numpy as np
import pytest
import torch

from converter.errors import ManifestError
from converter.sources.config_tables import PREDICTION_TYPES
from server.pipeline.request import RequestError, bind
from server.pipeline.schedulers import SCHEDULERS, NoiseSchedule, UnknownScheduler, find_scheduler
from tests.support.fake_pipeline import MANIFEST

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
    scheduler = SCHEDULERS[name].make(schedule, steps)
    begin = begin_at(steps, strength, scheduler.order)
    x = scheduler.add_noise(start, noise, begin) if strength < 1 else start * np.float32(scheduler.init_noise_sigma)
    generator = torch.Generator().manual_seed(3)
    for i in range(begin, len(scheduler.timesteps)):
        predicted = model(scheduler.scale_model_input(x, i), scheduler.timesteps[i])
        x = scheduler.step(predicted, i, x, lambda: torch.randn(start.shape, generator=generator).numpy())
    return scheduler.timesteps[begin:], x


def assert_same_run(name: str, schedule: NoiseSchedule, steps: int, strength: float = 1.0, error: float = 2e-4) -> None:
    rng = np.random.default_rng(0)
    start, noise = (rng.standard_normal((1, 4, 4, 4)).astype(np.float32) for _ in range(2))
    theirs_at, theirs = their_run(name, schedule, steps, strength, start, noise)
    ours_at, ours = our_run(name, schedule, steps, strength, start, noise)
    assert np.isfinite(theirs).all()
    np.testing.assert_allclose(ours_at, theirs_at, atol=1e-3)
    np.testing.assert_allclose(ours, theirs, rtol=2e-3, atol=error * np.abs(theirs).max())


def cases():
    """Every scheduler, prediction and spacing, from noise and from an image, but for what diffusers does differently:
    its LMS, begun part-way, takes coefficients for slopes it does not have.
    """
    runs = [(1, 1.0), (2, 1.0), (7, 1.0), (20, 1.0), (10, 0.55)]
    for name, prediction, spacing, (steps, strength) in product(PEERS, PREDICTION_TYPES, SPACINGS, runs):
        if name != "lms" or strength == 1:
            yield name, prediction, spacing, steps, strength


@pytest.mark.parametrize(("name", "prediction", "spacing", "steps", "strength"), list(cases()))
def test_a_run_ends_where_diffusers_ends(name, prediction, spacing, steps, strength):
    schedule = replace(STABLE_DIFFUSION, prediction_type=prediction, timestep_spacing=spacing)
    assert_same_run(name, schedule, steps, strength)


#: Who starts at pure noise with which predictions; the others are refused (see `SchedulerName.from_pure_noise`).
STARTS = [(s.name, prediction) for s in SCHEDULERS.values() for prediction in s.from_pure_noise]


@pytest.mark.parametrize("spacing", ["trailing", "linspace"])
@pytest.mark.parametrize(("name", "prediction"), STARTS)
def test_a_run_from_pure_noise_ends_where_diffusers_ends(name, prediction, spacing):
    schedule = replace(ZERO_SNR, prediction_type=prediction, timestep_spacing=spacing)
    for steps in (2, 20):
        assert schedule.pure_noise_at(SCHEDULERS[name].make(schedule, steps).timesteps[0])
        # diffusers' fp32 knows latents of sigma 4096 to 2.4e-4, and how it rounds them differs from CPU to CPU.
        assert_same_run(name, schedule, steps, error=1e-3)


@pytest.mark.parametrize("prediction", PREDICTION_TYPES)
@pytest.mark.parametrize("name", PEERS)
def test_a_rescaled_schedule_begun_before_its_end_ends_where_diffusers_ends(name, prediction):
    assert_same_run(name, replace(ZERO_SNR, prediction_type=prediction), 20)


@pytest.mark.parametrize("beta_schedule", ["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid", "laplace"])
def test_every_schedule_leaves_the_signal_that_diffusers_leaves(beta_schedule):
    theirs = diffusers.DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule=beta_schedule)
    ours = replace(STABLE_DIFFUSION, beta_schedule=beta_schedule)
    np.testing.assert_allclose(ours.alphas_cumprod, theirs.alphas_cumprod.numpy(), rtol=2e-4)


@pytest.mark.parametrize("name", [name for name in PEERS if not name.endswith("karras")])
@pytest.mark.parametrize("beta_schedule", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_betas_of_every_schedule_end_where_diffusers_ends(name, beta_schedule):
    assert_same_run(name, replace(ZERO_SNR, beta_schedule=beta_schedule, rescale_betas_zero_snr=False), 7)


@pytest.mark.parametrize("name", PEERS)
def test_trained_betas_end_where_diffusers_ends(name):
    betas = tuple(np.geomspace(1e-4, 0.03, 400))
    assert_same_run(name, replace(STABLE_DIFFUSION, trained_betas=betas, num_train_timesteps=400), 7)


@pytest.mark.parametrize("name", ["ddim", "pndm"])
@pytest.mark.parametrize("to_one", [True, False])
@pytest.mark.parametrize("offset", [0, 1])
def test_the_last_step_ends_at_the_alpha_the_settings_say(name, to_one, offset):
    schedule = replace(STABLE_DIFFUSION, set_alpha_to_one=to_one, steps_offset=offset)
    for steps in (1, 5):
        assert_same_run(name, schedule, steps)


@pytest.mark.parametrize("rescaled", [False, True])
@pytest.mark.parametrize("count", [1000, 37])
@pytest.mark.parametrize("betas", ["linear", "scaled_linear", "squaredcos_cap_v2", "trained"])
def test_noise_schedules_are_those_of_diffusers(betas, count, rescaled):
    schedule = replace(STABLE_DIFFUSION, num_train_timesteps=count, rescale_betas_zero_snr=rescaled)
    if betas == "trained":
        schedule = replace(schedule, trained_betas=tuple(np.geomspace(0.001, 0.03, count)))
    else:
        schedule = replace(schedule, beta_schedule=betas)
    theirs = peer("euler", schedule)
    expected = theirs.alphas_cumprod.numpy().astype(np.float64)
    # diffusers computes in float32, where differences of roots near the end are as coarse as 1e-7 of what is left of 1.
    np.testing.assert_allclose(np.sqrt(schedule.alphas_cumprod), np.sqrt(expected), rtol=1e-4, atol=1e-6)
    assert (schedule.sigmas[-1] == pytest.approx(4096, rel=1e-6)) == rescaled


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("name", PEERS)
def test_timesteps_and_sigmas_are_those_of_diffusers(name, spacing):
    # Karras' are computed from logarithms, in float32 in diffusers.
    tolerance = 1.0 if name.endswith("karras") else 1e-3
    few, many = (1, 2, 3, 7, 20, 50), (48, 61, 121, 150, 999, 1000)
    for count, offset, numbers in ((1000, 1, (*few, *many)), (1000, 0, few), (600, 1, few)):
        schedule = replace(STABLE_DIFFUSION, timestep_spacing=spacing, steps_offset=offset, num_train_timesteps=count)
        theirs = peer(name, schedule)
        for steps in numbers:
            if name == "lcm" and steps > 50:
                continue  # theirs refuses
            theirs.set_timesteps(steps)
            ours = SCHEDULERS[name].make(schedule, steps)
            expected = theirs.timesteps.numpy()
            # NumPy's arange can give diffusers one step too many, at timestep -1.
            kept = len(expected) - ours.order * int(expected[-1] < 0)
            np.testing.assert_allclose(ours.timesteps, expected[:kept], atol=tolerance)
            assert ours.init_noise_sigma == pytest.approx(float(theirs.init_noise_sigma), rel=1e-4)
            if hasattr(theirs, "sigmas"):
                np.testing.assert_allclose(ours.sigmas[:kept], theirs.sigmas[:kept], rtol=1e-4)
                assert ours.sigmas[-1] == theirs.sigmas[-1] == 0


def test_karras_timesteps_of_a_squared_cosine_are_cut_as_diffusers_cuts_them():
    schedule = replace(STABLE_DIFFUSION, beta_schedule="squaredcos_cap_v2")
    theirs = peer("dpm++_2m_karras", schedule)
    theirs.set_timesteps(30)
    away = SCHEDULERS["dpm++_2m_karras"].make(schedule, 30).timesteps - theirs.timesteps.numpy()
    # diffusers computes them from float32 logarithms, so that the end is at 998.99 and rounded down to 998.
    assert np.abs(away).max() <= 1
    assert np.mean(away == 0) > 0.8


def sampled(name: str, prediction: str, steps: int, deviation: float, error: float = 0.0) -> np.ndarray:
    """What pure noise becomes by the exact UNet of numbers of this deviation, whose predictions are off by ``error``."""
    schedule = replace(ZERO_SNR, prediction_type=prediction, timestep_spacing="trailing")
    scheduler, variance = SCHEDULERS[name].make(schedule, steps), deviation**2
    draws, errors = np.random.default_rng(0), np.random.default_rng(1)
    x = (draws.standard_normal(2000) * scheduler.init_noise_sigma).astype(np.float32)
    for i, timestep in enumerate(scheduler.timesteps):
        given = scheduler.scale_model_input(x, i).astype(np.float64)
        sigma = schedule.sigmas_at(np.asarray([timestep]))[0]
        signal, noise = 1 / (1 + sigma**2) ** 0.5, sigma / (1 + sigma**2) ** 0.5
        denoised = given * signal * variance / (signal**2 * variance + noise**2)
        epsilon = (given - signal * denoised) / noise
        output = {"epsilon": epsilon, "sample": denoised, "v_prediction": signal * epsilon - noise * denoised}[
            prediction
        ]
        output = (output + error * errors.standard_normal(2000)).astype(np.float32)
        x = scheduler.step(output, i, x, lambda: draws.standard_normal(2000).astype(np.float32))
    return x


@pytest.mark.parametrize("prediction", PREDICTION_TYPES)
@pytest.mark.parametrize("name", PEERS)
def test_what_starts_at_pure_noise_samples_well_there_and_what_does_not_is_refused(name, prediction):
    # Brightness is the mean of 64 x 64 latents: on the axis of unit length that all of them share, of deviation 64.
    gain = sampled(name, prediction, 20, 64.0).std() / 64
    moved = sampled(name, prediction, 4, 1.0, error=0.01) - sampled(name, prediction, 4, 1.0)
    if (name, prediction) in STARTS:
        assert 0.5 < gain < 1.5
        assert moved.std() < 0.05
    else:
        assert gain > 10 or moved.std() > 0.1


def manifest(**changes):
    """The fake model's, with its schedule or prediction changed."""
    prediction = changes.pop("prediction_type", "v_prediction")
    return replace(MANIFEST, prediction_type=prediction, scheduler=replace(MANIFEST.scheduler, **changes))


def test_a_request_names_what_can_start_at_the_models_pure_noise():
    zero_snr = manifest(rescale_betas_zero_snr=True, timestep_spacing="trailing")
    with pytest.raises(RequestError, match=r"scheduler is 'heun'.*euler, euler_a.*pndm.*zero terminal SNR"):
        bind(zero_snr, prompt="red", scheduler="heun")
    assert bind(zero_snr, prompt="red", scheduler="pndm").sampling.scheduler == "pndm"
    with pytest.raises(RequestError, match="scheduler is 'pndm'"):
        bind(replace(zero_snr, prediction_type="epsilon"), prompt="red", scheduler="pndm")
    with pytest.raises(
        RequestError, match=r"scheduler is 'euler'; accepted: none: .*a predicted noise does not determine the image"
    ):
        bind(replace(zero_snr, prediction_type="epsilon"), prompt="red", scheduler="euler")
    before_the_end = manifest(rescale_betas_zero_snr=True, timestep_spacing="leading")
    assert bind(before_the_end, prompt="red", scheduler="heun").sampling.scheduler == "heun"


@pytest.mark.parametrize("name", PEERS)
@pytest.mark.parametrize("spacing", SPACINGS)
def test_more_steps_than_timesteps_are_refused_and_as_many_as_accepted_are_finite(name, spacing):
    few = manifest(num_train_timesteps=40, timestep_spacing=spacing)
    # DPM++ counts one step more where it leads, and an offset of 1 is past the end then.
    most = 38 if (name, spacing) == ("dpm++_2m", "leading") else 39
    with pytest.raises(RequestError, match=rf"steps is 60; accepted: 1 to {most} with .*40 timesteps"):
        bind(few, prompt="red", steps=60, scheduler=name)
    assert bind(few, prompt="red", steps=most, scheduler=name).sampling.steps == most
    noise = np.random.default_rng(0).standard_normal((1, 4, 4, 4)).astype(np.float32)
    for steps in (1, 2, most):
        assert np.isfinite(our_run(name, NoiseSchedule.of(few), steps, 1, noise, noise)[1]).all()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"beta_schedule": "cosine"}, "beta_schedule 'cosine'"),
        ({"timestep_spacing": "karras"}, "timestep_spacing 'karras'"),
        ({"steps_offset": 500}, "steps_offset 500"),
        ({"steps_offset": -1}, "steps_offset -1"),
        ({"num_train_timesteps": 1}, "num_train_timesteps 1"),
        ({"trained_betas": (0.1, 0.2)}, "trained_betas"),
        ({"trained_betas": (0.0,) * 1000}, "betas"),
        ({"trained_betas": (0.1,) * 500 + (1.0,) * 500}, "betas"),
        ({"trained_betas": (float("nan"),) * 1000}, "betas"),
        ({"trained_betas": (0.9,) * 1000, "rescale_betas_zero_snr": True}, "betas"),
        ({"trained_betas": (2.0,) * 1000, "rescale_betas_zero_snr": True}, "betas"),
        ({"beta_start": -1.0}, "beta_start -1.0"),
        ({"beta_end": float("nan")}, "beta_end nan"),
        ({"prediction_type": "flow"}, "prediction_type 'flow'"),
    ],
)
def test_a_manifest_with_another_noise_schedule_is_refused_by_name(changes, named):
    with pytest.raises(ManifestError, match=named):
        NoiseSchedule.of(manifest(**changes))
    with pytest.raises(RequestError, match=named):
        bind(manifest(**changes), prompt="red")


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
