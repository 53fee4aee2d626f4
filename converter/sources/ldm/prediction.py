"""Find the prediction type of a single file, which its tensors' shapes do not show, and make its scheduler_config.json.

Programs write it to three places: tensors named v_pred and ztsnr (ComfyUI, comfy/supported_models.py), the metadata of
Stability's ModelSpec (https://github.com/Stability-AI/ModelSpec), and that of kohya's trainer (ss_...).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from converter.errors import CheckpointError, quoted
from converter.sources.tensors import Tensors

#: Empty tensors that mark v-prediction and training from pure noise (ComfyUI's convention).
_V_MARK, _ZERO_MARK = MARKS = ("v_pred", "ztsnr")
_WORDS = {
    "epsilon": "epsilon",
    "eps": "epsilon",
    "v": "v_prediction",
    "v_prediction": "v_prediction",
    "v-prediction": "v_prediction",
    "sample": "sample",
    "x0": "sample",
    "x0_prediction": "sample",
}
#: ModelSpec's key, and the one ComfyUI writes in its place.
_KEYS = ("modelspec.prediction_type", "modelspec.predict_key")
#: ModelSpec's architectures and kohya's base model versions that imply a prediction type.
_IMPLIED = {
    "stable-diffusion-v2-512": "epsilon",
    "stable-diffusion-v2-768-v": "v_prediction",
    "sd_v1_v": "v_prediction",
    "sd_v2": "epsilon",
    "sd_v2_v": "v_prediction",
}
#: ComfyUI recognizes Stable Diffusion 2's v-prediction models by the standard deviation of this tensor.
_TELLTALE = "model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias"
_TELLTALE_SPREAD = 0.09
#: Latents a side at which a family was trained, and pixels in a latent.
_SAMPLE_SIZES = {"sd1": 64, "sd2": 64, "sdxl": 128, "sdxl_refiner": 128}
_SD2_768 = 96
#: Digits of a side in pixels; sizes that are too large are refused later.
_MOST_DIGITS = 9
_FACTOR = 8


@dataclass(frozen=True)
class Prediction:
    """A UNet's prediction type (diffusers' prediction_type).

    guessed: whether the file does not state it although models of its family differ (Stable Diffusion 2 base and 768-v).
    zero_terminal_snr: whether it was trained to begin at pure noise (Lin et al. 2023).
    """

    type: str
    guessed: bool
    zero_terminal_snr: bool


def _side(metadata: Mapping[str, str]) -> int | None:
    """Return the side of a model's square images by its metadata (512x512, or kohya's (512, 512)); None if they lack it."""
    stated = metadata.get("modelspec.resolution") or metadata.get("ss_resolution") or ""
    sides = [side.strip() for side in stated.strip("()").replace("x", ",").split(",")]
    if len(sides) != 2 or sides[0] != sides[1] or not sides[0].isdecimal() or len(sides[0]) > _MOST_DIGITS:
        return None
    return int(sides[0])


def _stated(metadata: Mapping[str, str]) -> str | None:
    for key in _KEYS:
        word = metadata.get(key, "").strip().lower()
        if word in _WORDS:
            return _WORDS[word]
        if word:
            raise CheckpointError(
                f"its metadata have {key} = {quoted(metadata[key])}; accepted: {', '.join(_WORDS)}. If the "
                "metadata are wrong, give the prediction type"
            )
    architecture = metadata.get("modelspec.architecture", "").partition("/")[0].lower()
    return _IMPLIED.get(architecture) or _IMPLIED.get(metadata.get("ss_base_model_version", ""))


def _looks_like_v(tensors: Tensors) -> bool:
    if _side(tensors.metadata) == _SD2_768 * _FACTOR:
        return True
    return _TELLTALE in tensors and float(np.std(tensors.array(_TELLTALE).astype(np.float64))) > _TELLTALE_SPREAD


def prediction(tensors: Tensors, family: str, *, inpainting: bool, requested: str | None) -> Prediction:
    """Return the UNet's prediction type: ``requested``, else the file's, else a guess for Stable Diffusion 2.

    The other families' models, and Stable Diffusion 2's inpainting, predict epsilon unless the file says otherwise.
    """
    zero = _ZERO_MARK in tensors or tensors.metadata.get("ss_zero_terminal_snr") == "True"
    prediction_type = requested or ("v_prediction" if _V_MARK in tensors else _stated(tensors.metadata))
    if prediction_type is not None:
        return Prediction(prediction_type, guessed=False, zero_terminal_snr=zero)
    if family != "sd2" or inpainting:
        return Prediction("epsilon", guessed=False, zero_terminal_snr=zero)
    kind = "v_prediction" if _looks_like_v(tensors) else "epsilon"
    return Prediction(kind, guessed=True, zero_terminal_snr=zero)


def sample_size(metadata: Mapping[str, str], family: str, prediction_type: str) -> int:
    """Return the side, in latents, of the images that the model was made for: its metadata's, else its family's."""
    side = _side(metadata)
    if side is not None and side > 0 and side % _FACTOR == 0:
        return side // _FACTOR
    return _SD2_768 if (family, prediction_type) == ("sd2", "v_prediction") else _SAMPLE_SIZES[family]


def scheduler_config(family: str, prediction: Prediction) -> dict[str, Any]:
    """Return the scheduler_config.json of the family's published checkpoints, with this model's prediction type."""
    config: dict[str, Any] = {
        "_class_name": "PNDMScheduler",
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "clip_sample": False,
        "num_train_timesteps": 1000,
        "prediction_type": prediction.type,
        "set_alpha_to_one": False,
        "skip_prk_steps": True,
        "steps_offset": 1,
        "trained_betas": None,
    }
    if family == "sd2" and prediction.type == "v_prediction":
        config["_class_name"] = "DDIMScheduler"
    if family.startswith("sdxl"):
        config |= {
            "_class_name": "EulerDiscreteScheduler",
            "interpolation_type": "linear",
            "sample_max_value": 1.0,
            "timestep_spacing": "leading",
            "use_karras_sigmas": False,
        }
    if prediction.zero_terminal_snr:
        # Images begin at pure noise only if sampling begins at the last timestep.
        config |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    return config
