"""The denoising loop, and what predicts each of its steps: prompts, control maps and images as rows of the UNet, guidance."""
