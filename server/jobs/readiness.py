"""How far the server is from making its first image."""

from __future__ import annotations

from dataclasses import dataclass, replace

from converter.folder import Manifest
from server.jobs.messages import Preparing, Ready, Unable


@dataclass(frozen=True)
class Readiness:
    """How far the model is that the worker begins with.

    ``state`` is starting, downloading, converting, verifying, loading, ready or failed (then ``message`` says why).
    """

    state: str = "starting"
    network: str | None = None
    done: int = 0
    total: int = 0
    message: str | None = None
    manifest: Manifest | None = None

    def after(self, event: Preparing | Ready | Unable) -> Readiness:
        """How things stand once the worker has said this."""
        if isinstance(event, Preparing):
            return replace(self, state=event.stage, network=event.network, done=event.done, total=event.total)
        if isinstance(event, Ready):
            return Readiness("ready", manifest=Manifest.read(event.folder))
        return replace(self, state="failed", message=event.message)
