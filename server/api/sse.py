"""How a job or a conversion is told as Server-Sent Events: as it stands, each step, and each state until it is over."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from fastapi.sse import ServerSentEvent
from pydantic import BaseModel

from server.events import Subscription


@dataclass(frozen=True)
class Standing:
    """How what is watched stands: as its own route tells it, and whether it goes on."""

    told: BaseModel
    open: bool


async def watch(watched: Subscription, standing: Callable[[], Standing | None]) -> AsyncIterator[ServerSentEvent]:
    """Begins with how it stands, unless the subscription goes on from an event, and ends after the state in which it is over.

    ``standing`` is asked anew at every change of state; None where what is watched is gone.
    """
    now = standing()
    if not watched.is_complete and now is not None:
        yield _state(now, watched.start)
    while now is not None and now.open:
        event = await anext(watched, None)
        if event is None:
            return
        if event.kind != "state":
            yield ServerSentEvent(event=event.kind, data=event.data, id=str(event.id))
            continue
        now = standing()
        if now is not None:
            yield _state(now, event.id)


def _state(standing: Standing, event_id: int) -> ServerSentEvent:
    return ServerSentEvent(event="state", raw_data=standing.told.model_dump_json(), id=str(event_id))
