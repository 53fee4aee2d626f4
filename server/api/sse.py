"""Server-Sent Events of a job or a conversion: its state, then progress and state events until it ends."""

# No deferred annotations: FastAPI could not resolve those that name a parameter of the enclosing function.

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Path
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import BaseModel

from server.api.dependencies import Answers, Queue
from server.errors import ApiError
from server.events import Subscription
from server.faults import FAULTS, fault_of

#: Seconds between attempts to read a state that the database does not give now.
_RETRY_SECONDS = 1.0


@dataclass(frozen=True)
class Snapshot:
    """The current state of a job or conversion as its own route returns it, and whether it can still change."""

    body: BaseModel
    is_open: bool


#: Takes the snapshot of a job or conversion by its id; raises ApiError if it does not exist.
TakeSnapshot = Callable[[str], Snapshot]


@dataclass(frozen=True)
class _Watch:
    events: Subscription
    first: Snapshot


async def _stream(watch: _Watch, take: Callable[[], Snapshot]) -> AsyncIterator[ServerSentEvent]:
    """Yield the current state, unless the subscription resumes after an event, then events up to the last state."""
    snapshot = watch.first
    # A job may end between the subscription and the snapshot; then no event is read.
    if not (watch.events.is_complete and snapshot.is_open):
        yield _state(snapshot, watch.events.start)
    while snapshot.is_open:
        event = await anext(watch.events, None)
        if event is None:
            return
        if event.kind != "state":
            yield ServerSentEvent(event=event.kind, data=event.data, id=str(event.id))
            continue
        try:
            snapshot = await _taken(take)
        except ApiError:  # deleted since the event
            return
        yield _state(snapshot, event.id)


async def _taken(take: Callable[[], Snapshot]) -> Snapshot:
    while True:
        try:
            return take()
        except FAULTS as error:
            if fault_of(error) is None:
                raise
            await asyncio.sleep(_RETRY_SECONDS)


def _state(snapshot: Snapshot, event_id: int) -> ServerSentEvent:
    return ServerSentEvent(event="state", raw_data=snapshot.body.model_dump_json(), id=str(event_id))


def add_event_route(
    router: APIRouter,
    path: str,
    kind: str,
    snapshots: Callable[..., Coroutine[Any, Any, TakeSnapshot]],
    *,
    about: str,
    absent: Answers,
) -> None:
    """Add the route that watches a ``kind`` (job, conversion) by the path's parameter ``{kind}_id``.

    snapshots: a dependency that returns the function which takes snapshots.
    about: describes the events. absent: the answers if the job or conversion does not exist.
    """

    Id = Annotated[str, Path(alias=f"{kind}_id")]
    Take = Annotated[TakeSnapshot, Depends(snapshots)]

    async def subscribed(
        queue: Queue,
        item_id: Id,
        take: Take,
        last_event_id: Annotated[
            int | None,
            Header(description="The id of the last event received; the stream starts with the events after it"),
        ] = None,
    ) -> AsyncIterator[_Watch]:
        # Subscribe before the snapshot, so that no event in between is lost.
        events = queue.events.subscribe(item_id, last_event_id)
        try:
            yield _Watch(events, take(item_id))
        finally:
            events.close()

    async def events(
        item_id: Id, take: Take, watch: Annotated[_Watch, Depends(subscribed)]
    ) -> AsyncIterator[ServerSentEvent]:
        async for event in _stream(watch, lambda: take(item_id)):
            yield event

    stream = {"description": about, "content": {"text/event-stream": {"schema": {"type": "string"}}}}
    router.get(
        path,
        response_class=EventSourceResponse,
        responses={200: stream, **absent},
        summary=f"Watch a {kind} (Server-Sent Events)",
        description=f"Starts with the {kind}'s current state, or after the event that `Last-Event-ID` names, and ends after "
        "its last state.",
    )(events)
