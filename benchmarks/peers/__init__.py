"""The libraries that run the same weights, ours included, by name."""

from __future__ import annotations

import importlib
import importlib.util
import json
from dataclasses import asdict, dataclass, field
from types import ModuleType
from typing import Any

_NETWORKS = ("unet", "vae_decoder")


@dataclass(frozen=True)
class Peer:
    """A library with its settings.

    module: the module here that runs it; its load(workload, **settings) returns a `Step`.
    package: the package that must be installed.
    networks: the workloads that it supports.
    prepared: it needs its own files, which its module's prepare(workload, **settings) writes once.
    runs: the number of timed runs in a turn, if it differs from the usual; with 0, the first run is timed.
    """

    name: str
    module: str
    package: str
    settings: dict[str, Any] = field(default_factory=dict)
    networks: tuple[str, ...] = _NETWORKS
    prepared: bool = False
    runs: int | None = None

    @property
    def installed(self) -> bool:
        """Whether its package is installed."""
        return importlib.util.find_spec(self.package) is not None

    def runner(self) -> ModuleType:
        """Import and return its module; only the measured process does this."""
        return importlib.import_module(f"benchmarks.peers.{self.module}")

    def to_json(self) -> str:
        """Return JSON for another process's command line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Peer:
        """Parse the result of `to_json`."""
        return cls(**json.loads(text))


_WHOLE = (*_NETWORKS, "txt2img")
_ALL = (
    Peer("diffusers-fp32", "diffusers", "diffusers", {"dtype": "float32"}, _WHOLE),
    Peer("diffusers-fp32-channels-last", "diffusers", "diffusers", {"dtype": "float32", "channels_last": True}),
    Peer("diffusers-bf16", "diffusers", "diffusers", {"dtype": "bfloat16"}, _WHOLE),
    Peer("diffusers-bf16-channels-last", "diffusers", "diffusers", {"dtype": "bfloat16", "channels_last": True}),
    Peer("openvino-fp32", "openvino", "openvino", {"precision": "f32"}, prepared=True),
    Peer("openvino-bf16", "openvino", "openvino", {"precision": "bf16"}, prepared=True),
    Peer("onnxruntime", "onnxruntime", "onnxruntime", prepared=True),
    Peer("sdcpp", "sdcpp", "stable_diffusion_cpp", prepared=True, runs=0),
    Peer("ours-fp32", "ours", "torch", {"precision": "fp32"}, _WHOLE, prepared=True),
    Peer("ours-fast", "ours", "torch", {"precision": "fast"}, _WHOLE, prepared=True),
    Peer(
        "ours-fast-original", "ours", "torch", {"precision": "fast", "attention": "original"}, ("unet",), prepared=True
    ),
)
PEERS = {peer.name: peer for peer in _ALL}
#: The peer whose outputs are the reference, and the one whose times are.
REFERENCE, OURS = "diffusers-fp32", "ours-fast"
