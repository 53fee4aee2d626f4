"""Measures the time and memory of conversion, of ``ct.convert`` and, with a checkout of it, of Apple's converter.

    python -m benchmarks.conversion --size sd15 --peers

Checkpoints have random weights in the real configurations; every converter runs in its own process. Only the UNet is
compared: it is nine tenths of the work, and all converters read the same file.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from benchmarks.checkpoints import SIZES, write_checkpoint, write_extras
from benchmarks.measure import Cost, cost

_ROOT = Path(__file__).resolve().parent.parent
_UNET = """
import sys
from pathlib import Path
from converter.conversion.planning import make_plan
from converter.options import ConvertOptions
from converter.conversion.programs import write_network
from converter.sources.source import open_source
out = Path(sys.argv[2])
out.mkdir()
plan = make_plan(open_source(sys.argv[1]), ConvertOptions(verify=False))
write_network("unet", plan, out)
"""
_CT = """
import sys, torch, numpy as np, coremltools as ct
from diffusers import UNet2DConditionModel
unet = UNet2DConditionModel.from_pretrained(sys.argv[1] + "/unet", dtype=torch.float32).eval()
side, width = unet.config.sample_size, unet.config.cross_attention_dim
sample, states = torch.zeros(2, 4, side, side), torch.zeros(2, 77, width)
with torch.no_grad():
    program = torch.export.export(unet, (sample, torch.tensor([1.0, 1.0]), states)).run_decompositions({})
ct.convert(program, minimum_deployment_target=ct.target.macOS13, skip_model_load=True).save(sys.argv[2])
"""


def _report(name: str, measured: Cost, ours: Cost | None = None) -> None:
    ratio = "" if ours is None else f"  {measured.seconds / ours.seconds:6.1f} x the time"
    ratio += "" if ours is None else f"  {measured.own_bytes / ours.own_bytes:6.1f} x the memory"
    memory = f"{measured.own_bytes / 1e9:6.2f} GB own, {measured.resident_bytes / 1e9:6.2f} GB with mapped files"
    print(f"{name:32} {measured.seconds:7.1f} s  {memory}{ratio}", flush=True)


def _report_agreement(name: str, measured: Cost) -> None:
    _report(name, measured)
    for line in measured.printed.splitlines():
        if "dB of the source's" in line:
            print(f"    {line}", flush=True)


def _bytes(folder: Path) -> int:
    files = {path.stat().st_ino: path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    return sum(files.values())


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="sd15")
    parser.add_argument("--peers", action="store_true", help="also torch.export with ct.convert (minutes, 10 GB)")
    parser.add_argument("--apple", type=Path, help="also Apple's converter, from this checkout of ml-stable-diffusion")
    parser.add_argument("--extras", action="store_true", help="also a ControlNet, TAESD and the safety checker")
    parser.add_argument("--folder", type=Path, help="the folder for the checkpoint (a temporary folder)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as scratch:
        folder = Path(scratch)
        source, out = folder / args.size, folder / "out"
        write_checkpoint(source, SIZES[args.size], _ROOT / "demo" / "model" / "tokenizer")
        ours = cost([sys.executable, "-c", _UNET, str(source), str(out)])
        _report(f"anemone {args.size} UNet", ours)
        shutil.rmtree(out)
        verified = [sys.executable, "-m", "server", "convert", str(source), "-o", str(out)]
        convert = [*verified, "--no-verify"]
        _report(f"anemone {args.size} all networks", cost(convert))
        before = _bytes(out)
        shutil.rmtree(out)
        _report_agreement("the same, verified", cost(verified))
        shutil.rmtree(out)
        if args.extras:
            options = [str(part) for pair in write_extras(folder, SIZES[args.size]).items() for part in pair]
            _report_agreement("with ControlNet, TAESD, checker", cost([*verified, *options]))
            shutil.rmtree(out)
        side = SIZES[args.size].unet["sample_size"] * 8
        two = cost([*convert, "--size", f"{side}x{side}", "--size", f"{side}x{side + 256}"])
        _report(f"anemone {args.size} all, two sizes", two)
        print(f"a second size adds {(_bytes(out) - before) / 1e6:.1f} MB")
        shutil.rmtree(out)
        if args.peers:
            command = [sys.executable, "-c", _CT, str(source), str(folder / "peer.mlpackage")]
            _report("torch.export and ct.convert", cost(command), ours)
        if args.apple:
            apple = [sys.executable, "-m", "python_coreml_stable_diffusion.torch2coreml", "--convert-unet"]
            apple += ["--model-version", str(source), "-o", str(folder / "apple")]
            _report("Apple's converter", cost(["env", f"PYTHONPATH={args.apple}", *apple]), ours)


if __name__ == "__main__":
    main()
