"""The noise levels that schedules and schedulers visit, held against diffusers'."""

from __future__ import annotations

from dataclasses import replace

import diffusers
import numpy as np
import pytest
import scipy.stats
import torch
from diffusers.schedulers.scheduling_utils import AysSchedules

from converter.families.registry import recognize
from server.pipeline.schedulers import SCHEDULERS, NoiseSchedule
from server.pipeline.schedulers.sigma_schedules import beta
from tests.support.diffusers_schedulers import COMBINATIONS, PEERS, STABLE_DIFFUSION, peer
from tests.support.fake_pipeline import MANIFEST
from tests.support.published_configs import FOLDERS, write_published

#: diffusers' DPM2 passes PyTorch's tensors to NumPy's functions in an old way.
pytestmark = pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning")
SPACINGS = ["leading", "trailing", "linspace"]


@pytest.mark.parametrize("beta_schedule", ["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid", "laplace"])
def test_every_schedule_leaves_the_signal_that_diffusers_leaves(beta_schedule):
    theirs = diffusers.DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule=beta_schedule)
    ours = replace(STABLE_DIFFUSION, beta_schedule=beta_schedule)
    np.testing.assert_allclose(ours.alphas_cumprod, theirs.alphas_cumprod.numpy(), rtol=2e-4)


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


def assert_same_levels(name, schedule, steps, sigmas="automatic", theirs=None):
    theirs, ours = theirs or peer(name, schedule, sigmas), SCHEDULERS[name].make(schedule, steps, sigmas)
    theirs.set_timesteps(steps)
    expected = theirs.timesteps.numpy()
    # NumPy's arange can give diffusers one step too many, at timestep -1.
    kept = len(expected) - ours.order * int(expected[-1] < 0)
    # diffusers computes logarithms in fp32, and cuts off or rounds what follows from them.
    cut = sigmas != "automatic" and np.array_equal(expected, np.round(expected))
    np.testing.assert_allclose(ours.timesteps, expected[:kept], atol=1.01 if cut else 0.02)
    # Our IPNDM's latents are scaled, and diffusers' are not.
    assert name == "ipndm" or ours.init_noise_sigma == pytest.approx(float(theirs.init_noise_sigma), rel=1e-4)
    if hasattr(theirs, "sigmas"):
        step = ours.order
        np.testing.assert_allclose(ours.sigmas[:kept:step], theirs.sigmas[:kept:step], rtol=1e-4)
        assert ours.sigmas[-1] == pytest.approx(float(theirs.sigmas[-1]), rel=1e-4)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("name", PEERS)
def test_timesteps_and_sigmas_are_those_of_diffusers(name, spacing):
    few, many = (1, 2, 3, 7, 20, 50), (48, 61, 121, 150, 999)
    # diffusers' DPM2 takes a millisecond a step.
    slow = name.startswith("dpm2")
    for count, offset, numbers in ((1000, 1, few if slow else (*few, *many)), (1000, 0, few), (600, 1, few)):
        schedule = replace(STABLE_DIFFUSION, timestep_spacing=spacing, steps_offset=offset, num_train_timesteps=count)
        for steps in numbers:
            # diffusers' LCM and TCD have 50 timesteps.
            if steps <= 50 or name not in ("lcm", "tcd"):
                assert_same_levels(name, schedule, steps)


REPOSITORIES = [
    "runwayml/stable-diffusion-v1-5",
    "runwayml/stable-diffusion-inpainting",
    "stabilityai/stable-diffusion-2-1",
    "stabilityai/stable-diffusion-2-inpainting",
    "stabilityai/stable-diffusion-xl-base-1.0",
    "stabilityai/stable-diffusion-xl-refiner-1.0",
    "diffusers/stable-diffusion-xl-1.0-inpainting-0.1",
]


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """The noise schedule of each published model, by repository."""
    folder = tmp_path_factory.mktemp("published")
    families = {name: recognize(write_published(name, folder / name)) for name in REPOSITORIES}
    return {
        name: NoiseSchedule.of(replace(MANIFEST, scheduler=family.schedule, prediction_type=family.prediction_type))
        for name, family in families.items()
    }


@pytest.mark.parametrize("repository", REPOSITORIES)
@pytest.mark.parametrize("name", sorted(set(PEERS) - {"ipndm"}))  # diffusers' has no training timesteps
def test_a_published_models_levels_are_those_of_diffusers_scheduler_made_from_its_configuration(
    repository, name, published
):
    kind, options = PEERS[name]
    config = FOLDERS[repository]["scheduler"]
    for steps in (1, 2, 20):
        # Their scheduler has no configuration of its own for what ours is given by its name.
        assert_same_levels(name, published[repository], steps, theirs=kind.from_config(config, **options))


@pytest.mark.parametrize(("name", "sigmas"), COMBINATIONS)
def test_timesteps_and_sigmas_of_other_schedules_are_those_of_diffusers(name, sigmas):
    for beta_schedule in ("scaled_linear", "linear"):
        schedule = replace(STABLE_DIFFUSION, timestep_spacing="trailing", beta_schedule=beta_schedule)
        for steps in (2, 7, 20):
            assert_same_levels(name, schedule, steps, sigmas)


def test_karras_timesteps_of_a_squared_cosine_are_cut_as_diffusers_cuts_them():
    schedule = replace(STABLE_DIFFUSION, beta_schedule="squaredcos_cap_v2")
    theirs = peer("dpm++_2m", schedule, "karras")
    theirs.set_timesteps(30)
    away = SCHEDULERS["dpm++_2m"].make(schedule, 30, "karras").timesteps - theirs.timesteps.numpy()
    # diffusers computes them from float32 logarithms, so that the end is at 998.99 and rounded down to 998.
    assert np.abs(away).max() <= 1
    assert np.mean(away == 0) > 0.8


def k_diffusion(sigmas, schedule, steps):
    """The sigma schedules of AUTOMATIC1111's sd_schedulers.py, one value at a time, in fp32 as there."""
    table = torch.from_numpy(schedule.sigmas.astype(np.float32))

    def sigma_at(timestep):
        low = int(timestep)
        high = min(low + 1, len(table) - 1)
        share = timestep - low
        return float(((1 - share) * table[low].log() + share * table[high].log()).exp())

    last = len(table) - 1
    return {
        "uniform": [sigma_at(float(t)) for t in torch.linspace(last, 0, steps)],
        "sgm_uniform": [sigma_at(float(t)) for t in torch.linspace(last, 0, steps + 1)[:-1]],
        "simple": [float(table[-(1 + int(x * len(table) / steps))]) for x in range(steps)],
    }[sigmas]


@pytest.mark.parametrize("steps", [1, 2, 8, 10, 30])
@pytest.mark.parametrize("sigmas", ["uniform", "sgm_uniform", "simple"])
def test_sigmas_that_diffusers_has_not_are_those_of_automatic1111(sigmas, steps):
    expected = k_diffusion(sigmas, STABLE_DIFFUSION, steps)
    for name in ("euler", "euler_a", "unipc"):
        ours = SCHEDULERS[name].make(STABLE_DIFFUSION, steps, sigmas)
        np.testing.assert_allclose(ours.sigmas, [*expected, 0], rtol=1e-4)


@pytest.mark.parametrize(("sdxl", "table"), [(False, "StableDiffusion"), (True, "StableDiffusionXL")])
def test_aligned_steps_are_the_published_ones_and_log_linear_between_them(sdxl, table):
    schedule = replace(STABLE_DIFFUSION, sdxl=sdxl)
    published, timesteps = AysSchedules[f"{table}Sigmas"], AysSchedules[f"{table}Timesteps"]
    ours = SCHEDULERS["euler"].make(schedule, 10, "ays")
    np.testing.assert_allclose(ours.sigmas, published)
    # Theirs are whole ones.
    np.testing.assert_allclose(ours.timesteps, timesteps, atol=1)
    twice = SCHEDULERS["euler"].make(schedule, 20, "ays").sigmas
    np.testing.assert_allclose(twice[:-1:2], published[:-1])
    np.testing.assert_allclose(twice[1:-2:2] ** 2, twice[:-3:2] * twice[2:-1:2])
    assert SCHEDULERS["euler"].make(schedule, 1, "ays").sigmas[0] == pytest.approx(published[0])


@pytest.mark.parametrize("steps", [1, 2, 3, 10, 150, 1000])
def test_quantiles_of_the_beta_distribution_are_those_of_scipy(steps):
    levels = 1 - np.linspace(0, 1, steps)
    ours = beta(STABLE_DIFFUSION, steps, 0.0, 1.0)
    np.testing.assert_allclose(ours, scipy.stats.beta.ppf(levels, 0.6, 0.6), atol=1e-7)
