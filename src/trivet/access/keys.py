"""API keys: made once, shown once, stored only as a digest, looked up in memory."""

import hmac
import json
import threading
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Row, insert, select, update

from trivet.access.key_text import key_id_of, new_key, new_key_id
from trivet.access.pepper import load_pepper
from trivet.access.permissions import ROLES
from trivet.config.settings import AccessSettings
from trivet.domain.clock import Clock
from trivet.domain.errors import ConfigError, KeyInvalid, KeyMissing, NotFound, RequestMalformed
from trivet.domain.requests import Principal
from trivet.domain.scopes import Scope
from trivet.storage.database import Database
from trivet.storage.instants import instant_of, ns_of
from trivet.storage.schema import api_keys, meta

_PEPPER_CHECK = "pepper_check"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRecord:
    """What is known about a key. The secret is not in it; the digest is never shown."""

    key_id: str
    scope: Scope
    role: str
    tiers: tuple[str, ...] = ()
    """Tiers that it may use; empty means all."""
    models: tuple[str, ...] = ()
    """Deployments that it may use; empty means all."""
    label: str = ""
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    digest: str = field(repr=False)
    principal: Principal = field(repr=False)

    def as_json(self) -> dict[str, Any]:
        """Return the record as the API and the CLI show it."""
        return {
            "key_id": self.key_id,
            "scope": self.scope,
            "role": self.role,
            "tiers": list(self.tiers),
            "models": list(self.models),
            "label": self.label,
            "created_at": self.created_at.isoformat(),
            "expires_at": self.expires_at.isoformat() if self.expires_at else None,
            "revoked_at": self.revoked_at.isoformat() if self.revoked_at else None,
        }


class Keyring:
    """All keys of the installation. `authenticate` needs no I/O; the rest blocks. Usable from any thread."""

    def __init__(
        self, database: Database, settings: AccessSettings, store_path: Path | None, clock: Clock
    ) -> None:
        """Load the keys and the pepper; a pepper is made beside the store if there is none.

        Raises:
            ConfigError: the pepper cannot be used, or is not the one that the stored keys were made with.
        """
        self._database = database
        self._clock = clock
        self._pepper = load_pepper(settings, store_path)
        self._index = database.read(_load)
        self._changing = threading.Lock()
        self._check_pepper()
        # What an unknown id is compared with, so that it takes as long as a known one.
        self._nobody = self._digest("nobody")

    def create(
        self,
        scope: Scope,
        *,
        role: str = "tenant",
        tiers: tuple[str, ...] = (),
        models: tuple[str, ...] = (),
        label: str = "",
        expires_at: datetime | None = None,
    ) -> tuple[str, KeyRecord]:
        """Make a key; return its text, which is not kept anywhere, and its record.

        Raises:
            RequestMalformed: the role is unknown, or `expires_at` has no time zone.
            StoreUnavailable: it could not be stored.
        """
        if role not in ROLES:
            raise RequestMalformed(
                f"{role[:40]!r} is not a role.", hint=f"Use {' or '.join(ROLES)}.", param="role"
            )
        if expires_at is not None and expires_at.tzinfo is None:
            raise RequestMalformed("expires_at has no time zone.", param="expires_at")
        with self._changing:
            key_id = new_key_id()
            while key_id in self._index:
                key_id = new_key_id()
            text = new_key(key_id)
            values = {
                "key_id": key_id,
                "digest": self._digest(text),
                "scope": scope,
                "role": role,
                "tiers": json.dumps(tiers),
                "models": json.dumps(models),
                "label": label,
                "created_ns": ns_of(self._clock.now()),
                "expires_ns": None if expires_at is None else ns_of(expires_at),
                "revoked_ns": None,
            }
            record = self._database.transact(lambda connection: _insert(connection, values)).result()
            self._index = {**self._index, key_id: record}
        return text, record

    def authenticate(self, text: str | None) -> Principal:
        """Return who holds this key. Never says which part of a wrong key was right, nor repeats it.

        Raises:
            KeyMissing: there is no key.
            KeyInvalid: it is malformed, unknown, revoked or expired.
        """
        if not text:
            raise KeyMissing(
                "No API key was sent.",
                hint="Send `Authorization: Bearer tvt_...`; `trivet keys create` makes a key.",
            )
        key_id = key_id_of(text)
        if key_id is None:
            raise KeyInvalid(
                "This is not a whole Trivet API key.",
                hint="Copy it again: it begins with tvt_ and has 62 characters.",
            )
        record = self._index.get(key_id)
        expected = self._nobody if record is None else record.digest
        if not hmac.compare_digest(self._digest(text), expected) or record is None:
            raise KeyInvalid("This API key is not known here.", hint="`trivet keys create` makes a key.")
        if record.revoked_at is not None:
            raise KeyInvalid(f"The API key {key_id} was revoked.", hint="Ask for a new one.")
        if record.expires_at is not None and record.expires_at <= self._clock.now():
            raise KeyInvalid(
                f"The API key {key_id} expired at {record.expires_at.isoformat()}.", hint="Ask for a new one."
            )
        return record.principal

    def revoke(self, key_id: str) -> None:
        """Make a key worthless at once; revoking again changes nothing.

        Raises:
            NotFound: there is no such key.
        """
        with self._changing:
            record = self._index.get(key_id)
            if record is None:
                raise NotFound(f"There is no key {key_id[:40]!r}.", param="key_id")
            if record.revoked_at is None:
                now_ns = ns_of(self._clock.now())
                revoked = self._database.transact(
                    lambda connection: _revoke(connection, key_id, now_ns)
                ).result()
                self._index = {**self._index, key_id: revoked}

    def refresh(self) -> None:
        """Read all keys anew: another replica may have made or revoked some."""
        with self._changing:
            self._index = self._database.read(_load)

    def records(self) -> list[KeyRecord]:
        """Return all keys ever made, the oldest first."""
        return sorted(self._index.values(), key=lambda record: (record.created_at, record.key_id))

    def is_empty(self) -> bool:
        """Tell whether no key was ever made."""
        return not self._index

    def _digest(self, text: str) -> str:
        return hmac.digest(self._pepper, text.encode(), "sha256").hex()

    def _check_pepper(self) -> None:
        """Refuse a pepper that would silently make every stored key unknown."""
        check = self._digest(_PEPPER_CHECK)
        stored = self._database.read(
            lambda connection: connection.scalar(select(meta.c.value).where(meta.c.key == _PEPPER_CHECK))
        )
        if stored == check:
            return
        if self._index:
            raise ConfigError(
                "The pepper is not the one that the stored API keys were made with: none of them would work.",
                hint="Restore access.pepper, or the file `pepper` beside the store.",
                param="access.pepper",
            )
        self._database.transact(lambda connection: _set_meta(connection, _PEPPER_CHECK, check)).result()


def _load(connection: Connection) -> dict[str, KeyRecord]:
    return {row.key_id: _record(row) for row in connection.execute(select(api_keys))}


def _insert(connection: Connection, values: dict[str, Any]) -> KeyRecord:
    connection.execute(insert(api_keys).values(values))
    return _fetch(connection, values["key_id"])


def _revoke(connection: Connection, key_id: str, now_ns: int) -> KeyRecord:
    connection.execute(update(api_keys).where(api_keys.c.key_id == key_id).values(revoked_ns=now_ns))
    return _fetch(connection, key_id)


def _set_meta(connection: Connection, key: str, value: str) -> None:
    if not connection.execute(update(meta).where(meta.c.key == key).values(value=value)).rowcount:
        connection.execute(insert(meta).values(key=key, value=value))


def _fetch(connection: Connection, key_id: str) -> KeyRecord:
    return _record(connection.execute(select(api_keys).where(api_keys.c.key_id == key_id)).one())


def _record(row: Row[Any]) -> KeyRecord:
    tiers, models = tuple(json.loads(row.tiers)), tuple(json.loads(row.models))
    return KeyRecord(
        key_id=row.key_id,
        scope=Scope(row.scope),
        role=row.role,
        tiers=tiers,
        models=models,
        label=row.label,
        created_at=instant_of(row.created_ns),
        expires_at=None if row.expires_ns is None else instant_of(row.expires_ns),
        revoked_at=None if row.revoked_ns is None else instant_of(row.revoked_ns),
        digest=row.digest,
        principal=Principal(
            key_id=row.key_id,
            scope=Scope(row.scope),
            role=row.role,
            tiers=frozenset(tiers),
            models=frozenset(models),
        ),
    )
