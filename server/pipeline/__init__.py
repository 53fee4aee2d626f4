"""From a request to images: prompt, schedulers, the denoising loop, images. Importing this package loads nothing."""
