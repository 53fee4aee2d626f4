"""Writes and reads AUTOMATIC1111's ``parameters`` text, which says how to make an image again."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from converter import __version__
from converter.folder import Manifest
from server.pipeline.fields import Infotext
from server.pipeline.preprocessors.registry import PREPROCESSORS
from server.pipeline.request import FIELDS, GenerationRequest, ImageSeeds, UpscaleRequest
from server.pipeline.request.controls import Control
from server.pipeline.schedulers import SCHEDULERS, SIGMA_SCHEDULES

_NEGATIVE = "Negative prompt: "
#: Keys under which prompts are written a second time if their own lines would be misread.
_WHOLE = ("Whole prompt", "Whole negative prompt")
#: The order of A1111's settings; our own settings go before the last two.
_ORDER = (
    "Steps", "Sampler", "Schedule type", "CFG scale", "Seed", "Size", "Model hash", "Model", "Variation seed",
    "Variation seed strength", "Denoising strength", "RNG", "Version",
)  # fmt: skip
_RANKS = {key: float(rank) for rank, key in enumerate(_ORDER)}
_PAIR = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')


@dataclass(frozen=True)
class Parameters:
    """The content of the text: the prompts, and the other settings by A1111's names."""

    prompt: str
    negative_prompt: str
    settings: dict[str, str]


def _quoted(value: object) -> str:
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if re.search(r'[,:\n"]', text) else text


def _control(control: Control, manifest: Manifest) -> str:
    """Return a control as A1111's ControlNet extension writes a unit (scripts/infotext.py)."""
    settings = {
        "Module": PREPROCESSORS[control.preprocessor].title,
        "Model": control.network(manifest).rpartition("/")[2],
        "Weight": f"{control.weight:g}",
        "Resize Mode": "Crop and Resize",
        **dict(zip(("Threshold A", "Threshold B"), control.thresholds, strict=False)),
        "Guidance Start": f"{control.start:g}",
        "Guidance End": f"{control.end:g}",
        "Control Mode": "Balanced",
    }
    return ", ".join(f"{key}: {value}" for key, value in settings.items())


def _settings(request: GenerationRequest, manifest: Manifest, seeds: ImageSeeds) -> dict[str, object]:
    """Return the settings of the image made with ``seeds``, in A1111's order."""
    settings: dict[str, object] = {
        "Sampler": SCHEDULERS[request.sampling.scheduler].title,
        "Schedule type": SIGMA_SCHEDULES[request.sampling.sigmas].title,
        "Seed": seeds.seed,
        "Size": request.size,
        "Model hash": manifest.source.sha256[:10],
        "Model": manifest.name,
    }
    if seeds.variation is not None:
        settings |= {
            "Variation seed": seeds.variation,
            "Variation seed strength": f"{request.seeds.variation_strength:g}",
        }
    values = request.values()
    for field in FIELDS:
        infotext = field.find(Infotext)
        if infotext is not None and field.name in values:
            settings[infotext.key] = infotext.write(values[field.name])
    settings |= {f"ControlNet {i}": _control(each, manifest) for i, each in enumerate(request.controls)}
    settings = {key: value for key, value in settings.items() if value is not None}
    settings["Version"] = f"Anemone {__version__}"
    return dict(sorted(settings.items(), key=lambda setting: _RANKS.get(setting[0], _RANKS["RNG"] - 0.5)))


def write_infotext(request: GenerationRequest, manifest: Manifest, seeds: ImageSeeds) -> str:
    """Return the text of the image made with ``seeds``. Its ``RNG`` names the random number generator."""
    prompts = request.prompts
    settings = _settings(request, manifest, seeds)
    negative = f"\n{_NEGATIVE}{prompts.negative_prompt}" if prompts.negative_prompt else ""
    text = f"{prompts.prompt}{negative}\n" + ", ".join(f"{k}: {_quoted(v)}" for k, v in settings.items())
    parameters, both = read_infotext(text), (prompts.prompt, prompts.negative_prompt)
    if (parameters.prompt, parameters.negative_prompt) == both:
        return text
    return text + "".join(
        f", {key}: {json.dumps(value, ensure_ascii=False)}" for key, value in zip(_WHOLE, both, strict=True) if value
    )


def write_upscale_infotext(request: UpscaleRequest) -> str:
    """Return the text of an enlarged image, with the keys of A1111's extras (postprocessing_upscale.py)."""
    factor = max(request.size.width / request.source.width, request.size.height / request.source.height)
    settings = {"Postprocess upscale by": f"{factor:g}", "Postprocess upscaler": request.upscaler}
    settings |= {"Size": str(request.size), "Version": f"Anemone {__version__}"}
    return ", ".join(f"{key}: {_quoted(value)}" for key, value in settings.items())


def _unquoted(value: str) -> str:
    """Read a value as A1111 does: a value that is not valid JSON stays as it is (a Windows path, an unclosed quote)."""
    try:
        unquoted = json.loads(value) if value.startswith('"') else None
    except json.JSONDecodeError:
        unquoted = None
    return unquoted if isinstance(unquoted, str) else value.strip()


def read_infotext(text: str) -> Parameters:
    """Parse the text; a last line with fewer than three settings is part of the prompt, as in A1111.

    In A1111's layout, a prompt's line that begins like the negative prompt's is ambiguous. `write_infotext` writes such
    prompts a second time among the settings, and this function reads them from there.
    """
    *lines, last = text.rstrip().replace("\r\n", "\n").split("\n")
    pairs = _PAIR.findall(last)
    if len(pairs) < 3:
        lines, pairs = text.split("\n"), []
    prompt: list[str] = []
    negative: list[str] | None = None
    for line in lines:
        if negative is None and line.startswith(_NEGATIVE.rstrip()):
            negative = [line[len(_NEGATIVE) :]]
        elif negative is None:
            prompt.append(line)
        else:
            negative.append(line)
    settings = {key: _unquoted(value) for key, value in pairs}
    whole = [settings.pop(key, None) for key in _WHOLE]
    if any(value is not None for value in whole):
        return Parameters(whole[0] or "", whole[1] or "", settings)
    return Parameters("\n".join(prompt), "\n".join(negative or []), settings)
