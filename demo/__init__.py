"""The bundled model's recipe: the pictures it learns from, its training, and the check of what it learned."""
