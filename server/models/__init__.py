"""Which models there are, and how one becomes ready to paint."""
