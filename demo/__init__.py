"""The bundled model's recipe: the images that it learns from, its training, and the check of the result."""
