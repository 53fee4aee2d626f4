"""The image that whole pipelines make in benchmarks."""

PROMPT = "a red circle on a blue background"
GUIDANCE = 7.5
SEED = 7
