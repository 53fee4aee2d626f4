"""Cut a network's variants into chunks, and its weights file with them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from converter.checksums import FileSum
from converter.errors import CheckpointError
from converter.mil import Graph
from converter.mil.chunks import Flow, choose_ends
from converter.mil.function import Function
from converter.mil.weights import CopiedWeights
from converter.weights.blob import BlobReader, BlobWriter


@dataclass(frozen=True)
class WeightsFile:
    """A weights file that packages are linked to, with its checksum."""

    path: Path
    sum: FileSum


def cut_network(
    network: str, graphs: Sequence[Graph], blob: Path, count: int
) -> tuple[list[list[Function]], list[WeightsFile]]:
    """Return the chunks of each graph, and the weights file of each chunk, written beside ``blob``.

    All graphs are cut where the first is cut best, so that their chunks share weights as they do. Raises CheckpointError if
    the network is too small.
    """
    whole = BlobReader(blob)
    flows = [Flow(graph) for graph in graphs]
    places = [flow.places(whole) for flow in flows]
    try:
        ends = choose_ends(places[0], set(places[0]).intersection(*places[1:]), count)
    except ValueError as error:
        raise CheckpointError(f"{network}: {error}; give fewer chunks") from error
    paths = [blob.with_name(f"{blob.name}-{number}") for number in range(1, count + 1)]
    with ExitStack() as stack:
        writers = [stack.enter_context(BlobWriter(path)) for path in paths]
        weights = [CopiedWeights(whole, writer) for writer in writers]
        parts = [flow.cut(ends, weights) for flow in flows]
    return parts, [WeightsFile(path, writer.sum) for path, writer in zip(paths, writers, strict=True)]
