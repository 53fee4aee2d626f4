"""From a request to pictures: prompt, schedulers, the denoising loop, images. Importing this package loads nothing."""
