"""Holds a request's prompts against a model and against what they may cost."""

from __future__ import annotations

from converter.folder import Manifest
from server.pipeline.prompts.editing import Walk
from server.pipeline.prompts.reading import read_prompt
from server.pipeline.request.errors import RequestError
from server.pipeline.request.request import GenerationRequest


def check_prompts(request: GenerationRequest, manifest: Manifest) -> None:
    """Raise RequestError for a prompt that would cost too much, and for layers that the model cannot skip."""
    prompts, most = request.prompts, manifest.clip_skip
    walks = [Walk(request.sampling.steps - request.skipped_steps)]
    if request.hires is not None:
        whole, skipped = request.hires.scheduled(request.sampling.steps)
        walks.append(Walk(whole - skipped, earlier=request.sampling.steps))
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
