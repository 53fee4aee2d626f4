"""Writes the infotext of an image that was made."""

from __future__ import annotations

from collections.abc import Iterable

from converter import __version__
from converter.manifest import Manifest
from server.pipeline.fields import Infotext, plain
from server.pipeline.infotext.controls import UNIT, write_unit
from server.pipeline.infotext.parameters import lay_out, lay_out_settings
from server.pipeline.request import FIELDS, GenerationRequest, ImageSeeds, UpscaleRequest
from server.pipeline.schedulers import SCHEDULERS, SIGMA_SCHEDULES

#: Digits of a checkpoint's SHA-256 that stand for it, as in A1111.
SHORT_HASH = 10
#: Keys of the hashes by which A1111 finds LoRAs and embeddings under other names, and their digits. A LoRA's is that of its
#: tensors alone, an embedding's that of its file.
LORA_HASHES, EMBEDDING_HASHES, ADDON_HASH = "Lora hashes", "TI hashes", 12
#: What the setting ``Version`` of our own texts begins with.
PROGRAM = "Anemone "
#: The order of A1111's settings; our own settings go before the last two.
_ORDER = (
    "Steps", "Sampler", "Schedule type", "CFG scale", "Seed", "Size", "Model hash", "Model", "Variation seed",
    "Variation seed strength", "Denoising strength", "RNG", "Version",
)  # fmt: skip
_RANKS = {key: float(rank) for rank, key in enumerate(_ORDER)}


def _settings(request: GenerationRequest, manifest: Manifest, seeds: ImageSeeds) -> dict[str, object]:
    """Return the settings of the image made with ``seeds``, in A1111's order."""
    settings: dict[str, object] = {
        "Sampler": SCHEDULERS[request.sampling.scheduler].title,
        "Schedule type": SIGMA_SCHEDULES[request.sampling.sigmas].title,
        "Seed": seeds.seed,
        "Size": request.size,
        "Model hash": manifest.source.sha256[:SHORT_HASH],
        "Model": manifest.name,
    }
    if seeds.variation is not None:
        settings |= {
            "Variation seed": seeds.variation,
            "Variation seed strength": plain(request.seeds.variation_strength),
        }
    values = request.values()
    for field in FIELDS:
        infotext = field.find(Infotext)
        if infotext is not None and field.name in values:
            settings[infotext.key] = infotext.write(values[field.name])
    settings |= {UNIT.format(i): write_unit(each, manifest) for i, each in enumerate(request.controls)}
    settings |= {
        LORA_HASHES: _hashes((lora.name, lora.tensors_sha256[:ADDON_HASH]) for lora in request.loras),
        EMBEDDING_HASHES: _hashes((each.name, each.sha256[:ADDON_HASH]) for each in request.embeddings),
    }
    settings = {key: value for key, value in settings.items() if value is not None}
    settings["Version"] = PROGRAM + __version__
    return dict(sorted(settings.items(), key=lambda setting: _RANKS.get(setting[0], _RANKS["RNG"] - 0.5)))


def _hashes(hashes: Iterable[tuple[str, str]]) -> str | None:
    """Return short hashes by name, without the characters that A1111 takes out of names; None if there are none."""
    plain_names = {name.replace(":", "").replace(",", ""): digest for name, digest in hashes if digest}
    return ", ".join(f"{name}: {digest}" for name, digest in plain_names.items()) or None


def write_infotext(request: GenerationRequest, manifest: Manifest, seeds: ImageSeeds) -> str:
    """Return the text of the image made with ``seeds``. Its ``RNG`` names the random number generator."""
    prompts = request.prompts
    prompt = " ".join([prompts.prompt, *(lora.tag for lora in request.loras)])
    return lay_out(prompt, prompts.negative_prompt, _settings(request, manifest, seeds))


def write_upscale_infotext(request: UpscaleRequest) -> str:
    """Return the text of an enlarged image, with the keys of A1111's extras (postprocessing_upscale.py)."""
    factor = max(request.size.width / request.source.width, request.size.height / request.source.height)
    settings = {"Postprocess upscale by": f"{factor:g}", "Postprocess upscaler": request.upscaler}
    settings |= {"Size": str(request.size), "Version": PROGRAM + __version__}
    return lay_out_settings(settings)
