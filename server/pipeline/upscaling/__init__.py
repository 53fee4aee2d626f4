"""Enlarges images: by networks, tile by tile, and by resampling."""
