"""An image beside the prompt, and what a model must have for it."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from converter.manifest import Manifest
from converter.networks.registry import IP_ADAPTER
from server.pipeline.abilities import ip_adapters
from server.pipeline.fields import Attachment, Infotext, Part, plain
from server.pipeline.limits import Real, Within
from server.pipeline.request.conditions import NAME
from server.pipeline.request.errors import RequestError

_PREFIX = f"{IP_ADAPTER.name}/"


class Adapter(Part):
    """An image that stands beside the prompt (IP-Adapter, Ye et al. 2023). ``adapter_image`` is the attachment's name."""

    adapter_image: Annotated[str, Attachment()] = Field(description="The image whose content and style to take up")
    adapter: Annotated[str, Infotext("IP-Adapter")] | None = Field(
        None, max_length=NAME, description="One of the model's IP-Adapters; left out: the first"
    )
    adapter_scale: Annotated[Real, Within(0.0, 2.0), Infotext("IP-Adapter scale", plain)] = Field(
        1.0, description="How much the image counts beside the prompt"
    )

    absent: ClassVar[str] = "leave it out without an adapter_image"

    def network(self, manifest: Manifest) -> str:
        """Return the name of its network in the model folder."""
        return _PREFIX + (self.adapter or ip_adapters(manifest)[0])


def check_adapter(asked: Adapter | None, manifest: Manifest) -> None:
    """Raise RequestError for an IP-Adapter that the model does not have."""
    adapters = ip_adapters(manifest)
    if asked is not None and asked.adapter is not None and asked.adapter not in adapters:
        raise RequestError("adapter", asked.adapter, ", ".join(adapters))
