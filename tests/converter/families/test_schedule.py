"""scheduler_config.json as diffusers reads it."""

from __future__ import annotations

import inspect

import diffusers
import numpy as np
import pytest

from converter.errors import CheckpointError
from converter.families.schedule import read_schedule
from converter.sources.config_tables import SCHEDULER_CLASSES, usual_spacing

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}


@pytest.mark.parametrize("name", sorted(set(SCHEDULER_CLASSES) - {"DPMSolverSDEScheduler"}))
def test_what_a_configuration_lacks_is_as_in_its_class(name):
    theirs = {key: p.default for key, p in inspect.signature(getattr(diffusers, name).__init__).parameters.items()}
    actual, prediction_type = read_schedule("s", {"_class_name": name})
    assert prediction_type == theirs["prediction_type"]
    for key in ("beta_start", "beta_end", "beta_schedule", "num_train_timesteps", "steps_offset"):
        assert getattr(actual, key) == theirs.get(key, 0), key
    # Another class has its own then.
    assert actual.timestep_spacing is None
    assert usual_spacing(name) == theirs.get("timestep_spacing", "linspace")
    assert actual.set_alpha_to_one == theirs.get("set_alpha_to_one", True)
    assert (actual.trained_betas, actual.rescale_betas_zero_snr) == (None, False)


def test_what_a_configuration_says_is_kept_whatever_its_class_reads():
    said = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "prediction_type": "v_prediction"}
    actual, prediction_type = read_schedule("s", {"_class_name": "PNDMScheduler", **BETAS, **said})
    assert (actual.rescale_betas_zero_snr, actual.timestep_spacing) == (True, "trailing")
    assert prediction_type == "v_prediction"


def test_trained_betas_are_kept_and_must_be_as_many_as_timesteps():
    betas = np.linspace(0.0001, 0.03, 1000).tolist()
    actual, _ = read_schedule("s", {"_class_name": "DDIMScheduler", **BETAS, "trained_betas": betas})
    assert actual.trained_betas == tuple(betas)
    with pytest.raises(CheckpointError, match="999 trained_betas for num_train_timesteps = 1000"):
        read_schedule("s", {"_class_name": "DDIMScheduler", **BETAS, "trained_betas": betas[1:]})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"_class_name": "EDMEulerScheduler"}, "EDMEulerScheduler.*sampled in a way that is not supported"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, "FlowMatchEulerDiscreteScheduler"),
        ({"_class_name": "CMStochasticIterativeScheduler"}, "CMStochasticIterative"),
        ({"_class_name": ["x"]}, "sampled in a way that is not supported"),
        ({"use_flow_sigmas": True}, "use_flow_sigmas = True.*flow matching"),
        ({"prediction_type": "flow_prediction"}, "prediction_type = 'flow_prediction'"),
        ({"timestep_type": "continuous"}, "EDM"),
        ({"beta_schedule": "cosine"}, "beta_schedule = 'cosine'.*'laplace'"),
        ({"beta_end": 1.5}, "no image can be made with beta_end 1.5"),
        ({"beta_end": 0.9, "beta_schedule": "linear"}, "leave no signal before the last timestep"),
        ({"steps_offset": 600}, "steps_offset 600"),
        ({"num_train_timesteps": 1}, "num_train_timesteps 1"),
        ({"num_train_timesteps": 10**9}, "num_train_timesteps = 1000000000"),
        ({"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}, "predicted noise carries no information"),
        ({"num_train_timesteps": "1000"}, "num_train_timesteps = '1000'"),
        ({"thresholding": True}, "thresholding"),
        ({"trained_betas": [0.1, 2.0]}, "trained_betas"),
    ],
)
def test_another_way_of_sampling_is_refused_by_what_says_so(change, words):
    with pytest.raises(CheckpointError, match=words):
        read_schedule("s", {"_class_name": "DDIMScheduler", **BETAS, **change})
