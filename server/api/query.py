"""Refuses what a query has beyond its call's parameters: nothing that a client sends is dropped without a word."""

from __future__ import annotations

from collections import Counter

from fastapi import Request

from server.errors import ApiError, quoted


async def check_query(request: Request) -> None:
    """Raise ApiError if the query has a parameter that the call does not have, or has one twice that is not a list.

    Every call depends on it, but those of dialects whose clients send more. The OpenAPI document says which parameters a call has.
    """
    sent = Counter(name for name, _ in request.query_params.multi_items())
    if not sent:
        return
    call = request.app.openapi()["paths"][request.scope["route"].path][request.method.lower()]
    schemas = {each["name"]: each["schema"] for each in call.get("parameters", ()) if each["in"] == "query"}
    accepted = ", ".join(schemas) or "none"
    if "requestBody" in call:
        accepted += "; fields are sent in the body"
    for name, times in sent.items():
        shown = quoted(name)[1:-1]
        if name not in schemas:
            message = f"{shown} is not a parameter of this call's query; accepted: {accepted}"
            raise ApiError(422, "unknown_field", message, field=shown, accepted=accepted)
        if times > 1 and all(kind.get("type") != "array" for kind in schemas[name].get("anyOf", [schemas[name]])):
            message = f"{shown} is in the query more than once; accepted: once"
            raise ApiError(422, "repeated_field", message, field=shown, accepted="once")
