"""The ``info`` of an answer with images: a JSON text with the keys of AUTOMATIC1111's Processed.js()."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence

from converter import __version__
from converter.manifest import Manifest
from server.jobs.job import Job
from server.pipeline.infotext import read_infotext, write_infotext
from server.pipeline.infotext.writing import SHORT_HASH
from server.pipeline.request import GenerationRequest
from server.pipeline.schedulers import SCHEDULERS

#: The settings of an infotext that have keys of their own here.
_OWN = (
    "Steps", "Sampler", "CFG scale", "Seed", "Size", "Model hash", "Model", "Variation seed", "Variation seed strength",
    "Denoising strength", "Clip skip", "Version",
)  # fmt: skip


def timestamp(seconds: float) -> str:
    """Return a time, in seconds since 1970, as AUTOMATIC1111 writes it."""
    return time.strftime("%Y%m%d%H%M%S", time.localtime(seconds))


def _strength(request: GenerationRequest) -> float | None:
    if request.source is not None:
        return request.source.strength
    return None if request.hires is None else request.hires.hires_strength


def info_of(job: Job, request: GenerationRequest, manifest: Manifest, notes: Sequence[str]) -> str:
    """Return the text for the job's images.

    Beside A1111's keys there is the size that the networks computed, from which the images were scaled, and ``comments``: the
    notes, a line each.
    """
    prompts, sampling, images = request.prompts, request.sampling, job.images
    seeds = [request.seeds.of_images[image.index] for image in images]
    texts = [write_infotext(request, manifest, each) for each in seeds]
    variations = [-1 if each.variation is None else each.variation for each in seeds]
    settings = read_infotext(texts[0]).settings
    info = {
        "prompt": prompts.prompt,
        "all_prompts": [prompts.prompt] * len(images),
        "negative_prompt": prompts.negative_prompt,
        "all_negative_prompts": [prompts.negative_prompt] * len(images),
        "seed": seeds[0].seed,
        "all_seeds": [each.seed for each in seeds],
        "subseed": variations[0],
        "all_subseeds": variations,
        "subseed_strength": request.seeds.variation_strength,
        "width": request.result.width,
        "height": request.result.height,
        "computed_width": request.computed.width,
        "computed_height": request.computed.height,
        "sampler_name": SCHEDULERS[sampling.scheduler].title,
        "cfg_scale": sampling.guidance_scale,
        "steps": sampling.steps,
        "batch_size": len(images),
        "restore_faces": False,
        "face_restoration_model": None,
        "sd_model_name": request.model,
        "sd_model_hash": manifest.source.sha256[:SHORT_HASH],
        "sd_vae_name": None,
        "sd_vae_hash": None,
        "seed_resize_from_w": -1,
        "seed_resize_from_h": -1,
        "denoising_strength": _strength(request),
        "extra_generation_params": {key: value for key, value in settings.items() if key not in _OWN},
        "index_of_first_image": 0,
        "infotexts": texts,
        "styles": [],
        "job_timestamp": timestamp(job.created),
        "clip_skip": prompts.clip_skip,
        "is_using_inpainting_conditioning": manifest.conditions.inpainting,
        "version": f"Anemone {__version__}",
        "comments": "\n".join(notes),
    }
    return json.dumps(info)
