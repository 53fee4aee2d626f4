"""A program as a graph that passes rewrite: nodes by the values they make, and the users of each.

A pass looks at a node that ends a pattern, finds the rest of it through its inputs, and puts one node in its place
that makes a value of the same name; nodes of the pattern that are left without users go in `Graph.swept`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from converter.runtime.compressed import Value, dense
from converter.runtime.program import Operation, Program

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Node:
    """One operation: an operator of MIL, or one of this engine's own, which stands for several.

    inputs: parameter -> names of tensors. constants: parameter -> constant values. options: decisions of passes.
    """

    kind: str
    outputs: tuple[str, ...]
    inputs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    constants: Mapping[str, list[Value]] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def output(self) -> str:
        """Its one result."""
        (name,) = self.outputs
        return name

    @property
    def sources(self) -> tuple[str, ...]:
        """Every tensor it reads."""
        return tuple(name for names in self.inputs.values() for name in names)

    def source(self, parameter: str) -> str | None:
        """Return the tensor given for a parameter; None if it is a constant or absent."""
        names = self.inputs.get(parameter, ())
        return names[0] if len(names) == 1 else None

    def constant(self, parameter: str) -> Any:
        """Return a constant parameter as an array or text; None if it is a tensor or absent."""
        values = self.constants.get(parameter)
        if not values:
            return None
        return values[0] if isinstance(values[0], str) else dense(values[0])

    def numbers(self, parameter: str) -> list[int] | None:
        """Return a constant parameter as whole numbers; None if it is a tensor or absent."""
        found = self.constant(parameter)
        return None if found is None else [int(n) for n in found.reshape(-1)]

    def scalar(self, parameter: str) -> float | None:
        """Return a constant parameter of one element; None if it is anything else."""
        found = self.constant(parameter)
        return (
            float(found.reshape(-1)[0])
            if found is not None and not isinstance(found, str) and found.size == 1
            else None
        )


def _node(operation: Operation) -> Node:
    inputs = {name: tuple(names) for name, names in operation.inputs.items()}
    return Node(operation.kind, tuple(operation.outputs), inputs, operation.constants)


class Graph:
    """Nodes in an order in which they can run, the shape of every value, and the values that are wanted."""

    def __init__(self, nodes: Iterable[Node], shapes: Mapping[str, Shape], wanted: Iterable[str]) -> None:
        self.nodes, self.shapes, self.wanted = list(nodes), shapes, frozenset(wanted)
        self.producer = {name: node for node in self.nodes for name in node.outputs}
        self.users: dict[str, list[Node]] = {}
        for node in self.nodes:
            for name in dict.fromkeys(node.sources):
                self.users.setdefault(name, []).append(node)

    @staticmethod
    def of(program: Program, shapes: Mapping[str, Shape]) -> Graph:
        """Return the program as it is."""
        return Graph(map(_node, program.operations), shapes, program.outputs)

    def made(self, name: str | None, *kinds: str) -> Node | None:
        """Return the node that makes a value, if it is of one of these kinds."""
        node = self.producer.get(name) if name is not None else None
        return node if node is not None and node.kind in kinds else None

    def alone(self, name: str) -> bool:
        """Whether one node uses the value, once, and it is not an output."""
        users = self.users.get(name, [])
        return name not in self.wanted and len(users) == 1 and users[0].sources.count(name) == 1

    def rewritten(self, rewrite: Callable[[Graph, Node], Node | None]) -> Graph:
        """Replace every node for which ``rewrite`` returns another one, and drop nodes without users."""
        return Graph((rewrite(self, node) or node for node in self.nodes), self.shapes, self.wanted).swept()

    def renamed(self, names: Mapping[str, str]) -> Graph:
        """Replace every use of a value by a use of another; ``names`` may lead through several."""

        def final(name: str) -> str:
            while name in names:
                name = names[name]
            return name

        nodes = [
            Node(n.kind, n.outputs, {p: tuple(map(final, s)) for p, s in n.inputs.items()}, n.constants, n.options)
            for n in self.nodes
        ]
        return Graph(nodes, self.shapes, self.wanted).swept()

    def swept(self) -> Graph:
        """Return the graph without the nodes whose results have no users."""
        used, kept = set(self.wanted), []
        for node in reversed(self.nodes):
            if used.intersection(node.outputs):
                kept.append(node)
                used.update(node.sources)
        return Graph(reversed(kept), self.shapes, self.wanted)
