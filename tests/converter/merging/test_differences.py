"""A file that changes every weight and bias: norms, tables and positions too, in whatever shape packages have them."""

from __future__ import annotations

import numpy as np
import torch

from converter.loras import LoraFile
from converter.merging import merge
from tests.support.checkpoints import diffusers_pipeline
from tests.support.lora_files import write
from tests.support.mil_packages import as_written, psnr

_ENDS = {"weight": "diff", "bias": "diff_b"}
_NORM_ENDS = {"weight": "w_norm", "bias": "b_norm"}


def _key(network: str, parameter: str) -> str:
    """Return LyCORIS' name for the difference of a parameter."""
    path, _, kind = parameter.rpartition(".")
    ends = _NORM_ENDS if "norm" in path.rpartition(".")[2] else _ENDS
    if network == "text_encoder" and not path.startswith("text_model"):
        path = f"text_model.{path}"
    prefix = "lora_unet_" if network == "unet" else "lora_te_"
    return f"{prefix}{path.replace('.', '_')}.{ends[kind]}"


def test_every_parameter_can_be_changed(model_folder, checkpoint, tmp_path):
    pipeline = diffusers_pipeline(checkpoint)
    generator = torch.Generator().manual_seed(5)
    changes = {}
    for network in ("unet", "text_encoder"):
        for name, parameter in getattr(pipeline, network).named_parameters():
            change = changes[_key(network, name)] = torch.randn(parameter.shape, generator=generator) * 0.03
            parameter.data.add_(0.5 * change)
    file = LoraFile.open(write(tmp_path / "all.safetensors", changes))
    made = merge(model_folder, [(file, 0.5)], [], tmp_path / "made")

    rng = np.random.default_rng(0)
    unet = as_written(made.package("unet", 64, 64))
    inputs = {name: rng.standard_normal(f.shape).astype(f.dtype) for name, f in unet.inputs.items()}
    inputs["timestep"][:] = 500
    ids = rng.permutation(250)[None, :77]
    with torch.no_grad():
        sample, states, timestep = (
            torch.from_numpy(inputs[name].astype(np.float32))
            for name in ("sample", "encoder_hidden_states", "timestep")
        )
        noise = pipeline.unet(sample, timestep, states.squeeze(2).transpose(1, 2)).sample.numpy()
        hidden = pipeline.text_encoder(torch.from_numpy(ids)).last_hidden_state.numpy()
    # The base's noise is 13 dB away.
    assert psnr(unet.predict(inputs)["noise_pred"], noise) > 60
    text = as_written(made.package("text_encoder")).predict({"input_ids": ids.astype(np.float32)})
    assert psnr(text["last_hidden_state"], hidden) > 60
