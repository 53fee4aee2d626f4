"""Compare converted networks with PyTorch's."""
