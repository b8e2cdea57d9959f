"""What is kept of API keys: rows of the table `api_keys`, as values."""

import json
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, insert, select, update

from trivet.domain.budgets import Priority
from trivet.domain.requests import Principal, Role
from trivet.domain.scopes import Scope
from trivet.storage.instants import instant_of
from trivet.storage.schema import api_keys, key_uses, meta


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRecord:
    """What is known about a key. The secret is not in it; the digest is never shown."""

    key_id: str
    scope: Scope
    role: Role
    priority: Priority = "interactive"
    """Of its requests; they may lower it."""
    tiers: tuple[str, ...] = ()
    """Tiers that it may use; empty means all."""
    models: tuple[str, ...] = ()
    """Deployments that it may use; empty means all."""
    label: str = ""
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    replaces: str | None = None
    """The key that this one follows in a rotation."""
    last_used_at: datetime | None = None
    """Written down once a minute."""
    digest: str = field(repr=False)
    principal: Principal = field(repr=False)

    def as_json(self) -> dict[str, Any]:
        """Return the record as the API and the CLI show it."""
        return {
            "key_id": self.key_id,
            "scope": self.scope,
            "role": self.role,
            "priority": self.priority,
            "tiers": list(self.tiers),
            "models": list(self.models),
            "label": self.label,
            "created_at": self.created_at.isoformat(),
            "expires_at": _iso(self.expires_at),
            "revoked_at": _iso(self.revoked_at),
            "replaces": self.replaces,
            "last_used_at": _iso(self.last_used_at),
        }


_RECORDS = select(api_keys, key_uses.c.at_ns.label("used_ns")).outerjoin(
    key_uses, key_uses.c.key_id == api_keys.c.key_id
)


def load(connection: Connection) -> dict[str, KeyRecord]:
    """Return every record by its key's id."""
    return {row.key_id: _record(row) for row in connection.execute(_RECORDS)}


def put(connection: Connection, values: dict[str, Any]) -> KeyRecord:
    """Enter a key."""
    connection.execute(insert(api_keys).values(values))
    return _fetch(connection, values["key_id"])


def change(connection: Connection, key_id: str, values: dict[str, Any]) -> KeyRecord:
    """Change columns of a key."""
    connection.execute(update(api_keys).where(api_keys.c.key_id == key_id).values(values))
    return _fetch(connection, key_id)


def mark_used(connection: Connection, used_ns: dict[str, int]) -> None:
    """Write down when keys were last used, unless a later use is known."""
    for key_id, at_ns in used_ns.items():
        known = connection.scalar(select(key_uses.c.at_ns).where(key_uses.c.key_id == key_id))
        if known is None:
            connection.execute(insert(key_uses).values(key_id=key_id, at_ns=at_ns))
        elif known < at_ns:
            connection.execute(update(key_uses).where(key_uses.c.key_id == key_id).values(at_ns=at_ns))


def get_meta(connection: Connection, key: str) -> str | None:
    """Return a fact about the whole store."""
    return connection.scalar(select(meta.c.value).where(meta.c.key == key))


def set_meta(connection: Connection, key: str, value: str) -> None:
    """Keep a fact about the whole store."""
    if not connection.execute(update(meta).where(meta.c.key == key).values(value=value)).rowcount:
        connection.execute(insert(meta).values(key=key, value=value))


def _fetch(connection: Connection, key_id: str) -> KeyRecord:
    return _record(connection.execute(_RECORDS.where(api_keys.c.key_id == key_id)).one())


def _record(row: Row[Any]) -> KeyRecord:
    tiers, models = tuple(json.loads(row.tiers)), tuple(json.loads(row.models))
    return KeyRecord(
        key_id=row.key_id,
        scope=Scope(row.scope),
        role=row.role,
        priority=row.priority,
        tiers=tiers,
        models=models,
        label=row.label,
        created_at=instant_of(row.created_ns),
        expires_at=_instant(row.expires_ns),
        revoked_at=_instant(row.revoked_ns),
        replaces=row.replaces,
        last_used_at=_instant(row.used_ns),
        digest=row.digest,
        principal=Principal(
            key_id=row.key_id,
            scope=Scope(row.scope),
            role=row.role,
            tiers=frozenset(tiers),
            models=frozenset(models),
            priority=row.priority,
        ),
    )


def _instant(ns: int | None) -> datetime | None:
    return None if ns is None else instant_of(ns)


def _iso(instant: datetime | None) -> str | None:
    return instant.isoformat() if instant else None
