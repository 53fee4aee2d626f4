"""The engine behind precision "fast"."""
