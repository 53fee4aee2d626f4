"""A program as a graph for rewriting passes: the node that gives each value, and the nodes that use it.

A pass takes a node that ends a pattern, finds the rest of the pattern through its inputs, and replaces it by one node
that gives a value of the same name. `Graph.without_unused` drops the nodes of the pattern that have no users left.
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
    """One operation: an operator of MIL, or one of this engine, which replaces several.

    inputs: parameter -> names of tensors. constants: parameter -> constant values. options: set by passes.
    """

    kind: str
    outputs: tuple[str, ...]
    inputs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    constants: Mapping[str, list[Value]] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def output(self) -> str:
        """The name of its only result."""
        (name,) = self.outputs
        return name

    @property
    def sources(self) -> tuple[str, ...]:
        """The names of all tensors that it reads."""
        return tuple(name for names in self.inputs.values() for name in names)

    def source(self, parameter: str) -> str | None:
        """Return the name of a parameter's tensor; None if it is a constant or absent."""
        names = self.inputs.get(parameter, ())
        return names[0] if len(names) == 1 else None

    def constant(self, parameter: str) -> Any:
        """Return a constant parameter as an array or text; None if it is a tensor or absent."""
        values = self.constants.get(parameter)
        if not values:
            return None
        return values[0] if isinstance(values[0], str) else dense(values[0])

    def numbers(self, parameter: str) -> list[int] | None:
        """Return a constant parameter as integers; None if it is a tensor or absent."""
        value = self.constant(parameter)
        return None if value is None else [int(n) for n in value.reshape(-1)]

    def scalar(self, parameter: str) -> float | None:
        """Return a constant parameter of one element; None if it is anything else."""
        value = self.constant(parameter)
        return (
            float(value.reshape(-1)[0])
            if value is not None and not isinstance(value, str) and value.size == 1
            else None
        )


def _node(operation: Operation) -> Node:
    inputs = {name: tuple(names) for name, names in operation.inputs.items()}
    return Node(operation.kind, tuple(operation.outputs), inputs, operation.constants)


class Graph:
    """Nodes in running order, the shape of every value, and the names of the outputs."""

    def __init__(self, nodes: Iterable[Node], shapes: Mapping[str, Shape], outputs: Iterable[str]) -> None:
        self.nodes, self.shapes, self.outputs = list(nodes), shapes, frozenset(outputs)
        self.producer = {name: node for node in self.nodes for name in node.outputs}
        self.users: dict[str, list[Node]] = {}
        for node in self.nodes:
            for name in dict.fromkeys(node.sources):
                self.users.setdefault(name, []).append(node)

    @staticmethod
    def of(program: Program, shapes: Mapping[str, Shape]) -> Graph:
        """Return the graph of a program."""
        return Graph(map(_node, program.operations), shapes, program.outputs)

    def node_of(self, name: str | None, *kinds: str) -> Node | None:
        """Return the node that gives a value, if it is of one of these kinds; otherwise None."""
        node = self.producer.get(name) if name is not None else None
        return node if node is not None and node.kind in kinds else None

    def used_once(self, name: str) -> bool:
        """Return whether exactly one node uses the value, once, and it is not an output."""
        users = self.users.get(name, [])
        return name not in self.outputs and len(users) == 1 and users[0].sources.count(name) == 1

    def rewrite(self, replace: Callable[[Graph, Node], Node | None]) -> Graph:
        """Return the graph with every node replaced for which ``replace`` returns another, without unused nodes."""
        return Graph((replace(self, node) or node for node in self.nodes), self.shapes, self.outputs).without_unused()

    def rename(self, names: Mapping[str, str]) -> Graph:
        """Return the graph with every use of a value replaced by another; ``names`` may form chains."""

        def final(name: str) -> str:
            while name in names:
                name = names[name]
            return name

        nodes = [
            Node(n.kind, n.outputs, {p: tuple(map(final, s)) for p, s in n.inputs.items()}, n.constants, n.options)
            for n in self.nodes
        ]
        return Graph(nodes, self.shapes, self.outputs).without_unused()

    def without_unused(self) -> Graph:
        """Return the graph without nodes whose results have no users."""
        used, kept = set(self.outputs), []
        for node in reversed(self.nodes):
            if used.intersection(node.outputs):
                kept.append(node)
                used.update(node.sources)
        return Graph(reversed(kept), self.shapes, self.outputs)
