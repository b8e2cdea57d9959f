"""A batch of operations as the arguments of one function call, and the answers back. Pure."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from trivet.budgets.ladder import Ladder
from trivet.budgets.postgres_operations import Operation
from trivet.budgets.rows import Cap, RowKey, rows_from_text
from trivet.domain.budgets import METERS, NEVER_S, WINDOW_KINDS, Meter
from trivet.domain.scopes import Scope, organisation

NEVER_NS = NEVER_S * 1_000_000_000
_LARGEST = 2**63 - 1
_METER_NUMBER: dict[Meter, int] = {meter: number for number, meter in enumerate(METERS, start=1)}


@dataclass(frozen=True, slots=True)
class Standing:
    """What a caller's plans for one organisation rest on: the version of its rules, the open windows."""

    version: int
    windows: str
    """As `ledger_heads.windows`."""


@dataclass(slots=True)
class Batch:
    """What one call is told. Every operation is added with the rows it touches."""

    owner: str
    ladder: Ladder
    first: bool
    """Whether each closing is taken for the first end of its hold; if not, the call fails as a whole."""
    organisations: dict[Scope, Standing] = field(default_factory=dict)
    counters: dict[tuple[Any, ...], int] = field(default_factory=dict)
    ends: list[int] = field(default_factory=list)
    plans: dict[tuple[Any, ...], int] = field(default_factory=dict)
    texts: list[str] = field(default_factory=list)
    untils: list[int] = field(default_factory=list)
    row_from: list[int] = field(default_factory=lambda: [1])
    rows: list[int] = field(default_factory=list)
    cap_from: list[int] = field(default_factory=lambda: [1])
    caps: list[tuple[int, int, bool, int, int, int]] = field(default_factory=list)
    """Place, meter, whether of a calendar window, limit, what overrides add, what is for critical ones."""
    operations: list[tuple[Operation, int]] = field(default_factory=list)

    def add(
        self,
        operation: Operation,
        scope: Scope,
        standing: Standing,
        text: str,
        caps: Sequence[Cap],
        until_ns: int = NEVER_NS,
    ) -> None:
        """Add an operation.

        Args:
            operation: it.
            scope: whose it is.
            standing: of the scope's organisation.
            text: its rows, as they are stored.
            caps: what bounds them.
            until_ns: when the caps end.
        """
        operation.scope = operation.scope or scope
        operation.caps = tuple(caps)
        self.organisations[organisation(scope)] = standing
        # Caps are remembered, so those of like operations are one object; to hash them all would take longer.
        name = (text, id(operation.caps), until_ns)
        plan = self.plans.get(name)
        if plan is None:
            plan = self.plans[name] = len(self.texts) + 1
            self._plan(text, operation.caps, until_ns)
        self.operations.append((operation, plan))

    def arguments(self, at_ns: int | None, thresholds: Sequence[int]) -> list[Any]:
        """Return the arguments of the call."""
        names = sorted(self.organisations)
        number = {name: place for place, name in enumerate(names, start=1)}
        heads = [
            {
                "organisation": name,
                "version": self.organisations[name].version,
                "windows": self.organisations[name].windows,
            }
            for name in names
        ]
        sent = [
            {
                "n": n,
                "org": number[organisation(operation.scope or Scope(""))],
                "plan": plan,
                **operation.as_json(self.ladder, first=self.first and operation.beside is not None),
            }
            for n, (operation, plan) in enumerate(self.operations)
        ]
        keys = list(self.counters)
        caps = list(zip(*self.caps, strict=True)) or [()] * 6
        return [
            at_ns,
            self.owner,
            json.dumps(heads),
            *(texts_as_array([key[part] for key in keys]) for part in range(4)),
            as_array([key[4] for key in keys]),
            as_array(self.ends),
            texts_as_array(self.texts),
            as_array(self.untils),
            as_array(self.row_from),
            as_array(self.rows),
            as_array(self.cap_from),
            *(as_array(part) for part in caps),
            json.dumps(sent),
            as_array(thresholds),
        ]

    def _plan(self, text: str, caps: Sequence[Cap], until_ns: int) -> None:
        self.texts.append(text)
        self.untils.append(min(until_ns, _LARGEST))
        self.rows += [self._place(key) for key in rows_from_text(text)]
        self.row_from.append(len(self.rows) + 1)
        for cap in caps:
            key = cap.key
            place = 0 if key.window == "request" else self._place(key)
            calendar = key.window in WINDOW_KINDS
            self.caps.append(
                (place, _METER_NUMBER[key.meter], calendar, cap.limit, cap.granted, cap.critical)
            )
        self.cap_from.append(len(self.caps) + 1)

    def _place(self, key: RowKey) -> int:
        name = key[:5]
        place = self.counters.get(name)
        if place is None:
            place = self.counters[name] = len(self.counters) + 1
            self.ends.append(key.end_s)
        return place


ARGUMENTS = (
    "%s::bigint, %s, %s::jsonb, %s::text[], %s::text[], %s::text[], %s::text[], %s::bigint[], %s::bigint[],"
    " %s::text[], %s::bigint[], %s::int[], %s::int[], %s::int[], %s::int[], %s::int[], %s::boolean[],"
    " %s::bigint[], %s::bigint[], %s::bigint[], %s::jsonb, %s::int[]"
)
"""How `Batch.arguments` are handed over: arrays as text, which is quicker to make and to read."""


def as_array(values: Iterable[int]) -> str:
    """Return numbers as PostgreSQL writes an array."""
    return "{" + ",".join(map(str, values)) + "}"


def texts_as_array(texts: Iterable[str]) -> str:
    """Return texts as PostgreSQL writes an array."""
    quoted = (text.replace("\\", "\\\\").replace('"', '\\"') for text in texts)
    return "{" + ",".join(f'"{text}"' for text in quoted) + "}"


def windows_as_text(windows: Mapping[Any, tuple[int, int]]) -> str:
    """Return the windows of an organisation as `ledger_heads` keeps them."""
    bounds = [bound for kind in WINDOW_KINDS for bound in windows[kind]]
    return "{" + ",".join(map(str, bounds)) + "}"


def windows_from_text(text: str) -> dict[Any, tuple[int, int]]:
    """Return what `windows_as_text` made."""
    bounds = [int(part) for part in text.strip("{}").split(",")]
    return {kind: (bounds[2 * n], bounds[2 * n + 1]) for n, kind in enumerate(WINDOW_KINDS)}
