"""Control maps from images: what a ControlNet of edges, lines or blocks of color is given."""
