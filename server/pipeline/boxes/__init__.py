"""Boxes and windows of a plane: which parts of it the networks compute, by numbers alone."""
