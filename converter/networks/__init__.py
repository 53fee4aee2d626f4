"""Stable Diffusion's networks written as ML programs in the Neural Engine's layout (B, C, 1, S)."""
