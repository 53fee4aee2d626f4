"""Read the noise schedule a model was trained on from scheduler_config.json (diffusers' format)."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from converter.errors import CheckpointError
from converter.families.noise import PURE_NOISE, no_image_because, signal_left
from converter.manifest import SchedulerSettings
from converter.sources.config_tables import SCHEDULER, SCHEDULER_CLASSES
from converter.sources.configs import read_config

#: Configurations without a class are Stable Diffusion's of 2022, which diffusers read with this class.
_CLASS = "PNDMScheduler"


def read_schedule(where: str, config: dict[str, Any]) -> tuple[SchedulerSettings, str]:
    """Return the schedule and the prediction type.

    Missing keys have the defaults of the configuration's class in diffusers; without a timestep_spacing, diffusers gives each
    scheduler that of its own class (`from_config` leaves out what was a default). Raises CheckpointError that begins with
    ``where`` if the class or a key asks for a way of sampling that is not supported here.
    """
    name = config.get("_class_name", _CLASS)
    if not isinstance(name, str) or name not in SCHEDULER_CLASSES:
        raise CheckpointError(
            f"{where} has the scheduler {name!r}, whose models are sampled in a way that is not supported; accepted: "
            f"{', '.join(SCHEDULER_CLASSES)}"
        )
    says_spacing = config.get("timestep_spacing") is not None
    config = read_config(where, config, SCHEDULER, SCHEDULER_CLASSES[name])
    betas = config["trained_betas"]
    if betas is not None and len(betas) != config["num_train_timesteps"]:
        raise CheckpointError(
            f"{where} has {len(betas)} trained_betas for num_train_timesteps = {config['num_train_timesteps']}"
        )
    values = {field.name: config[field.name] for field in fields(SchedulerSettings)}
    values["trained_betas"] = None if betas is None else tuple(float(beta) for beta in betas)
    values["timestep_spacing"] = config["timestep_spacing"] if says_spacing else None
    settings, prediction_type = SchedulerSettings(**values), config["prediction_type"]
    if (wrong := no_image_because(settings, prediction_type)) is not None:
        raise CheckpointError(f"{where}: no image can be made with {wrong}")
    starts_at_last = config["timestep_spacing"] != "leading"
    if prediction_type == "epsilon" and starts_at_last and signal_left(settings)[-1] <= PURE_NOISE:
        raise CheckpointError(
            f"{where} has prediction_type = 'epsilon' and begins at pure noise (timestep_spacing = "
            f"{config['timestep_spacing']!r}, rescale_betas_zero_snr = {settings.rescale_betas_zero_snr}), where predicted "
            "noise carries no information about the image; if the model predicts v, give the prediction type"
        )
    return settings, prediction_type
