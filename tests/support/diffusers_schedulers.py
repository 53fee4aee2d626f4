"""diffusers' schedulers of the same configuration as ours, and runs of both with a stand-in for a UNet."""

from __future__ import annotations

import copy
import inspect
import sys
import types
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, replace
from functools import lru_cache
from typing import Any
from unittest.mock import patch

import diffusers
import numpy as np
import torch
from numpy.typing import NDArray

from server.pipeline.schedulers import SCHEDULERS, NoiseSchedule

# diffusers' module imports torchsde only for a Brownian path; `BrownianPath` is given to it instead.
sys.modules.setdefault("torchsde", types.ModuleType("torchsde"))
from diffusers.schedulers.scheduling_dpmsolver_sde import DPMSolverSDEScheduler  # noqa: E402

Array = NDArray[np.float32]
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


class BrownianPath:
    """Changes of a Brownian motion over sigma, of unit variance, for intervals asked for as DPM++ SDE asks: a half, the whole."""

    def __init__(self, draw: Callable[[], torch.Tensor]) -> None:
        self._draw = draw
        self._half: tuple[torch.Tensor, torch.Tensor] | None = None

    def __call__(self, start: torch.Tensor, end: torch.Tensor) -> torch.Tensor:
        """Return the change from sigma ``start`` to sigma ``end``, over the root of their distance."""
        if self._half is None:
            half = self._draw()
            self._half = (start - end, half * (start - end).sqrt())
            return half
        (way, before), self._half = self._half, None
        return (before + self._draw() * (start - end - way).sqrt()) / (start - end).sqrt()


class DiscreteIPNDM(diffusers.IPNDMScheduler):  # type: ignore[misc]
    """diffusers' IPNDM steps, at a discrete model's timesteps; its own noise schedule is for models trained without any."""

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self._euler = diffusers.EulerDiscreteScheduler(**settings)
        self._prediction_type = settings["prediction_type"]

    @property
    def alphas_cumprod(self) -> Any:
        """The training schedule's."""
        return self._euler.alphas_cumprod

    def set_timesteps(self, steps: int, device: Any = None) -> None:
        """Set timesteps, and the factors of signal and noise at each."""
        super().set_timesteps(steps)
        if hasattr(self, "_euler"):
            self._euler.set_timesteps(steps)
            self.timesteps, sigmas = self._euler.timesteps, self._euler.sigmas
            self.alphas = 1 / (sigmas**2 + 1).sqrt()
            self.betas = sigmas * self.alphas
            self.init_noise_sigma = float(self._euler.init_noise_sigma * self.alphas[0])

    def add_noise(self, sample: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> Any:
        """Return the sample with the noise of the step that the run begins at."""
        return self.alphas[self.begin_index] * sample + self.betas[self.begin_index] * noise

    def step(self, output: torch.Tensor, timestep: torch.Tensor, sample: torch.Tensor, return_dict: bool = True) -> Any:
        """Take a step; the class knows only of predicted velocities."""
        if self.step_index is None:
            self._init_step_index(timestep)
        alpha, sigma = self.alphas[self.step_index], self.betas[self.step_index]
        if self._prediction_type == "epsilon":
            output = (output - sigma * sample) / alpha
        elif self._prediction_type == "sample":
            output = (alpha * sample - output) / sigma
        return super().step(output, timestep, sample, return_dict)


_MULTISTEP = diffusers.DPMSolverMultistepScheduler
_SDE = {"algorithm_type": "sde-dpmsolver++"}
PEERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "euler": (diffusers.EulerDiscreteScheduler, {}),
    "euler_a": (diffusers.EulerAncestralDiscreteScheduler, {}),
    "dpm++_2m": (_MULTISTEP, {}),
    "dpm++_2m_sde": (_MULTISTEP, _SDE),
    "dpm++_2m_sde_heun": (_MULTISTEP, _SDE | {"solver_type": "heun"}),
    "dpm++_3m": (_MULTISTEP, {"solver_order": 3}),
    "dpm++_3m_sde": (_MULTISTEP, _SDE | {"solver_order": 3}),
    "dpm_2m": (_MULTISTEP, {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"}),
    "dpm++_2s": (diffusers.DPMSolverSinglestepScheduler, {}),
    "dpm++_2s_sde": (diffusers.DPMSolverSinglestepScheduler, _SDE),
    "dpm++_sde": (DPMSolverSDEScheduler, {}),
    "dpm2": (diffusers.KDPM2DiscreteScheduler, {}),
    "dpm2_a": (diffusers.KDPM2AncestralDiscreteScheduler, {}),
    "heun": (diffusers.HeunDiscreteScheduler, {}),
    "lms": (diffusers.LMSDiscreteScheduler, {}),
    "unipc": (diffusers.UniPCMultistepScheduler, {}),
    "deis": (diffusers.DEISMultistepScheduler, {}),
    "sa_solver": (diffusers.SASolverScheduler, {}),
    "ipndm": (DiscreteIPNDM, {}),
    "ddim": (diffusers.DDIMScheduler, {"clip_sample": False}),
    "ddpm": (diffusers.DDPMScheduler, {"clip_sample": False}),
    "pndm": (diffusers.PNDMScheduler, {"skip_prk_steps": True}),
    "lcm": (diffusers.LCMScheduler, {"clip_sample": False}),
    "tcd": (diffusers.TCDScheduler, {"clip_sample": False}),
}
#: Those of which diffusers' take no `sample`; what it means of the noise is given to them instead.
NO_SAMPLES = ("euler_a", "pndm", "dpm2", "dpm2_a", "dpm++_sde")
#: Our sigma schedules that diffusers has, by its option.
OPTIONS = {"karras": "use_karras_sigmas", "exponential": "use_exponential_sigmas", "beta": "use_beta_sigmas"}


def has_option(name: str, sigmas: str) -> bool:
    """Return whether diffusers' scheduler has this sigma schedule."""
    return sigmas == "automatic" or OPTIONS.get(sigmas) in inspect.signature(PEERS[name][0]).parameters


#: The schedulers and sigma schedules that diffusers combines, besides the automatic one.
COMBINATIONS = [(name, sigmas) for name in PEERS for sigmas in OPTIONS if has_option(name, sigmas)]


def peer(name: str, schedule: NoiseSchedule, sigmas: str = "automatic") -> Any:
    """Return a fresh copy of diffusers' scheduler of the same configuration."""
    return copy.deepcopy(_peer(name, schedule, sigmas))


@lru_cache(maxsize=4)
def _peer(name: str, schedule: NoiseSchedule, sigmas: str) -> Any:
    """Return diffusers' scheduler of the same configuration.

    Some know of no rescaling: they are given the betas it makes. Where no signal is left, those that would divide by 0 are
    given what diffusers' Euler has there.
    """
    kind, extra = PEERS[name]
    known = inspect.signature(diffusers.EulerDiscreteScheduler if kind is DiscreteIPNDM else kind).parameters
    wanted = asdict(schedule)
    if schedule.rescale_betas_zero_snr and "rescale_betas_zero_snr" not in known:
        ddim = diffusers.DDIMScheduler(
            **{k: wanted[k] for k in inspect.signature(diffusers.DDIMScheduler).parameters if k in wanted}
        )
        wanted |= {"trained_betas": ddim.betas.tolist()}
    if schedule.prediction_type == "sample" and name in NO_SAMPLES:
        wanted |= {"prediction_type": "epsilon"}
    if sigmas != "automatic":
        extra = extra | {OPTIONS[sigmas]: True}
    # Some compute with the zero before they are given what stands for it, and all timesteps, for a second, before those of a run.
    unused = patch.object(kind, "_sigma_to_t", lambda *_: 0.0) if name.startswith("dpm2") else nullcontext()
    with np.errstate(all="ignore"), unused:
        scheduler = kind(**{key: value for key, value in wanted.items() if key in known}, **extra)
    exact = name in ("ddim", "ddpm", "tcd") and schedule.prediction_type != "epsilon"
    if scheduler.alphas_cumprod[-1] == 0 and not exact:
        scheduler.alphas_cumprod[-1] = 2**-24
    return scheduler


def model(latents: Array, timestep: float) -> Array:
    """Return a smooth stand-in for a UNet's prediction, which depends on every input."""
    prediction = np.tanh(latents * 0.7) * np.cos(timestep / 300) + 0.1 * np.roll(latents, 1)
    return np.asarray(prediction, np.float32)


def begin_at(steps: int, strength: float, order: int) -> int:
    """Return the first call of diffusers' img2img."""
    return max(steps - min(int(steps * strength), steps), 0) * order


def their_run(
    name: str, schedule: NoiseSchedule, steps: int, strength: float, start: Array, noise: Array, sigmas: str
) -> tuple[Array, Array]:
    """Return the timesteps and the last latents of a run of diffusers' scheduler."""
    scheduler = peer(name, schedule, sigmas)
    scheduler.set_timesteps(steps)
    begin = begin_at(steps, strength, scheduler.order)
    timesteps = scheduler.timesteps[begin:]
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(begin)
    x = torch.from_numpy(start)
    if strength < 1:
        x = scheduler.add_noise(x, torch.from_numpy(noise), timesteps[:1])
    else:
        x = x * scheduler.init_noise_sigma
    generator = torch.Generator().manual_seed(3)
    if name == "dpm++_sde":
        scheduler.noise_sampler = BrownianPath(lambda: torch.randn(start.shape, generator=generator))
    drawn = {"generator": generator} if "generator" in inspect.signature(scheduler.step).parameters else {}
    for i, t in enumerate(timesteps, begin):
        given = scheduler.scale_model_input(x, t)
        predicted = torch.from_numpy(model(given.numpy(), float(t)))
        if schedule.prediction_type == "sample" and name in NO_SAMPLES:
            alpha = 1 / (_sigma(scheduler, i) ** 2 + 1) if hasattr(scheduler, "sigmas") else scheduler.alphas_cumprod[t]
            predicted = (given - alpha**0.5 * predicted) / (1 - alpha) ** 0.5
        x = scheduler.step(predicted, t, x, **drawn).prev_sample
    return timesteps.numpy(), x.numpy()


def _sigma(scheduler: Any, i: int) -> Any:
    """Return the sigma of call ``i``; diffusers keeps those of DPM2's second calls apart."""
    if getattr(scheduler, "mid_point_sigma", None) is not None:
        return scheduler.mid_point_sigma
    if i % 2 and hasattr(scheduler, "sigmas_interpol"):
        ancestral = isinstance(scheduler, diffusers.KDPM2AncestralDiscreteScheduler)
        return scheduler.sigmas_interpol[i - 1 if ancestral else i]
    return scheduler.sigmas[i]


def our_run(
    name: str,
    schedule: NoiseSchedule,
    steps: int,
    strength: float,
    start: Array,
    noise: Array,
    sigmas: str = "automatic",
    cut_at: Array | None = None,
) -> tuple[Array, Array]:
    """Return the timesteps and the last latents of a run of our scheduler.

    cut_at: diffusers' timesteps. Ours that lie within one of them become the same: it cuts fractions off after logarithms in
    fp32, where 999 can be 998.99.
    """
    scheduler = SCHEDULERS[name].make(schedule, steps, sigmas)
    begin = begin_at(steps, strength, scheduler.order)
    timesteps = scheduler.timesteps[begin:]
    if cut_at is not None:
        assert np.abs(timesteps - cut_at).max() <= 1
        assert np.mean(timesteps == cut_at) >= 0.5 or steps == 1
        scheduler.timesteps[begin:] = cut_at
    x = scheduler.add_noise(start, noise, begin) if strength < 1 else start * np.float32(scheduler.init_noise_sigma)
    generator = torch.Generator().manual_seed(3)
    for i in range(begin, len(scheduler.timesteps)):
        predicted = model(scheduler.scale_model_input(x, i), float(scheduler.timesteps[i]))
        x = scheduler.step(predicted, i, x, lambda: torch.randn(start.shape, generator=generator).numpy())
    return np.asarray(timesteps, np.float32), x


def assert_same_run(
    name: str,
    schedule: NoiseSchedule,
    steps: int,
    strength: float = 1.0,
    error: float = 2e-4,
    sigmas: str = "automatic",
) -> None:
    """Assert that both runs visit the same timesteps and end at the same latents, to ``error`` of the largest."""
    rng = np.random.default_rng(0)
    start, noise = (rng.standard_normal((1, 4, 4, 4)).astype(np.float32) for _ in range(2))
    theirs_at, theirs = their_run(name, schedule, steps, strength, start, noise, sigmas)
    cut = sigmas in OPTIONS and np.issubdtype(theirs_at.dtype, np.integer)
    ours_at, ours = our_run(name, schedule, steps, strength, start, noise, sigmas, theirs_at if cut else None)
    assert np.isfinite(theirs).all()
    # diffusers computes the logarithms of sigmas in fp32.
    np.testing.assert_allclose(ours_at, theirs_at, atol=1.01 if cut else 0.02)
    np.testing.assert_allclose(ours, theirs, rtol=2e-3, atol=error * np.abs(theirs).max())
