"""Dialects: each turns its wire format into one GenerationRequest."""
