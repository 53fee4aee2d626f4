"""Server-Sent Events of a job or a conversion: its state, each progress, and each new state until it ends."""

# Annotations are evaluated here, not deferred: FastAPI could not resolve those that name a parameter of the enclosing function.

from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Path
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import BaseModel

from server.api.dependencies import Answers, Queue
from server.errors import ApiError
from server.events import Subscription


@dataclass(frozen=True)
class Snapshot:
    """The present state of what is watched, as its own route answers it, and whether it may still change."""

    body: BaseModel
    is_open: bool


#: Takes a snapshot of what has this id; raises ApiError if there is nothing.
TakeSnapshot = Callable[[str], Snapshot]


@dataclass(frozen=True)
class _Watch:
    events: Subscription
    first: Snapshot


async def _stream(watch: _Watch, take: Callable[[], Snapshot]) -> AsyncIterator[ServerSentEvent]:
    """Begin with the present state, unless the subscription resumes after an event; end after the last state."""
    now = watch.first
    # It may have ended after the subscription began: no event is read then.
    if not (watch.events.is_complete and now.is_open):
        yield _state(now, watch.events.start)
    while now.is_open:
        event = await anext(watch.events, None)
        if event is None:
            return
        if event.kind != "state":
            yield ServerSentEvent(event=event.kind, data=event.data, id=str(event.id))
            continue
        try:
            now = take()
        except ApiError:  # deleted since the event
            return
        yield _state(now, event.id)


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
    """Add the route that watches the ``kind`` (job, conversion) whose id is the path's ``{kind}_id``.

    snapshots: a dependency, which returns what takes the snapshots.
    about: describes the events. absent: the answers where there is nothing to watch.
    """

    Id = Annotated[str, Path(alias=f"{kind}_id")]
    Take = Annotated[TakeSnapshot, Depends(snapshots)]

    async def subscribed(
        queue: Queue,
        item_id: Id,
        take: Take,
        last_event_id: Annotated[
            int | None, Header(description="The id of the last event received; the later ones are sent first")
        ] = None,
    ) -> AsyncIterator[_Watch]:
        # Before the snapshot: an event in between is then not lost.
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
        description=f"Begins with the {kind}'s present state, or after the event that `Last-Event-ID` names, and ends after "
        "its last state.",
    )(events)
