"""Convert a checkpoint into a model folder."""
