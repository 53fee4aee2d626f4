"""Palettes: an image's colors with their shares, and images made in another image's colors."""
