"""AUTOMATIC1111's ``parameters`` text: how to make a picture again, written and read."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from converter import __version__
from converter.folder import Manifest
from server.pipeline.request import GenerationRequest, PictureSeeds
from server.pipeline.schedulers import SCHEDULERS

_NEGATIVE = "Negative prompt: "
#: Where prompts are written once more, whose own lines would be read otherwise.
_WHOLE = ("Whole prompt", "Whole negative prompt")
#: A1111's names of generators; it has none for NumPy's, which Apple's pipelines use.
_RNGS = {"torch": "CPU", "numpy": "NumPy", "cuda": "NV"}
_PAIR = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')


@dataclass(frozen=True)
class Parameters:
    """What a picture's text says: the prompts, and its other settings by A1111's names."""

    prompt: str
    negative_prompt: str
    settings: dict[str, str]


def _quoted(value: object) -> str:
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if re.search(r'[,:\n"]', text) else text


def write_infotext(request: GenerationRequest, manifest: Manifest, seeds: PictureSeeds) -> str:
    """The text of the picture made with ``seeds``. ``RNG`` says whose noise it is."""
    scheduler = SCHEDULERS[request.scheduler]
    settings: dict[str, object] = {
        "Steps": request.steps,
        "Sampler": scheduler.title,
        "Schedule type": scheduler.schedule_type,
        "CFG scale": f"{request.guidance_scale:g}",
        "Seed": seeds.seed,
        "Size": f"{request.width}x{request.height}",
        "Model hash": manifest.source.sha256[:10],
        "Model": manifest.name,
    }
    if seeds.variation is not None:
        settings |= {"Variation seed": seeds.variation, "Variation seed strength": f"{request.variation_strength:g}"}
    if request.strength is not None:
        settings["Denoising strength"] = f"{request.strength:g}"
    settings |= {"RNG": _RNGS[request.rng], "Version": f"Anemone {__version__}"}
    negative = f"\n{_NEGATIVE}{request.negative_prompt}" if request.negative_prompt else ""
    text = f"{request.prompt}{negative}\n" + ", ".join(f"{k}: {_quoted(v)}" for k, v in settings.items())
    found = read_infotext(text)
    if (found.prompt, found.negative_prompt) == (request.prompt, request.negative_prompt):
        return text
    prompts = (request.prompt, request.negative_prompt)
    return text + "".join(
        f", {key}: {json.dumps(value, ensure_ascii=False)}" for key, value in zip(_WHOLE, prompts, strict=True) if value
    )


def _unquoted(value: str) -> str:
    """As A1111 reads a value: what only looks quoted is taken as it stands (a Windows path, a quote that is not closed)."""
    try:
        found = json.loads(value) if value.startswith('"') else None
    except json.JSONDecodeError:
        found = None
    return found if isinstance(found, str) else value.strip()


def read_infotext(text: str) -> Parameters:
    """What ``text`` says; a last line without at least three settings is part of the prompt, as in A1111.

    A prompt with a line that begins as the negative prompt's does cannot be told from one in A1111's layout; we write such
    prompts a second time among the settings, and take them from there.
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
