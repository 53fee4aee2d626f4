"""LoRAs for few steps: recognized by the names under which they are published, and how their authors sample with them.

Nothing in most of these files tells what they are: the metadata are empty, and the layers those of other LoRAs. The programs
that know them (ComfyUI's and A1111's users, diffusers' documentation) know them by name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from converter.checksums import checksum


@dataclass(frozen=True)
class FewStep:
    """How a few-step LoRA is sampled.

    guidance_scale: 1 is without guidance. scheduler: a request's name, with the sigma schedule's after it if it needs one.
    """

    steps: int
    guidance_scale: float
    scheduler: str


_UNGUIDED = 1.0
#: Timesteps from the last on, as diffusers' "trailing": the models' own spacing begins where a run of few steps fails.
_EULER, _EULER_A = "euler sgm_uniform", "euler_a sgm_uniform"
#: Pattern of a name -> steps where it tells none, guidance and scheduler; the first match counts. From the model cards of
#: latent-consistency/lcm-lora-*, ByteDance/Hyper-SD and SDXL-Lightning, tianweiy/DMD2, h1t/TCD-*, wangfuyun/PCM_Weights and
#: jasperai/flash-*. Hyper-SD was trained with TCD's steps; its CFG files are for guidance from 5 to 8.
#: PCM is sampled with DDIM, which is Euler's method.
_NAMES = tuple(
    (re.compile(pattern), FewStep(*values))
    for pattern, values in (
        (r"hyper-?(sd|sdxl|sd15)\b.*cfg", (8, 5.0, "tcd")),
        (r"hyper-?(sd|sdxl|sd15)\b", (4, _UNGUIDED, "tcd")),
        (r"lightning.*\d+-?steps?|sdxl-lightning", (4, _UNGUIDED, _EULER)),
        (r"\bdmd2?\b", (4, _UNGUIDED, "lcm")),
        (r"\bpcm-.*normalcfg", (4, 5.0, _EULER)),
        (r"\bpcm-.*lcmlike", (4, _UNGUIDED, "lcm")),
        (r"\bpcm-", (4, _UNGUIDED, _EULER)),
        (r"\btcd-.*lora|\btcd-sd", (4, _UNGUIDED, "tcd")),
        (r"\bflash-(sd|sdxl)\b", (4, _UNGUIDED, "lcm")),
        (r"\blcm-.*lora|lora-lcm|^lcm-(sd|xl|ssd)|animatelcm", (4, _UNGUIDED, "lcm")),
        (r"\bturbo-.*lora|sdxl-turbo|sd-turbo|sd-xl-turbo", (4, _UNGUIDED, _EULER_A)),
    )
)
_STEPS = re.compile(r"(?<![a-z0-9.])(\d{1,2})-?steps?\b")
#: latent-consistency's files, all called pytorch_lora_weights: size in bytes -> SHA-256 (on the hub's pages).
_LCM = {
    134621556: "8f90d840e075ff588a58e22c6586e2ae9a6f7922996ee6649a7f01072333afe4",  # lcm-lora-sdv1-5
    393855224: "a764e6859b6e04047cd761c08ff0cee96413a8e004c9f07707530cd776b19141",  # lcm-lora-sdxl
}
#: Characters of a title that are searched; a file may have any.
_LONGEST = 200
_TITLES = ("ss_output_name", "modelspec.title")


def few_step_of(path: Path, metadata: Mapping[str, str]) -> FewStep | None:
    """Return how the LoRA in a file is sampled if it is one for few steps, by its name, title or content."""
    for title in (path.stem, *(metadata.get(key, "") for key in _TITLES)):
        plain = re.sub(r"[^a-z0-9.]+", "-", title[:_LONGEST].lower())
        found = next((few for pattern, few in _NAMES if pattern.search(plain)), None)
        if found is not None:
            steps = _STEPS.search(plain)
            return FewStep(int(steps[1]) if steps else found.steps, found.guidance_scale, found.scheduler)
    known = _LCM.get(path.stat().st_size)
    return FewStep(4, _UNGUIDED, "lcm") if known is not None and checksum(path).sha256 == known else None
