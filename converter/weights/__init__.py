"""How weights are stored in a package."""
