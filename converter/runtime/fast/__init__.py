"""The engine of precision "fast"."""
