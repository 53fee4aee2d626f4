"""The checkpoints for comparing runtimes: random weights, always the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.checkpoints import SIZES, Size, write_checkpoint
from benchmarks.workload import Workload

_TOKENIZER = Path(__file__).resolve().parent.parent / "demo" / "model" / "tokenizer"
_TINY_TEXT = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 2, "num_hidden_layers": 1}
_TINY_UNET: dict[str, Any] = {
    "sample_size": 16,
    "block_out_channels": (32, 64, 64, 64),
    "cross_attention_dim": 64,
    "attention_head_dim": 4,
}
_SD15 = SIZES["sd15"]
_TEXT_NAME, _TEXT_KIND, _ = _SD15.texts[0]
#: Checkpoints whose UNet has no other inputs than latents, a timestep and a prompt; tiny is for trying the benchmark.
CHECKPOINTS: dict[str, Size] = {
    "tiny": replace(_SD15, unet=_TINY_UNET, texts=((_TEXT_NAME, _TEXT_KIND, _TINY_TEXT),)),
    "sd15": _SD15,
    "sd21": SIZES["sd21"],
}


def workload(size: str, folder: Path) -> Workload:
    """Return the workload of a checkpoint's UNet at its default size, with both prompts; a missing checkpoint is written."""
    unet = CHECKPOINTS[size].unet
    side = unet["sample_size"] * 8
    of_unet = Workload("unet", size, unet["cross_attention_dim"], str(folder.resolve()), side, side)
    if not (of_unet.checkpoint / "model_index.json").is_file():
        write_checkpoint(of_unet.checkpoint, CHECKPOINTS[size], _TOKENIZER)
    return of_unet
