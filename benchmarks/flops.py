"""Counts the floating-point operations of a program's products: convolutions, matrix products, einsum."""

from __future__ import annotations

from math import prod
from typing import Any

Shape = tuple[int, ...]


def _shape(value_type: Any) -> Shape:
    return tuple(int(d.constant.size) for d in value_type.tensorType.dimensions)


class _Block:
    """The shapes and the small constants of a function's tensors, by name."""

    def __init__(self, function: Any) -> None:
        self.operations = function.block_specializations[function.opset].operations
        self._shapes = {value.name: _shape(value.type) for value in function.inputs}
        self._constants: dict[str, Any] = {}
        for op in self.operations:
            self._shapes |= {output.name: _shape(output.type) for output in op.outputs}
            if op.type == "const":
                self._constants[op.outputs[0].name] = op.attributes["val"]

    def shapes(self, op: Any, parameter: str) -> list[Shape]:
        """Return the shapes of a parameter's tensors."""
        arguments = op.inputs[parameter].arguments
        return [_shape(a.value.type) if a.WhichOneof("binding") == "value" else self._shapes[a.name] for a in arguments]

    def constant(self, op: Any, parameter: str) -> Any:
        """Return a constant's immediate tensor."""
        (argument,) = op.inputs[parameter].arguments
        value = argument.value if argument.WhichOneof("binding") == "value" else self._constants[argument.name]
        return value.immediateValue.tensor

    def flag(self, op: Any, parameter: str) -> bool:
        """Return a bool parameter; False if it is missing."""
        return parameter in op.inputs and bool(self.constant(op, parameter).bools.values[0])


def _einsum(equation: str, shapes: list[Shape]) -> int:
    terms = equation.replace(" ", "").partition("->")[0].split(",")
    sizes = {
        letter: size
        for term, shape in zip(terms, shapes, strict=True)
        for letter, size in zip(term, shape, strict=True)
    }
    return prod(sizes.values())


def _products(block: _Block, op: Any) -> int:
    """Return the number of multiplications in one operation's products."""
    if op.type in ("conv", "linear"):
        # A weight's rows are the outputs; each needs one multiplication for every element of its row.
        (weight,) = block.shapes(op, "weight")
        return prod(_shape(op.outputs[0].type)) * prod(weight[1:])
    if op.type == "conv_transpose":
        (x,), (weight,) = block.shapes(op, "x"), block.shapes(op, "weight")
        return prod(x) * prod(weight[1:])
    if op.type == "matmul":
        (x,) = block.shapes(op, "x")
        return prod(_shape(op.outputs[0].type)) * x[-2 if block.flag(op, "transpose_x") else -1]
    if op.type == "einsum":
        return _einsum(block.constant(op, "equation").strings.values[0], block.shapes(op, "values"))
    if op.type == "scaled_dot_product_attention":
        (query,), (key,), (value,) = (block.shapes(op, name) for name in ("query", "key", "value"))
        return prod(query[:-1]) * key[-2] * (query[-1] + value[-1])
    return 0


def flops(program: Any, function: str = "main") -> int:
    """Return the operations of a MIL ``Program`` message: a multiplication and an addition each; other operations are ignored.

    Shapes must be fixed. torch.utils.flop_counter gives the same count for the same network.
    """
    block = _Block(program.functions[function])
    return 2 * sum(_products(block, op) for op in block.operations)
