"""How fast and light conversion is, beside ``ct.convert`` and, where its checkout is given, Apple's converter.

    python -m benchmarks.conversion --size sd15 --peers

Checkpoints are of random weights in the real configurations; every converter runs in a process of its own. Only the
UNet is compared: it is nine tenths of the work, and each converter takes the same file.
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
from converter.conversion.plan import make_plan
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


def _report(name: str, found: Cost, ours: Cost | None = None) -> None:
    ratio = "" if ours is None else f"  {found.seconds / ours.seconds:6.1f} x the time"
    ratio += "" if ours is None else f"  {found.own_bytes / ours.own_bytes:6.1f} x the memory"
    memory = f"{found.own_bytes / 1e9:6.2f} GB own, {found.resident_bytes / 1e9:6.2f} GB with mapped files"
    print(f"{name:32} {found.seconds:7.1f} s  {memory}{ratio}", flush=True)


def _report_agreement(name: str, found: Cost) -> None:
    _report(name, found)
    for line in found.printed.splitlines():
        if line.endswith("dB of the source's"):
            print(f"    {line}", flush=True)


def _bytes(folder: Path) -> int:
    files = {path.stat().st_ino: path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    return sum(files.values())


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="sd15")
    parser.add_argument("--peers", action="store_true", help="also torch.export with ct.convert (minutes, 10 GB)")
    parser.add_argument("--apple", type=Path, help="a checkout of ml-stable-diffusion, to compare with it too")
    parser.add_argument("--extras", action="store_true", help="also a ControlNet, TAESD and the safety checker")
    parser.add_argument("--folder", type=Path, help="where to keep the checkpoint (a temporary folder)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as scratch:
        folder = Path(scratch)
        source, out = folder / given.size, folder / "out"
        write_checkpoint(source, SIZES[given.size], _ROOT / "demo" / "model" / "tokenizer")
        ours = cost([sys.executable, "-c", _UNET, str(source), str(out)])
        _report(f"anemone {given.size} UNet", ours)
        shutil.rmtree(out)
        verified = [sys.executable, "-m", "server", "convert", str(source), "-o", str(out)]
        convert = [*verified, "--no-verify"]
        _report(f"anemone {given.size} all networks", cost(convert))
        before = _bytes(out)
        shutil.rmtree(out)
        _report_agreement("the same, verified", cost(verified))
        shutil.rmtree(out)
        if given.extras:
            options = [str(part) for pair in write_extras(folder, SIZES[given.size]).items() for part in pair]
            _report_agreement("with ControlNet, TAESD, checker", cost([*verified, *options]))
            shutil.rmtree(out)
        side = SIZES[given.size].unet["sample_size"] * 8
        two = cost([*convert, "--size", f"{side}x{side}", "--size", f"{side}x{side + 256}"])
        _report(f"anemone {given.size} all, two sizes", two)
        print(f"a second size adds {(_bytes(out) - before) / 1e6:.1f} MB")
        shutil.rmtree(out)
        if given.peers:
            command = [sys.executable, "-c", _CT, str(source), str(folder / "peer.mlpackage")]
            _report("torch.export and ct.convert", cost(command), ours)
        if given.apple:
            apple = [sys.executable, "-m", "python_coreml_stable_diffusion.torch2coreml", "--convert-unet"]
            apple += ["--model-version", str(source), "-o", str(folder / "apple")]
            _report("Apple's converter", cost(["env", f"PYTHONPATH={given.apple}", *apple]), ours)


if __name__ == "__main__":
    main()
