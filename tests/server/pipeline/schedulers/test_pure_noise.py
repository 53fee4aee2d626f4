"""Which schedulers can start where no signal is left (zero terminal SNR)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from converter.sources.config_tables import PREDICTION_TYPES
from server.pipeline.schedulers import SCHEDULERS
from tests.support.diffusers_schedulers import PEERS, ZERO_SNR, assert_same_run

#: diffusers' DPM2 passes PyTorch's tensors to NumPy's functions in an old way.
pytestmark = pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning")
#: Who starts at pure noise with which predictions; the others are refused (see `SchedulerSpec.from_pure_noise`).
STARTS = [(s.name, prediction) for s in SCHEDULERS.values() for prediction in s.from_pure_noise]


@pytest.mark.parametrize("spacing", ["trailing", "linspace"])
@pytest.mark.parametrize(("name", "prediction"), STARTS)
def test_a_run_from_pure_noise_ends_where_diffusers_ends(name, prediction, spacing):
    schedule = replace(ZERO_SNR, prediction_type=prediction, timestep_spacing=spacing)
    for steps in (2, 20):
        assert schedule.pure_noise_at(SCHEDULERS[name].make(schedule, steps).timesteps[0])
        # diffusers' fp32 knows latents of sigma 4096 to 2.4e-4, and how it rounds them differs from CPU to CPU.
        assert_same_run(name, schedule, steps, error=1e-3)


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
        assert 0.35 < gain < 1.5
        assert moved.std() < 0.03
    else:
        assert gain > 1.5 or moved.std() > 0.05
