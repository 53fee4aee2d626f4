"""Which schedulers, sigma schedules, steps and noise schedules a request may have, and by which names."""

from __future__ import annotations

from dataclasses import replace

import diffusers
import numpy as np
import pytest

from converter.errors import ManifestError
from server.pipeline.request import RequestError, bind
from server.pipeline.schedulers import (
    SCHEDULERS,
    SIGMA_SCHEDULES,
    NoiseSchedule,
    UnknownScheduler,
    find_scheduler,
    find_sigmas,
)
from tests.support.diffusers_schedulers import our_run
from tests.support.fake_pipeline import MANIFEST

#: Those that space timesteps for one step more than there are.
_CLASSES = ("DPMSolverMultistep", "DEISMultistep", "UniPCMultistep", "SASolver")
ONE_MORE = [s.name for s in SCHEDULERS.values() if s.diffusers.removesuffix("Scheduler") in _CLASSES]
SPACINGS = ["leading", "trailing", "linspace"]


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


def test_a_models_own_scheduler_that_is_unknown_is_told_from_one_that_was_sent():
    model = replace(MANIFEST, defaults=replace(MANIFEST.defaults, scheduler="nope"))
    with pytest.raises(
        RequestError, match=rf"'nope'; accepted: euler, .*; this is the default of the model {model.name}, so"
    ):
        bind(model, prompt="red")
    assert bind(model, prompt="red", scheduler="euler").sampling.scheduler == "euler"
    with pytest.raises(RequestError, match=r"'none'; accepted: [^;]*$"):
        bind(model, prompt="red", scheduler="none")


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("spacing", SPACINGS)
def test_more_steps_than_timesteps_are_refused_and_as_many_as_accepted_are_finite(name, spacing):
    few = manifest(num_train_timesteps=40, timestep_spacing=spacing)
    # Some count one step more where the spacing leads, and an offset of 1 is past the end then.
    most = 38 if name in ONE_MORE and spacing == "leading" else 39
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
    ("spelling", "name", "sigmas"),
    [
        ("Euler a", "euler_a", "automatic"),
        ("k_euler", "euler", "automatic"),
        ("EulerDiscreteScheduler", "euler", "automatic"),
        ("Euler a Karras", "euler_a", "karras"),
        ("dpm++_2m_karras", "dpm++_2m", "karras"),
        ("DPM++ 2M Karras", "dpm++_2m", "karras"),
        ("DPM++ 2M", "dpm++_2m", "automatic"),
        ("dpmpp_2m", "dpm++_2m", "automatic"),
        ("k_dpmpp_2m_ka", "dpm++_2m", "karras"),
        ("DPM++ 2M SDE Exponential", "dpm++_2m_sde", "exponential"),
        ("DPM++ 2M SDE Heun Karras", "dpm++_2m_sde_heun", "karras"),
        ("DPM++ 3M SDE", "dpm++_3m_sde", "automatic"),
        ("DPM++ SDE Karras", "dpm++_sde", "karras"),
        ("DPM2 a Karras", "dpm2_a", "karras"),
        ("k_dpm_2_a_ka", "dpm2_a", "karras"),
        ("DPMSolverSinglestepScheduler", "dpm++_2s", "automatic"),
        ("LMS Karras", "lms", "karras"),
        ("UniPCMultistep", "unipc", "automatic"),
        ("DEIS SGM Uniform", "deis", "sgm_uniform"),
        ("Heun Align Your Steps", "heun", "ays"),
        ("PLMS", "pndm", "automatic"),
        ("ddim", "ddim", "automatic"),
    ],
)
def test_schedulers_are_found_by_the_names_people_use(spelling, name, sigmas):
    scheduler, joined = find_scheduler(spelling)
    assert (scheduler.name, joined.name) == (name, sigmas)


def test_every_class_of_diffusers_is_found_by_its_name():
    for spec in SCHEDULERS.values():
        assert hasattr(diffusers, spec.diffusers)
        assert find_scheduler(spec.diffusers)[0].diffusers == spec.diffusers


@pytest.mark.parametrize("name", ["warp drive", "ddim_karras", "karras", ""])
def test_an_unknown_scheduler_is_refused_with_the_names_there_are(name):
    with pytest.raises(UnknownScheduler, match="euler_a") as refused:
        find_scheduler(name)
    assert repr(name) in str(refused.value)


def test_sigmas_are_found_by_automatic1111s_schedule_types():
    titles = ["Automatic", "Uniform", "Karras", "Exponential", "Beta", "SGM Uniform", "Simple", "Align Your Steps"]
    assert [find_sigmas(title).name for title in titles] == list(SIGMA_SCHEDULES)
    assert find_sigmas("Normal").name == "uniform"
    with pytest.raises(RequestError, match=r"sigmas is 'warp'; accepted: automatic, uniform, karras, .*ays"):
        bind(MANIFEST, prompt="red", sigmas="warp")


def sampled_by(default="euler", **fields):
    model = replace(MANIFEST, defaults=replace(MANIFEST.defaults, scheduler=default))
    sampling = bind(model, prompt="red", **fields).sampling
    return sampling.scheduler, sampling.sigmas


def test_a_name_with_sigmas_in_it_sets_both_fields():
    assert sampled_by(scheduler="DPM++ 2M Karras") == ("dpm++_2m", "karras")
    # A1111's clients send a whole form.
    assert sampled_by(scheduler="DPM++ 2M Karras", sigmas="Automatic") == ("dpm++_2m", "karras")
    assert sampled_by(scheduler="DPM++ 2M Karras", sigmas="karras") == ("dpm++_2m", "karras")
    with pytest.raises(RequestError, match=r"sigmas is 'beta'; accepted: karras with the scheduler DPM\+\+ 2M Karras"):
        sampled_by(scheduler="DPM++ 2M Karras", sigmas="beta")


def test_a_models_default_with_sigmas_in_its_name_gives_way_to_what_is_asked():
    assert sampled_by(default="dpm++_2m_karras") == ("dpm++_2m", "karras")
    assert sampled_by(default="dpm++_2m_karras", sigmas="ays") == ("dpm++_2m", "ays")
    assert sampled_by(default="dpm++_2m_karras", scheduler="euler") == ("euler", "automatic")


def test_sigmas_that_do_not_apply_are_refused_with_the_schedulers_to_which_they_do():
    with pytest.raises(RequestError, match=r"sigmas is 'karras'; accepted: automatic with ddim, .*; karras with euler"):
        bind(MANIFEST, prompt="red", scheduler="ddim", sigmas="karras")


@pytest.mark.parametrize("sigmas", SIGMA_SCHEDULES)
@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_scheduler_makes_finite_latents_with_all_sigmas_that_apply(name, sigmas):
    if sigmas not in SCHEDULERS[name].sigma_schedules:
        return
    noise = np.random.default_rng(0).standard_normal((1, 4, 4, 4)).astype(np.float32)
    for steps, strength in ((1, 1.0), (2, 1.0), (2, 0.5), (20, 1.0), (20, 0.05), (20, 0.99), (150, 0.1)):
        x = our_run(name, NoiseSchedule.of(MANIFEST), steps, strength, noise, noise, sigmas)[1]
        assert np.isfinite(x).all()
        assert x.dtype == np.float32
