"""Entries of the ledger: append-only, each with the hash of the one before it in its organisation."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal, NamedTuple

from trivet.domain.budgets import Amounts
from trivet.domain.outcomes import AttemptCharge, Usage
from trivet.domain.scopes import Scope, organisation

EntryKind = Literal[
    "reserve",
    "reweight",
    "attempt",
    "settle",
    "release",
    "expire",
    "correct",
    "record",
    "open",
    "limit",
    "zone",
    "override",
    "key",
]

FIRST_HASH = "0" * 64
"""What stands for the entry before an organisation's first."""
_JOINED = "\x1f".join(("%s",) * 16)
"""Joins a hash and an entry's fields: in half the time of `str` and `join`."""

NOTHING = Amounts()

_encode = json.JSONEncoder(separators=(",", ":"), sort_keys=True).encode


class Entry(NamedTuple):
    """One change. `used` and `held` are added to every one of `rows`, by its meter.

    `rows` and `detail` are JSON texts. A tuple, because two are made for every request.
    """

    at_ns: int
    kind: EntryKind
    scope: Scope
    reservation_id: str | None = None
    used: Amounts = NOTHING
    held: Amounts = NOTHING
    overrun: int = 0
    rows: str = "[]"
    detail: str = "{}"
    note: str = ""

    def fields(self) -> tuple[Any, ...]:
        """Return the entry's columns in the order of the table, between `seq` and `prev_hash`."""
        used, held = self.used, self.held
        return (
            organisation(self.scope),
            self.at_ns,
            self.kind,
            self.reservation_id,
            self.scope,
            used.tokens,
            used.weighted_tokens,
            used.usd_micros,
            held.tokens,
            held.weighted_tokens,
            held.usd_micros,
            self.overrun,
            self.rows,
            self.detail,
            self.note,
        )


def chained(previous: str, fields: Sequence[Any]) -> str:
    """Return SHA-256 of the previous hash and the entry's fields, as text joined by U+001F; NULL is empty.

    Any store can compute it. Only the last field, the note, may hold that character itself.
    """
    if None in fields:
        fields = ["" if field is None else field for field in fields]
    text = _JOINED % (previous, *fields)
    return hashlib.sha256(text.encode()).hexdigest()


def digits(stored: str | bytes) -> str:
    """Return an entry's hash in hex, in which it is chained; SQLite keeps its bytes, half as many."""
    return stored.hex() if isinstance(stored, bytes) else stored


def as_detail(facts: Mapping[str, Any]) -> str:
    """Return facts as the JSON object of an entry's `detail`."""
    return _encode(facts)


def usage_detail(usage: Usage) -> str:
    """Return what the entry of a settlement says of the usage; the same as `as_detail` would."""
    return (
        f'{{"cached_tokens":{usage.cached_tokens:d},"completion_tokens":{usage.completion_tokens:d}'
        f',"prompt_tokens":{usage.prompt_tokens:d},"source":{quoted(usage.source)}}}'
    )


def sum_of(attempts: Iterable[AttemptCharge]) -> Amounts:
    """Return what several attempts owe."""
    return sum((attempt.charged for attempt in attempts), NOTHING)


def attempt_detail(attempt: AttemptCharge) -> str:
    """Return what the entry of an attempt says of it."""
    usage = attempt.usage
    return as_detail(
        {
            "attempt_id": attempt.attempt_id,
            "deployment": attempt.deployment,
            "tier": attempt.tier,
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "cached_tokens": usage.cached_tokens,
            "source": usage.source,
        }
    )


@lru_cache(maxsize=1024)
def quoted(text: str) -> str:
    """Return a text as JSON."""
    return json.dumps(text)
