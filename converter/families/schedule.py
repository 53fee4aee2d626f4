"""A scheduler_config.json as the noise schedule a model was trained on (diffusers' configurations)."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from converter.errors import CheckpointError
from converter.families.noise import PURE_NOISE, no_image_because, signal_left
from converter.folder import SchedulerSettings
from converter.sources.config_tables import SCHEDULER, SCHEDULER_CLASSES
from converter.sources.configs import read_config

#: Configurations without a class are Stable Diffusion's own of 2022, which diffusers read with this one.
_CLASS = "PNDMScheduler"


def read_schedule(where: str, given: dict[str, Any]) -> tuple[SchedulerSettings, str]:
    """Return the schedule, and what the denoiser predicts (diffusers' ``prediction_type``).

    What the configuration lacks is as in its class in diffusers. Raises CheckpointError that begins with ``where``,
    where the class or a key means another way of sampling than this project's.
    """
    name = given.get("_class_name", _CLASS)
    if not isinstance(name, str) or name not in SCHEDULER_CLASSES:
        raise CheckpointError(
            f"{where} is of {name!r}: a model that was trained for it is sampled in another way than those of the "
            f"schedulers this converter knows ({', '.join(SCHEDULER_CLASSES)})"
        )
    config = read_config(where, given, SCHEDULER, SCHEDULER_CLASSES[name])
    betas = config["trained_betas"]
    if betas is not None and len(betas) != config["num_train_timesteps"]:
        raise CheckpointError(
            f"{where} has {len(betas)} trained_betas for num_train_timesteps = {config['num_train_timesteps']}"
        )
    values = {field.name: config[field.name] for field in fields(SchedulerSettings)}
    values["trained_betas"] = None if betas is None else tuple(float(beta) for beta in betas)
    settings, prediction_type = SchedulerSettings(**values), config["prediction_type"]
    if (wrong := no_image_because(settings, prediction_type)) is not None:
        raise CheckpointError(f"{where}: no image can be made with {wrong}")
    from_the_end = config["timestep_spacing"] != "leading"
    if prediction_type == "epsilon" and from_the_end and signal_left(settings)[-1] <= PURE_NOISE:
        raise CheckpointError(
            f"{where} has prediction_type = 'epsilon' and begins at pure noise (timestep_spacing = "
            f"{config['timestep_spacing']!r}, rescale_betas_zero_snr = {settings.rescale_betas_zero_snr}), where the noise "
            "it predicts says nothing of the image; where the model predicts v, give the prediction type"
        )
    return settings, prediction_type
