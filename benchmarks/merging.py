"""Measures the time and memory of merging a LoRA into a converted model, and of diffusers' ``fuse_lora`` on the checkpoint.

    python -m benchmarks.merging --size sd15 --peers

Checkpoints and LoRAs have random weights in the real configurations, and every process is measured from outside. The LoRA
has rank 32 on what kohya's trainer takes: all linear layers of the UNet's transformers and of the text encoders; with
``--conv`` also the convolutions (LoCon).
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.checkpoints import SIZES, Size, modules, write_checkpoint
from benchmarks.measure import Cost, cost

_ROOT = Path(__file__).resolve().parent.parent
_RANK = 32
#: diffusers from the checkpoint to its weights with the LoRA in them, which would have to be converted next.
_FUSE = """
import sys, time, torch
from pathlib import Path
from diffusers import EulerDiscreteScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer
source = Path(sys.argv[1])
def part(kind, name, **more):
    return kind.from_pretrained(source / name, **more) if (source / name).is_dir() else None
half = {"dtype": torch.float16}
parts = {"vae": None, "scheduler": EulerDiscreteScheduler(), "unet": part(UNet2DConditionModel, "unet", **half)}
parts |= {"text_encoder": part(CLIPTextModel, "text_encoder", **half), "tokenizer": part(CLIPTokenizer, "tokenizer")}
if (source / "text_encoder_2").is_dir():
    second = part(CLIPTextModelWithProjection, "text_encoder_2", **half)
    parts |= {"text_encoder_2": second, "tokenizer_2": part(CLIPTokenizer, "tokenizer_2")}
    pipeline = StableDiffusionXLPipeline(**parts, add_watermarker=False)
else:
    parts |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    pipeline = StableDiffusionPipeline(**parts)
pipeline.load_lora_weights(sys.argv[2])
began = time.perf_counter()
pipeline.fuse_lora(lora_scale=0.8)
print(f"fuse_lora alone: {time.perf_counter() - began:.1f} s")
pipeline.unload_lora_weights()
for name in ("unet", "text_encoder", "text_encoder_2"):
    if getattr(pipeline, name, None) is not None:
        getattr(pipeline, name).save_pretrained(f"{sys.argv[3]}/{name}")
"""


def _layers(size: Size, *, conv: bool) -> dict[str, tuple[int, ...]]:
    """Return the weights that kohya's trainer takes, by its names."""
    unet, _, texts = modules(size)
    found = {}
    for prefix, module in (("lora_unet", unet), *((_TEXTS[len(texts), name], text) for name, text in texts.items())):
        for path, each in module.named_modules():
            is_linear = isinstance(each, torch.nn.Linear) and (prefix != "lora_unet" or "attentions" in path)
            is_projection = isinstance(each, torch.nn.Conv2d) and path.endswith(("proj_in", "proj_out"))
            if is_linear or is_projection or (conv and isinstance(each, torch.nn.Conv2d)):
                published = f"text_model.{path}" if path.startswith("encoder.layers") else path
                found[f"{prefix}_{published.replace('.', '_')}"] = tuple(each.weight.shape)
    return found


_TEXTS = {
    (1, "text_encoder"): "lora_te",
    (2, "text_encoder"): "lora_te1",
    (2, "text_encoder_2"): "lora_te2",
    (1, "text_encoder_2"): "lora_te2",
}


def _write_lora(path: Path, layers: dict[str, tuple[int, ...]]) -> None:
    from safetensors.numpy import save_file

    rng = np.random.default_rng(0)

    def random(*shape: int) -> Any:
        return (0.02 * rng.standard_normal(shape, np.float32)).astype(np.float16)

    tensors: dict[str, Any] = {}
    for name, (out, *rest) in layers.items():
        ones = [1] * (len(rest) - 1)
        tensors[f"{name}.lora_down.weight"] = random(_RANK, *rest)
        tensors[f"{name}.lora_up.weight"] = random(out, _RANK, *ones)
        tensors[f"{name}.alpha"] = np.array(_RANK, np.float16)
    save_file(tensors, path)


def _report(name: str, measured: Cost) -> None:
    memory = f"{measured.own_bytes / 1e9:6.2f} GB own, {measured.resident_bytes / 1e9:6.2f} GB with mapped files"
    print(f"{name:34} {measured.seconds:7.1f} s  {memory}", flush=True)


def _own_bytes(folder: Path) -> int:
    """Return the bytes of the files that no other folder links to; files of several names count once."""
    inside: dict[int, list[int]] = {}
    for file in folder.rglob("*"):
        if file.is_file():
            stat = file.stat()
            inside.setdefault(stat.st_ino, [stat.st_nlink, stat.st_size]).append(1)
    return sum(size for links, size, *names in inside.values() if len(names) == links)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="sd15")
    parser.add_argument("--conv", action="store_true", help="a LoRA on the convolutions as well")
    parser.add_argument("--peers", action="store_true", help="also diffusers (SDXL: 10 GB of memory)")
    parser.add_argument("--folder", type=Path, help="the folder for the checkpoint (a temporary folder)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as scratch:
        folder, size = Path(scratch), SIZES[args.size]
        source, base, lora = folder / args.size, folder / "base", folder / "lora.safetensors"
        write_checkpoint(source, size, _ROOT / "demo" / "model" / "tokenizer")
        layers = _layers(size, conv=args.conv)
        _write_lora(lora, layers)
        cost([sys.executable, "-m", "server", "convert", str(source), "-o", str(base), "--no-verify"])
        elements = sum(math.prod(shape) for shape in layers.values())
        print(
            f"{args.size}: a LoRA of {lora.stat().st_size / 1e6:.0f} MB on {len(layers)} layers of {elements / 1e6:.0f} M weights"
        )
        merge = [sys.executable, "-m", "server", "merge", str(base), "-o"]
        for name, out in (("first merge into a model", "first"), ("merge into a model used before", "second")):
            _report(name, cost([*merge, str(folder / out), "--lora", f"{lora}:0.8"]))
        print(f"its own files: {_own_bytes(folder / 'second') / 1e6:.0f} MB")
        _report("the same merge again", cost([*merge, str(folder / "second"), "--lora", f"{lora}:0.8"]))
        if args.peers:
            fused = cost([sys.executable, "-c", _FUSE, str(source), str(lora), str(folder / "fused")])
            _report("diffusers: load, fuse_lora, save", fused)
            print(f"    {fused.printed.strip()}")


if __name__ == "__main__":
    main()
