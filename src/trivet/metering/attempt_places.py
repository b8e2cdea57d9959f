"""Where attempts are told: who served a request in the request's row, all others in rows of their own."""

from typing import NamedTuple

from sqlalchemy import ColumnElement, FromClause, true

from trivet.storage.schema import attempts, outcomes


class Place(NamedTuple):
    """The columns of attempts, by the names that they have in the table of them."""

    table: FromClause
    """Where they are told."""
    joined: FromClause
    """The same with the requests, if they are not there anyway."""
    is_told: ColumnElement[bool]
    """Whether there is an attempt in a row."""
    tier: ColumnElement[str]
    deployment: ColumnElement[str]
    model: ColumnElement[str]
    devices: ColumnElement[str]
    gpu: ColumnElement[bool]
    dispatched_ns: ColumnElement[int]
    ended_ns: ColumnElement[int]
    device_ns: ColumnElement[int]
    prompt_tokens: ColumnElement[int]
    completion_tokens: ColumnElement[int]
    status: ColumnElement[str]


PLACES = (
    Place(
        outcomes,
        outcomes,
        outcomes.c.dispatched_ns.is_not(None),
        outcomes.c.tier,
        outcomes.c.deployment,
        outcomes.c.model,
        outcomes.c.devices,
        outcomes.c.gpu,
        outcomes.c.dispatched_ns,
        outcomes.c.served_ns,
        outcomes.c.device_ns,
        outcomes.c.engine_prompt_tokens,
        outcomes.c.engine_completion_tokens,
        outcomes.c.status,
    ),
    Place(
        attempts,
        attempts.join(outcomes),
        true(),
        attempts.c.tier,
        attempts.c.deployment,
        attempts.c.model,
        attempts.c.devices,
        attempts.c.gpu,
        attempts.c.dispatched_ns,
        attempts.c.ended_ns,
        attempts.c.device_ns,
        attempts.c.prompt_tokens,
        attempts.c.completion_tokens,
        attempts.c.status,
    ),
)
