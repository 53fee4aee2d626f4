"""Prompts: AUTOMATIC1111's syntax, CLIP's tokens, and chunks of tokens with a weight for each."""
