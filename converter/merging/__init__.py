"""Merged model folders: an installed model with LoRAs and textual inversions in its weights, made without its checkpoint.

>>> merge(ModelFolder.open(base), [(LoraFile.open(file), 0.8)], [], Path("merged"))

program   a package's weights by their layers' names, and the same program with other weights
changes   what LoRAs and embeddings do to which weights, checked against what the model has
network   one network's packages: changed weights in a file of their own, everything else linked
merge     the folder as a whole
"""

from __future__ import annotations

from converter.merging.errors import MergeError
from converter.merging.merge import merge, merge_key

__all__ = ["MergeError", "merge", "merge_key"]
