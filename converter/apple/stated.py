"""What packages say of their model in their metadata: those of Anemone, and those of Guernika's converter.

Apple's own say nothing of the sort. Guernika's keys are those that its app reads (github.com/GuernikaCore/GuernikaKit,
Unet.swift and Decoder.swift), which also reads a file guernika.json beside the models or in the UNet's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from converter.sources.configs import read_json

_FILE = "guernika.json"
_OURS = "app.anemone."


@dataclass(frozen=True)
class Stated:
    """Settings by the model's own packages, as their texts; None where they say nothing.

    noise_schedule, defaults: `SchedulerSettings` and `Defaults` as JSON, in our packages; timestep_spacing and what follows are
        Guernika's.
    """

    name: str | None = None
    prediction_type: str | None = None
    vae_scaling_factor: str | None = None
    noise_schedule: str | None = None
    defaults: str | None = None
    zeros_for_no_prompt: str | None = None
    timestep_spacing: str | None = None
    steps_offset: str | None = None
    set_alpha_to_one: str | None = None


def _guernika(unet: Path) -> Mapping[str, object]:
    file = next((file for file in (unet / _FILE, unet.parent / _FILE) if file.is_file()), None)
    return {} if file is None else read_json(file)


def stated_by(path: Path, unet: Mapping[str, str], decoder: Mapping[str, str]) -> Stated:
    """Return what is said in the metadata of the UNet, which is at ``path``, and of the decoder.

    Raises CheckpointError if guernika.json is damaged.
    """
    prediction = _guernika(path).get("prediction_type") or unet.get("prediction_type")
    return Stated(
        unet.get(f"{_OURS}model"),
        unet.get(f"{_OURS}prediction_type") or (None if prediction is None else str(prediction)),
        decoder.get(f"{_OURS}vae_scaling_factor") or decoder.get("scaling_factor"),
        unet.get(f"{_OURS}noise_schedule"),
        unet.get(f"{_OURS}defaults"),
        unet.get(f"{_OURS}zeros_for_no_prompt"),
        unet.get("timestep_spacing"),
        unet.get("steps_offset"),
        unet.get("set_alpha_to_one"),
    )
