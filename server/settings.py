"""The server's settings, from flags, ANEMONE_* variables, a TOML file and defaults; earlier sources override later ones."""

from __future__ import annotations

import ipaddress
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from tomllib import TOMLDecodeError
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from converter.errors import AnemoneError, quoted
from converter.networks.registry import KINDS
from converter.runtime import ComputeUnit, Precision
from server.findings import accepted_by
from server.security.hosts import host_of
from server.security.key import SHORTEST, is_key

#: A link to demo/model in a source checkout.
BUNDLED_MODEL = Path(__file__).resolve().parent / "data" / "anemone-demo"
_PREFIX = "ANEMONE_"
#: The variable that names the settings file; not a setting, since a file cannot name itself.
_CONFIG = f"{_PREFIX}CONFIG"


def _home() -> Path:
    try:
        return Path.home()
    except RuntimeError as error:
        raise AnemoneError("this user has no home folder, where the settings file would be; set HOME") from error


def default_data_dir() -> Path:
    """Return the platform's folder for a user's application data. Raises AnemoneError if the user has no home folder."""
    if sys.platform == "darwin":
        return _home() / "Library" / "Application Support" / "Anemone"
    return Path(os.environ.get("XDG_DATA_HOME") or _home() / ".local" / "share") / "anemone"


def default_config() -> Path:
    """Return the settings file that is read if no other is named; it need not exist. Raises as `default_data_dir` does."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or _home() / ".config") / "anemone" / "anemone.toml"


#: What happens to images in which a model's safety checker finds something; off: they are not checked.
Safety = Literal["off", "blur", "refuse"]
#: Several words: a list in TOML and code; separated by commas in a flag or variable.
Words = Annotated[tuple[str, ...], NoDecode]


class Settings(BaseSettings):
    """The settings of a server; each is also an environment variable, for example ANEMONE_PORT=7861."""

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX, env_ignore_empty=True, extra="forbid", frozen=True, hide_input_in_errors=True
    )

    host: str = Field(
        "127.0.0.1",
        description="Address to listen on: 127.0.0.1 for this machine only, 0.0.0.0 or :: for the network, with a key",
    )
    port: int = Field(7860, ge=0, le=65535, description="Port to listen on; 0 means any free port")
    data_dir: Path = Field(default_factory=default_data_dir, description="Folder for everything that the server writes")
    model: Path = Field(
        BUNDLED_MODEL, description="A converted model folder, a checkpoint, or owner/name on the Hugging Face hub"
    )
    loras_dir: Path | None = Field(None, description="Folder of LoRAs; if not set, loras in the data folder")
    embeddings_dir: Path | None = Field(
        None, description="Folder of embeddings (textual inversion); if not set, embeddings in the data folder"
    )
    merged_limit_gb: float = Field(
        20,
        ge=0,
        allow_inf_nan=False,
        description="Gigabytes that models with LoRAs merged in may take on the disk; those used longest ago are deleted "
        "first",
    )
    compute_units: Annotated[dict[str, ComputeUnit], NoDecode] = Field(
        {},
        description='Core ML compute unit of a network, e.g. {"unet": "CPU_AND_NE"}; "default" applies to all others. '
        "Other networks use the model's unit, or another if that fails in a trial on this machine",
    )
    precision: Precision = Field(
        "fast",
        description="Arithmetic of models: fast (Core ML on a Mac; elsewhere compiled for the CPU, with 8-bit integers where "
        "possible); slowly, on any machine: fp32, fp16 (results rounded), or ane (fp16 with the Neural Engine's reported "
        "limits: shows overflow, not the engine's own error)",
    )
    api_key: SecretStr | None = Field(
        None,
        description=f"Key that every client must send, {SHORTEST} characters or more; if not set, a server on the network "
        "makes one and keeps it in the data folder",
    )
    allowed_hosts: Words = Field((), description="Further host names that the server answers to, such as a proxy's")
    cors_origins: Words = Field(
        (), description="Other sites whose pages may call the server, such as https://studio.example:8443"
    )
    tls: bool = Field(False, description="Serve HTTPS, with the certificate of tls_cert or one that the server makes")
    tls_cert: Path | None = Field(None, description="A certificate (chain) to serve HTTPS with, PEM")
    tls_key: Path | None = Field(None, description="The certificate's private key, PEM, not encrypted")
    rate_limit: int = Field(
        600,
        ge=1,
        description="Requests a minute that one client may send over the network; this machine has no limit",
    )
    max_queue: int = Field(
        100,
        ge=1,
        description="Jobs that may wait at once; more are refused with 429. On the network, a client may have "
        "as many as it leaves free to others",
    )
    retention_days: float = Field(
        30, gt=0, allow_inf_nan=False, description="Days to keep a finished job and its images"
    )
    retention_gb: float = Field(
        10,
        gt=0,
        allow_inf_nan=False,
        description="Gigabytes of images, uploads and requests to keep; the oldest are deleted first",
    )
    idle_unload_minutes: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="Minutes without a job before the model is unloaded; never if not set",
    )
    memory_budget_gb: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="Gigabytes of memory that models may use; if not set, chosen for the machine",
    )
    any_model: bool = Field(
        False,
        description="Take every unknown model name for the default model in OpenAI's API, and not only OpenAI's own names",
    )
    previews: bool = Field(True, description="Show small previews of an image while it is made")
    safety: Safety = Field(
        "blur",
        description="What happens to an image in which the model's safety checker, if it has one, finds something: blur "
        "(it is delivered blurred), refuse (its job fails), off (images are not checked)",
    )
    mark_images: bool = Field(
        True, description="Have every image say that a model made it (IPTC Digital Source Type, in XMP)"
    )
    log_format: Literal["text", "json"] = Field(
        "text", description="Format of the log's lines: text for people, json for programs"
    )
    advertise: bool = Field(True, description="Announce the server by Bonjour when it is on the network")
    shutdown_seconds: float = Field(
        10, ge=0, le=600, description="Seconds that the running job may take to finish when the server stops"
    )

    @property
    def on_network(self) -> bool:
        """Whether other machines can reach the server."""
        return self.host != "localhost" and not ipaddress.ip_address(self.host).is_loopback

    @property
    def serves_tls(self) -> bool:
        """Whether the server speaks HTTPS."""
        return self.tls or self.tls_cert is not None

    @field_validator("data_dir", "model", "loras_dir", "embeddings_dir", "tls_cert", "tls_key", mode="before")
    @classmethod
    def _path(cls, value: Any) -> Any:
        if value is None:
            return None
        if not str(value).strip():
            raise ValueError("it is empty; accepted: the name of a file or folder")
        try:
            # Path would leave out "./", and ./owner/name then be an address on the hub.
            is_local = str(value).startswith("./")
            path = Path(value).expanduser()  # ~ is a shell's, which a file of settings does not pass through
            return path.absolute() if is_local else path
        except RuntimeError as error:
            raise ValueError(f"{value} names a home folder that does not exist") from error

    @field_validator("data_dir", "loras_dir", "embeddings_dir")
    @classmethod
    def _folder(cls, folder: Path | None) -> Path | None:
        if folder is None:
            return None
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"{folder} is a file; accepted: a folder, which is made if it does not exist")
        if folder.is_symlink() and not folder.exists():
            raise ValueError(f"{folder} is a link to nothing; accepted: a folder, which is made if it does not exist")
        return folder

    @field_validator("host")
    @classmethod
    def _address(cls, host: str) -> str:
        if host != "localhost":
            try:
                ipaddress.ip_address(host)
            except ValueError as error:
                raise ValueError(
                    f"{host!r} is not a valid address; accepted: localhost, 127.0.0.1 or ::1 for this machine only, 0.0.0.0, :: "
                    "or one of its own addresses for the network"
                ) from error
        return host

    @field_validator("compute_units", mode="before")
    @classmethod
    def _object(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return json.loads(value)
        except ValueError as error:
            raise ValueError('accepted: a JSON object such as {"default": "CPU_AND_NE"}') from error

    @field_validator("compute_units")
    @classmethod
    def _networks(cls, units: dict[str, ComputeUnit]) -> dict[str, ComputeUnit]:
        accepted = {"default", *(kind.name for kind in KINDS)}
        if unknown := sorted(set(units) - accepted):
            raise ValueError(f"compute_units names {', '.join(unknown)}; accepted: {', '.join(sorted(accepted))}")
        return units

    @field_validator("api_key")
    @classmethod
    def _long_enough(cls, key: SecretStr | None) -> SecretStr | None:
        if key is not None and not is_key(key.get_secret_value()):
            raise ValueError(
                f"the key is too short or contains spaces; use {SHORTEST} or more ASCII characters without spaces"
            )
        return key

    @field_validator("allowed_hosts", "cors_origins", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return tuple(word.strip() for word in value.split(",") if word.strip()) if isinstance(value, str) else value

    @field_validator("allowed_hosts")
    @classmethod
    def _names(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if not host_of(name) or ":" in name:
                raise ValueError(
                    f"{name!r} is not a valid host name; accepted: names without port or path, such as mac.example"
                )
        return tuple(name.lower().rstrip(".") for name in names)

    @field_validator("cors_origins")
    @classmethod
    def _origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            parts = urlsplit(origin)
            if (
                parts.scheme not in ("http", "https")
                or not parts.hostname
                or origin != f"{parts.scheme}://{parts.netloc}"
            ):
                raise ValueError(
                    f"{origin!r} is not a valid origin; accepted: scheme, name and port, such as http://localhost:3000"
                )
        return origins

    @model_validator(mode="after")
    def _both_or_none(self) -> Settings:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key belong together; set both or neither")
        return self


def load_settings(flags: Mapping[str, Any], config: Path | None = None) -> Settings:
    """Return the settings: ``flags`` override ANEMONE_* variables, these the TOML file, and the file the defaults.

    The file is ``config`` or the one that ANEMONE_CONFIG names, which must exist; or else ``default_config()``, which may
    be missing. Raises AnemoneError, which says what is wrong and what is accepted, but shows no secret value.
    """
    named = config or (Path(os.environ[_CONFIG]) if os.environ.get(_CONFIG) else None)
    file = named or default_config()
    if named is not None and not named.exists():
        raise AnemoneError(f"the settings file {named} does not exist")
    if file.exists() and not file.is_file():
        raise AnemoneError(f"the settings file {file} is not a file; accepted: a TOML file")
    accepted = {f"{_PREFIX}{name.upper()}" for name in Settings.model_fields} | {_CONFIG}
    if unknown := sorted(name for name in os.environ if name.startswith(_PREFIX) and name not in accepted):
        raise AnemoneError(f"{unknown[0]} is not a setting; accepted: {', '.join(sorted(accepted))}")

    class Layered(Settings):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, file)

    try:
        return Layered(**flags)
    except ValidationError as error:
        raise AnemoneError(_explained(error)) from error
    except (TOMLDecodeError, UnicodeDecodeError, OSError, RecursionError) as error:
        raise AnemoneError(f"the settings file {file} cannot be read: {error}") from error


def _explained(error: ValidationError) -> str:
    """Return the first validation error as one line."""
    first = error.errors(include_url=False)[0]
    field = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"{field} is not a setting; accepted: {', '.join(sorted(Settings.model_fields))}"
    reason = accepted_by(first)
    value = None if field in ("", "api_key") else first.get("input")
    value = str(value) if isinstance(value, Path) else value
    if first["type"] != "value_error" and value is not None:
        return f"{field} is {quoted(value)}; accepted: {reason}"
    shown = "" if value is None else f" (given: {quoted(value)})"
    return f"{field}: {reason}{shown}" if field else reason
