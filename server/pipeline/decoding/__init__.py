"""Image files, apart: what their pixels need, how they lie, and what their colors mean."""
