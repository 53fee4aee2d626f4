"""Build ML programs: tensors with inferred shapes, and operations in the form that coremltools writes.

Core ML's own compiler is stricter than the documented language, so every operation here carries exactly the
parameters, names and types that ``ct.convert`` (coremltools 9.0) gives it for the target at hand. Weights are streamed
into one weights file; a `Graph` has no tensor values.

target      the oldest macOS of a program, which decides its opset
tensor      names, shapes and types of a program
weights     the weights file that several programs share
compressed  the operations that decode compressed weights
function    one function: its inputs, constants and outputs
graph       the operations
"""

from converter.mil.compressed import can_store, check_encoding
from converter.mil.graph import Graph
from converter.mil.target import MACOS13, MACOS14, MACOS15, TARGETS, Target, TargetError, TargetName, target_named
from converter.mil.tensor import BOOL, FP16, FP32, INT32, UINT16, Array, Tensor, is_identifier
from converter.mil.weights import Unwritten, Weights

__all__ = [
    "BOOL",
    "FP16",
    "FP32",
    "INT32",
    "MACOS13",
    "MACOS14",
    "MACOS15",
    "TARGETS",
    "UINT16",
    "Array",
    "Graph",
    "Target",
    "TargetError",
    "TargetName",
    "Tensor",
    "Unwritten",
    "Weights",
    "can_store",
    "check_encoding",
    "is_identifier",
    "target_named",
]
