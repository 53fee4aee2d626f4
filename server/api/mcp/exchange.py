"""One request of a client: its message without the images, which are kept beside it."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

from server.api.errors import not_json
from server.api.image_json import EncodedImage

#: Where an exchange is in the scope of its request.
SCOPE = "anemone.mcp"


@dataclass
class Exchange:
    """A request that a client has sent.

    session: the client's session; None if it has none.
    room: the memory that the upload takes, given back when a tool has stored what it needs, or at the end.
    """

    session: str | None
    room: AsyncExitStack = field(default_factory=AsyncExitStack)
    _images: dict[str, EncodedImage] = field(default_factory=dict)

    @property
    def has_images(self) -> bool:
        """Whether the message that was read had images."""
        return bool(self._images)

    def message(self, document: Any) -> bytes:
        """Return the JSON of a message with a name in place of each image.

        So the SDK, which copies its texts several times and keeps them until the job has ended, never has the images. Raises
        ApiError for a message that is nested deeper than can be walked here, which its parser did in another thread.
        """
        try:
            return json.dumps(self._without_images(document)).encode()
        except RecursionError as error:
            raise not_json(error) from error

    def _without_images(self, document: Any) -> Any:
        def named(value: Any) -> Any:
            if not isinstance(value, EncodedImage):
                return value
            name = secrets.token_hex()
            self._images[name] = value
            return name

        return _mapped(document, named)

    def with_images(self, document: Any) -> Any:
        """Return a value of the message with its images."""
        return _mapped(document, lambda value: self._images.get(value, value) if isinstance(value, str) else value)

    async def forget_images(self) -> None:
        """Drop the images and give their memory back."""
        self._images.clear()
        await self.room.aclose()


def _mapped(document: Any, change: Callable[[Any], Any]) -> Any:
    """Return a document of JSON with each value changed that is neither a list nor an object."""
    if isinstance(document, list):
        return [_mapped(item, change) for item in document]
    if isinstance(document, dict):
        return {name: _mapped(item, change) for name, item in document.items()}
    return change(document)
