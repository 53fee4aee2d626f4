"""The picture that whole pipelines are measured with."""

PROMPT = "a red circle on a blue background"
GUIDANCE = 7.5
SEED = 7
