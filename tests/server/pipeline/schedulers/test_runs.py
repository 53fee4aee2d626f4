"""Runs of the schedulers, held against runs of diffusers' schedulers of the same configuration."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from converter.sources.config_tables import PREDICTION_TYPES
from server.pipeline.schedulers import SCHEDULERS
from tests.support.diffusers_schedulers import (
    COMBINATIONS,
    PEERS,
    STABLE_DIFFUSION,
    ZERO_SNR,
    assert_same_run,
)

#: diffusers' DPM2 passes PyTorch's tensors to NumPy's functions in an old way.
pytestmark = pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning")
#: Every prediction with one spacing, every spacing with one prediction.
KINDS = [*product(PREDICTION_TYPES, ["leading"]), ("epsilon", "trailing"), ("v_prediction", "linspace")]


@pytest.mark.parametrize(("prediction", "spacing"), KINDS)
@pytest.mark.parametrize("name", PEERS)
def test_a_run_ends_where_diffusers_ends(name, prediction, spacing):
    schedule = replace(STABLE_DIFFUSION, prediction_type=prediction, timestep_spacing=spacing)
    for steps in (1, 2, 7, 16):
        assert_same_run(name, schedule, steps)
    # diffusers' LMS, begun part-way, takes coefficients for slopes that it does not have.
    if name != "lms":
        for steps, strength in ((10, 0.55), (9, 0.12), (20, 0.99)):
            assert_same_run(name, schedule, steps, strength)


#: Who starts at pure noise with which predictions; the others are refused (see `SchedulerName.from_pure_noise`).
STARTS = [(s.name, prediction) for s in SCHEDULERS.values() for prediction in s.from_pure_noise]


@pytest.mark.parametrize(("name", "sigmas"), COMBINATIONS)
def test_a_run_over_other_sigmas_ends_where_diffusers_ends(name, sigmas):
    runs = [(1, 1.0), (2, 1.0), (8, 1.0), (20, 1.0), (10, 0.55)]
    if name in ("deis", "sa_solver"):
        # diffusers' repeat the last sigma then: a single step ends where it begins.
        runs.remove((1, 1.0))
    if name in ("lms", "sa_solver"):
        # diffusers' SA-Solver adds the noise of the timestep that is cut off, not that of the sigma.
        runs.remove((10, 0.55))
    for steps, strength in runs:
        assert_same_run(name, STABLE_DIFFUSION, steps, strength, sigmas=sigmas)


def test_every_scheduler_is_held_against_diffusers():
    assert list(PEERS) == [s.name for s in SCHEDULERS.values()]


@pytest.mark.parametrize("prediction", PREDICTION_TYPES)
@pytest.mark.parametrize("name", PEERS)
def test_a_rescaled_schedule_begun_before_its_end_ends_where_diffusers_ends(name, prediction):
    assert_same_run(name, replace(ZERO_SNR, prediction_type=prediction), 20)


@pytest.mark.parametrize("name", PEERS)
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
