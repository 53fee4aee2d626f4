"""Image files as clients get them: PNG, JPEG and WebP, with their parameters and with the mark that a model made them."""
