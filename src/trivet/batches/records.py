"""A batch and its lines as values."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from trivet.domain.scopes import Scope

OPEN = ("queued", "in_progress", "cancelling")
"""The statuses of a batch that has not ended."""
STATES = {
    "waiting": "waiting",
    "running": "in_progress",
    "completed": "completed",
    "failed": "failed",
    "abandoned": "abandoned",
}
"""What the states of lines are called in the counts: abandoned ones were cancelled, or came too late."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LineOrder:
    """One request that is to be run."""

    number: int
    """Of its line in the file, from 1."""
    custom_id: str
    """What its caller calls it; once in a batch."""
    url: str
    """The route that it is for."""
    body: str
    """The request as JSON, already checked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitingLine:
    """A request of a batch that has not ended."""

    batch_id: str
    number: int
    url: str
    body: str
    tries: int
    """How often it was begun before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What became of one request."""

    number: int
    custom_id: str
    request_id: str | None
    status_code: int | None
    """The HTTP status with which it would have been answered; None: it was never run."""
    answer: str
    """JSON: the answer, or the error in OpenAI's shape; of a line that was never run its code and message."""

    def as_jsonl(self) -> str:
        """Return it as a line of OpenAI's output files."""
        line: dict[str, Any] = {"id": f"line_{self.number}", "custom_id": self.custom_id}
        if self.status_code is None:
            return json.dumps(line | {"response": None, "error": json.loads(self.answer)}) + "\n"
        head = json.dumps(line)[:-1]
        about = json.dumps({"status_code": self.status_code, "request_id": self.request_id})[:-1]
        # The answer's own bytes: what the engine wrote is not read and written anew.
        return f'{head}, "response": {about}, "body": {self.answer}}}, "error": null}}\n'


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """A batch, and how far it has come."""

    batch_id: str
    scope: Scope
    """To whom it belongs, and whom its requests are charged to."""
    key_id: str
    """As whose key's requests they run: what ends the key ends them."""
    label: str
    status: str
    """`queued`, `in_progress`, `cancelling`, then `completed`, `cancelled` or `expired`."""
    total: int
    created_at: datetime
    deadline_at: datetime
    """What has not begun by then is given up."""
    started_at: datetime | None = None
    ended_at: datetime | None = None
    kept_until: datetime | None = None
    """Then it is removed with its results."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """Lines by state, as STATES calls them."""
    deployments: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """The same by the deployment that was chosen, or that answered; without those not decided yet."""

    @property
    def is_open(self) -> bool:
        """Tell whether it has not ended."""
        return self.status in OPEN

    def as_json(self) -> dict[str, Any]:
        """Return it as the API and the CLI show it."""
        return {
            "id": self.batch_id,
            "object": "batch",
            "status": self.status,
            "scope": self.scope,
            "key_id": self.key_id,
            "label": self.label,
            "counts": {"total": self.total, **{name: self.counts.get(name, 0) for name in STATES.values()}},
            "deployments": {
                name: {state: counts.get(state, 0) for state in STATES.values()}
                for name, counts in sorted(self.deployments.items())
            },
            "created_at": self.created_at.isoformat(),
            "deadline_at": self.deadline_at.isoformat(),
            "started_at": _iso(self.started_at),
            "ended_at": _iso(self.ended_at),
            "results_kept_until": _iso(self.kept_until),
        }


def _iso(instant: datetime | None) -> str | None:
    return None if instant is None else instant.isoformat()
