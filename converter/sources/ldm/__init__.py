"""The original naming of Stable Diffusion checkpoints (LDM's and SGM's, which single files use) in diffusers' terms."""
