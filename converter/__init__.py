"""Checkpoint in, Core ML model folder out; and a runtime that executes the packages anywhere."""

__version__ = "0.1.0"
