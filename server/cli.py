"""The ``anemone`` command."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from converter import __version__
from converter.apple import ACCEPTED, AppleSettings, adopt, option
from converter.errors import AnemoneError
from converter.lint import CHIPS, DEFAULT_CHIP, lint
from converter.mil import TARGETS
from converter.networks.layers import ATTENTIONS
from converter.plan import ConvertOptions
from converter.single_file import PREDICTION_TYPES
from server.pipeline.schedulers import SCHEDULERS
from server.settings import BUNDLED_MODEL, Settings

_EXAMPLES = """examples:
  anemone serve
  anemone generate "a red circle on a blue background" -o out.png
  anemone convert ./my-checkpoint -o ./my-model --size 512x512 --size 512x768
"""


def _size(text: str) -> tuple[int, int]:
    width, cross, height = text.lower().partition("x")
    if not cross or not width.isdigit() or not height.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not a size; accepted: WIDTHxHEIGHT in pixels, such as 512x512")
    return int(width), int(height)


def _truth(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
    return text.lower() == "true"


#: How the settings of a folder made by Apple's converter are read.
_APPLE: dict[str, Callable[[str], Any]] = {
    "name": str,
    "prediction_type": str,
    "vae_scaling_factor": float,
    "scheduler_config": Path,
    "tokenizer": Path,
    "zeros_for_no_prompt": _truth,
    "steps": int,
    "guidance_scale": float,
}


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, about: str, epilog: str
) -> argparse.ArgumentParser:
    return commands.add_parser(
        name, help=about, description=about, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        "anemone",
        description="Pictures from words, on this machine.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"anemone {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    serve = _command(
        commands,
        "serve",
        "Serve pictures over HTTP",
        "examples:\n  anemone serve\n  anemone serve --port 8080 --model ./my-checkpoint\n"
        "Every flag is also a variable: ANEMONE_PORT=8080 anemone serve",
    )
    serve.add_argument("--host", help="address to listen on (127.0.0.1)")
    serve.add_argument("--port", type=int, help="port to listen on (7860)")
    _model_flags(serve)

    convert = _command(
        commands,
        "convert",
        "Convert a checkpoint to a folder of Core ML packages",
        "examples:\n  anemone convert ./stable-diffusion-v1-5 -o ./sd15 --size 512x512 --size 512x768\n"
        "  anemone convert stabilityai/sdxl-turbo -o ./turbo --batch 1\n"
        "  anemone convert ./dreamlike.safetensors -o ./dreamlike --attention original\n"
        "  anemone convert ./stable-diffusion-v1-5 -o ./sd15 --only vae_decoder",
    )
    convert.add_argument(
        "source",
        help="a diffusers checkpoint folder, a .safetensors file with a whole checkpoint, or owner/name on the Hugging "
        "Face hub (owner/name@revision, owner/name/file.safetensors)",
    )
    convert.add_argument(
        "-o", "--out", type=Path, required=True, help="the model folder to make; what is there is replaced"
    )
    convert.add_argument(
        "--size", type=_size, action="append", metavar="WxH", help="picture size; may be given several times"
    )
    convert.add_argument(
        "--attention",
        choices=ATTENTIONS,
        default="split_einsum",
        help="split_einsum for the Neural Engine (the default), split_einsum_v2 the same for large pictures, original "
        "for GPUs",
    )
    convert.add_argument(
        "--batch",
        type=int,
        choices=(1, 2),
        action="append",
        help="rows the UNet takes at once: 2 for guidance (the default), 1 for few-step models without; may be given "
        "twice",
    )
    convert.add_argument(
        "--tokens",
        type=int,
        action="append",
        metavar="N",
        help="prompt lengths the UNet takes: 77 (the default), 154 or 231; may be given several times",
    )
    _component_flags(convert)
    convert.add_argument(
        "--prompt-once",
        action="store_true",
        help="project the prompt once a picture, in a package of its own, and not at every step in the UNet, whose inputs "
        "are then not those of Apple's packages",
    )
    convert.add_argument(
        "--prediction-type", choices=PREDICTION_TYPES, help="what the UNet predicts, where the source says it wrong"
    )
    convert.add_argument(
        "--target", choices=TARGETS, default="macOS13", help="the oldest macOS the packages are for (macOS13)"
    )
    convert.add_argument(
        "--functions",
        action="store_true",
        help="sizes, batches and prompt lengths as functions of one package, not packages that share weights by links; "
        "needs --target macOS15",
    )
    convert.add_argument(
        "--only",
        action="append",
        metavar="NETWORK",
        help="make this network anew and keep the others, as converted before with the same options",
    )
    convert.add_argument(
        "--no-verify", action="store_true", help="install the networks without comparing them with their sources"
    )
    convert.add_argument("--name", help="what the model is called (the source folder's name)")

    taken = _command(
        commands,
        "adopt",
        "Use a folder made by Apple's converter as a model, as it is",
        "example:\n  anemone adopt ./coreml-stable-diffusion-2-1-base --prediction-type epsilon\n"
        "What Apple's packages do not say is asked for by name, once; it is kept in the folder's anemone.json.",
    )
    taken.add_argument("folder", type=Path, help="a folder of Apple's .mlpackages or its compiled Resources")
    for field in fields(AppleSettings):
        taken.add_argument(option(field.name), type=_APPLE[field.name], help=ACCEPTED[field.name])

    verify = _command(
        commands,
        "verify",
        "Compare a converted model with its source, network by network and as a whole picture, in fp32 and as a Mac's "
        "fp16 is expected to give it",
        "examples:\n  anemone verify ./sd15 --against ./stable-diffusion-v1-5\n"
        "  anemone verify ./sd15 --against ./stable-diffusion-v1-5 --precision ane --ranges\n"
        "The exit status is 1 where something is under 35 dB.",
    )
    verify.add_argument("folder", type=Path, help="a converted model folder")
    verify.add_argument("--against", required=True, metavar="SOURCE", help="what it was converted from")
    _component_flags(verify)
    verify.add_argument("--size", type=_size, metavar="WxH", help="the picture size to compare at (the default size)")
    verify.add_argument("--prompt", default="a photograph of an astronaut riding a horse")
    verify.add_argument("--steps", type=int, default=4, help="steps of the picture (4); 0 compares networks only")
    verify.add_argument(
        "--precision",
        choices=("fp16", "ane"),
        default="fp16",
        help="beside fp32: every result rounded to fp16 (the default), or ane: with the Neural Engine's limits, as "
        "others measured them",
    )
    verify.add_argument("--chip", choices=CHIPS, default=DEFAULT_CHIP, help=f"whose engine, for ane ({DEFAULT_CHIP})")
    verify.add_argument(
        "--ranges",
        type=int,
        nargs="?",
        const=10,
        default=0,
        metavar="N",
        help="also each network's N operations nearest to overflow (10)",
    )

    check = _command(
        commands,
        "lint",
        "Tell what in a model's packages would leave the Neural Engine, slow it, or lose precision",
        "examples:\n  anemone lint ./sd15\n  anemone lint Unet.mlpackage --chip M4 --notes\n"
        "The exit status is 1 where there is an error or a warning.",
    )
    check.add_argument("folder", type=Path, help="a model folder, a folder of .mlpackages, or one .mlpackage")
    check.add_argument("--chip", choices=CHIPS, default=DEFAULT_CHIP, help=f"the chip to judge for ({DEFAULT_CHIP})")
    check.add_argument("--notes", action="store_true", help="also what is worth knowing and nothing to act on")

    generate = _command(
        commands,
        "generate",
        "Make a picture without a server",
        'examples:\n  anemone generate "a red circle on a blue background" -o out.png\n'
        '  anemone generate "a green star" -o star.png --seed 7 --steps 30 -n 4\n'
        '  anemone generate "a yellow heart" -o heart.png --image circle.png --strength 0.8',
    )
    generate.add_argument("prompt")
    generate.add_argument(
        "-o", "--out", type=Path, default=Path("out.png"), help="the PNG to write (out.png); with -n 4: out-0.png …"
    )
    generate.add_argument("--negative-prompt")
    generate.add_argument("--size", type=_size, metavar="WxH", help="a size the model was converted for")
    generate.add_argument("--steps", type=int)
    generate.add_argument("--guidance-scale", type=float)
    generate.add_argument("--seed", type=int)
    generate.add_argument("--scheduler", help=", ".join(SCHEDULERS))
    generate.add_argument("-n", type=int, help="how many pictures")
    generate.add_argument("--image", type=Path, help="a picture to start from")
    generate.add_argument("--strength", type=float, help="how much of it to change, up to 1 (0.75)")
    _model_flags(generate)
    return top


def _component_flags(command: argparse.ArgumentParser) -> None:
    """Networks beside the checkpoint's own, each a folder or an address on the hub."""
    command.add_argument("--vae", metavar="SOURCE", help="an autoencoder in place of the checkpoint's")
    command.add_argument("--preview", metavar="SOURCE", help="a tiny autoencoder (TAESD) for previews")
    command.add_argument("--safety-checker", metavar="SOURCE", help="a safety checker, or a checkpoint with one")
    command.add_argument(
        "--controlnet", action="append", metavar="SOURCE", help="a ControlNet; may be given several times"
    )


def _model_flags(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--model",
        type=Path,
        help=f"a checkpoint or converted model folder ({BUNDLED_MODEL.parent.name}/model, the bundled one)",
    )
    command.add_argument(
        "--data-dir", type=Path, help="where models, jobs and pictures are kept (the user's data folder)"
    )


def _settings(arguments: argparse.Namespace) -> Settings:
    given = {name: getattr(arguments, name, None) for name in ("host", "port", "model", "data_dir")}
    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(p) for p in first["loc"])
        raise AnemoneError(
            f"{field}: {first['msg'].removeprefix('Value error, ')} (given: {first['input']!r})"
        ) from error


def _components(given: argparse.Namespace) -> dict[str, Any]:
    from server.offline import open_component

    return {
        "vae": open_component(given.vae, "vae"),
        "preview": open_component(given.preview),
        "safety_checker": open_component(given.safety_checker, "safety_checker"),
        "controlnets": tuple(net for source in given.controlnet or () if (net := open_component(source))),
    }


def _options(given: argparse.Namespace) -> ConvertOptions:
    return ConvertOptions(
        name=given.name,
        sizes=tuple(given.size) if given.size else None,
        attention=given.attention,
        batches=tuple(given.batch) if given.batch else None,
        tokens=tuple(given.tokens) if given.tokens else None,
        prompt_once=given.prompt_once,
        target=given.target,
        functions=given.functions,
        verify=not given.no_verify,
        **_components(given),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status: 0 done, 1 failed with a message, 2 misused, 130 interrupted."""
    given = parser().parse_args(arguments)
    try:
        if given.command == "serve":
            from server.serve import serve

            return serve(_settings(given))
        if given.command == "convert":
            from server.offline import convert_checkpoint

            return convert_checkpoint(given.source, given.prediction_type, given.out, _options(given), given.only or [])
        if given.command == "adopt":
            settings = AppleSettings(**{field.name: getattr(given, field.name) for field in fields(AppleSettings)})
            made = adopt(given.folder, settings)
            print(f"{made.path}: {made.manifest.name} ({made.manifest.family})")
            return 0
        if given.command == "lint":
            text, status = lint(given.folder, given.chip, notes=given.notes)
            print(text)
            return status
        if given.command == "verify":
            from server.verifying import Trial, verify_model

            options = ConvertOptions(**_components(given))
            trial = Trial(given.size, given.prompt, given.steps, given.precision, given.chip, given.ranges)
            return verify_model(given.folder, given.against, options, trial)
        from server.offline import generate

        return generate(_settings(given), given)
    except AnemoneError as error:
        print(f"anemone: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nanemone: interrupted", file=sys.stderr)
        return 130
