"""Holds a request's prompts against a model and against what they may cost."""

from __future__ import annotations

from converter.manifest import Manifest
from server.pipeline.prompts.editing import Walk
from server.pipeline.prompts.reading import read_prompt
from server.pipeline.request.errors import RequestError
from server.pipeline.request.request import GenerationRequest


def second_walk(request: GenerationRequest) -> Walk | None:
    """Return the steps of the second pass of hires fix, after those of the first; None if there is none."""
    steps = request.sampling.steps
    return None if request.hires is None else Walk(request.hires.made(steps), earlier=steps)


def check_prompts(request: GenerationRequest, manifest: Manifest) -> None:
    """Raise RequestError for a prompt that would cost too much, and for layers that the model cannot skip."""
    prompts, most = request.prompts, manifest.clip_skip
    second = second_walk(request)
    walks = [Walk(request.sampling.steps - request.skipped_steps), *([] if second is None else [second])]
    for field, is_negative in (("prompt", False), ("negative_prompt", True)):
        text = getattr(prompts, field)
        prompt = read_prompt(text, with_syntax=prompts.has_syntax, is_negative=is_negative)
        excess = next((found for walk in walks if (found := prompt.excess(walk)) is not None), None)
        if excess is not None:
            raise RequestError(field, text, f"{excess}; or prompt_syntax plain")
    if prompts.clip_skip > most:
        accepted = "1" if most == 1 else f"1 to {most}"
        how = f"a conversion with --clip-skip {prompts.clip_skip} (clip_skip in the API) brings it"
        raise RequestError("clip_skip", prompts.clip_skip, f"{accepted} with {request.model}: {how}")
