"""What a server is told: by flags, by ANEMONE_* variables, by default."""

from __future__ import annotations

import ipaddress
import os
import sys
from pathlib import Path

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from converter.folder import NETWORKS
from converter.runtime import ComputeUnit

BUNDLED_MODEL = Path(__file__).resolve().parent.parent / "demo" / "model"


def default_data_dir() -> Path:
    """The platform's folder for a user's application data."""
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "Anemone"
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "anemone"


class Settings(BaseSettings):
    """Settings of a server; every one is also an environment variable, ANEMONE_PORT=7861 for instance."""

    model_config = SettingsConfigDict(env_prefix="ANEMONE_", extra="forbid", frozen=True)

    host: str = Field("127.0.0.1", description="Address to listen on; only this machine's own (loopback) for now")
    port: int = Field(7860, ge=0, le=65535, description="Port to listen on; 0 takes any free one")
    data_dir: Path = Field(default_factory=default_data_dir, description="Holds everything the server writes")
    model: Path = Field(BUNDLED_MODEL, description="A checkpoint in the diffusers layout, or a converted model folder")
    compute_units: dict[str, ComputeUnit] = Field(
        {"default": "CPU_AND_NE"},
        description='Core ML compute unit of each network, e.g. {"default": "CPU_AND_NE", "vae_decoder": "CPU_AND_GPU"}',
    )

    @field_validator("host")
    @classmethod
    def _loopback(cls, host: str) -> str:
        if host == "localhost":
            return host
        try:
            loopback = ipaddress.ip_address(host).is_loopback
        except ValueError:
            loopback = False
        if not loopback:
            raise ValueError(
                f"host is {host!r}; accepted: localhost, 127.0.0.1 or ::1. A server without an API key must not be "
                "reachable from other machines"
            )
        return host

    @field_validator("compute_units")
    @classmethod
    def _networks(cls, units: dict[str, ComputeUnit]) -> dict[str, ComputeUnit]:
        known = {"default", *NETWORKS}
        if unknown := sorted(set(units) - known):
            raise ValueError(f"compute_units names {', '.join(unknown)}; accepted: {', '.join(sorted(known))}")
        return units
