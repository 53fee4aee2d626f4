"""The storage of weights in a package."""
