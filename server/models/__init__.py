"""The installed models, and conversions that make them."""
