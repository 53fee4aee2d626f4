"""The pipeline makes images from a request: prompt, schedulers, denoising, decoding. Importing it loads no model."""
