"""API keys: made once, shown once, stored only as a digest, looked up in memory."""

import hmac
import json
import secrets
import threading
from dataclasses import replace
from datetime import datetime, timedelta
from hashlib import blake2b
from pathlib import Path
from typing import Any

from trivet.access import key_records
from trivet.access.hmac_sha256 import Hmac
from trivet.access.key_records import KeyRecord
from trivet.access.key_text import claimed_id, key_id_of, new_key, new_key_id
from trivet.access.pepper import load_pepper
from trivet.access.permissions import ROLES
from trivet.config.settings import AccessSettings
from trivet.domain.budgets import PRIORITIES
from trivet.domain.clock import Clock
from trivet.domain.errors import ConfigError, KeyInvalid, KeyMissing, NotFound, RequestMalformed
from trivet.domain.requests import Principal
from trivet.domain.scopes import Scope, parse_scope
from trivet.storage.database import Database
from trivet.storage.instants import instant_of, ns_of

__all__ = ["KeyRecord", "Keyring"]

_PEPPER_CHECK = "pepper_check"
_MARK_BYTES = 32
_UNKNOWN = ("", "")
OWN_SCOPE_PREFIX = "key-"
"""The last slug of the scope of a key that has one of its own is this and the key's id."""


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
        self._hmac = Hmac(load_pepper(settings, store_path))
        self._index = database.read(key_records.load)
        self._used_ns: dict[str, int] = {}
        # Of keys that were right: the digest that they were found by, under a mark that takes less to make
        # and that nobody outside this process can make.
        self._recognised: dict[bytes, tuple[str, str]] = {}
        self._marking = secrets.token_bytes(_MARK_BYTES)
        self._changing = threading.Lock()
        self._check_pepper()
        # What an unknown id is compared with, so that it takes as long as a known one.
        self._nobody = self._digest("nobody")

    def create(
        self,
        scope: Scope,
        *,
        role: str = "tenant",
        priority: str = "interactive",
        own_scope: bool = False,
        tiers: tuple[str, ...] = (),
        models: tuple[str, ...] = (),
        label: str = "",
        expires_at: datetime | None = None,
        key_id: str | None = None,
    ) -> tuple[str, KeyRecord]:
        """Make a key; return its text, which is not kept anywhere, and its record.

        Args:
            scope: whom its requests are charged to, and with it all above.
            role: one of ROLES.
            priority: of its requests.
            own_scope: whether it is charged to a scope of its own, right below, which can have limits.
            tiers: those that it may use; none: all.
            models: the deployments that it may use; none: all.
            label: a note.
            expires_at: aware; None: never.
            key_id: one that `free_id` gave; None: a new one.

        Raises:
            RequestMalformed: the role or the priority is unknown, `expires_at` has no time zone, or there is
                no room for a scope below.
            StoreUnavailable: it could not be stored.
        """
        self.check(scope, role=role, priority=priority, own_scope=own_scope)
        if expires_at is not None and expires_at.tzinfo is None:
            raise RequestMalformed("expires_at has no time zone.", param="expires_at")
        values = {
            "role": role,
            "priority": priority,
            "tiers": json.dumps(tiers),
            "models": json.dumps(models),
            "label": label,
            "expires_ns": None if expires_at is None else ns_of(expires_at),
            "replaces": None,
        }
        with self._changing:
            return self._make(scope, values, own_scope=own_scope, key_id=key_id)

    def check(self, scope: Scope, *, role: str, priority: str, own_scope: bool) -> None:
        """Refuse what `create` would refuse.

        Raises:
            RequestMalformed: the role or the priority is unknown, or there is no room for a scope below.
        """
        if role not in ROLES:
            raise RequestMalformed(
                f"{role[:40]!r} is not a role.", hint=f"Use {', '.join(ROLES)}.", param="role"
            )
        _checked_priority(priority)
        if own_scope:
            parse_scope(f"{scope}.{OWN_SCOPE_PREFIX}{new_key_id()}")

    def free_id(self) -> str:
        """Return an id that no key has."""
        key_id = new_key_id()
        while key_id in self._index:
            key_id = new_key_id()
        return key_id

    def rotate(self, key_id: str, *, overlap: timedelta, new_id: str | None = None) -> tuple[str, KeyRecord]:
        """Make a key that may do what another may, and let that one live for the overlap only.

        Both are charged to the same scope. `new_id`: one that `free_id` gave; None: a new one.

        Raises:
            NotFound: there is no such key.
            RequestMalformed: it has ended, or has a successor already.
        """
        with self._changing:
            old, now = self.check_rotation(key_id), self._clock.now()
            values = {
                "role": old.role,
                "priority": old.priority,
                "tiers": json.dumps(old.tiers),
                "models": json.dumps(old.models),
                "label": old.label,
                "expires_ns": None if old.expires_at is None else ns_of(old.expires_at),
                "replaces": key_id,
            }
            made = self._make(old.scope, values, key_id=new_id)
            end_ns = ns_of(now + overlap)
            if old.expires_at is None or ns_of(old.expires_at) > end_ns:
                self._change(key_id, {"expires_ns": end_ns})
            return made

    def check_rotation(self, key_id: str) -> KeyRecord:
        """Return the record of a key that may be rotated.

        Raises:
            NotFound, RequestMalformed: see `rotate`.
        """
        old = self.record(key_id)
        following = next((r.key_id for r in self._index.values() if r.replaces == key_id), None)
        if following is not None:
            raise RequestMalformed(
                f"The key {key_id} is followed by {following} already.", hint=f"Rotate {following}."
            )
        if old.revoked_at is not None or (old.expires_at is not None and old.expires_at <= self._clock.now()):
            raise RequestMalformed(f"The key {key_id} has ended.", hint="Make a new one.")
        return old

    def origin(self, key_id: str) -> str:
        """Return the first of the keys that this one, or a name that is no key's, is the successor of.

        Whoever holds a key holds those that follow it.
        """
        record = self._index.get(key_id)
        while record is not None and record.replaces is not None:
            key_id = record.replaces
            record = self._index.get(key_id)
        return key_id

    def change(self, key_id: str, *, priority: str | None = None, label: str | None = None) -> KeyRecord:
        """Change a key's priority or its label; what is None stays.

        Raises:
            NotFound: there is no such key.
            RequestMalformed: the priority is unknown.
        """
        values: dict[str, Any] = {} if label is None else {"label": label}
        if priority is not None:
            values["priority"] = _checked_priority(priority)
        with self._changing:
            record = self.record(key_id)
            return self._change(key_id, values) if values else record

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
        mark = blake2b(
            text.encode("utf-8", "surrogatepass"), key=self._marking, digest_size=_MARK_BYTES
        ).digest()
        known_id, known_digest = self._recognised.get(mark, _UNKNOWN)
        record = self._index.get(known_id)
        if record is not None and record.digest == known_digest:
            return self._used(record)
        claimed = claimed_id(text)
        if claimed is not None:
            record = self._index.get(claimed)
            expected = self._nobody if record is None else record.digest
            if hmac.compare_digest(self._digest(text), expected) and record is not None:
                self._recognised[mark] = claimed, record.digest
                return self._used(record)
        # That a key is right its digest shows; what is wrong with one, its checksum.
        if key_id_of(text) is None:
            raise KeyInvalid(
                "This is not a whole Trivet API key.",
                hint="Copy it again: it begins with tvt_ and has 62 characters.",
            )
        raise KeyInvalid("This API key is not known here.", hint="`trivet keys create` makes a key.")

    def principal_of(self, key_id: str) -> Principal:
        """Return who holds the key of this id, for work that it ordered earlier; this is a use of it.

        Raises:
            KeyInvalid: it is unknown, revoked or expired.
        """
        record = self._index.get(key_id)
        if record is None:
            raise KeyInvalid("This API key is not known here.", hint="Ask for a new one.")
        return self._used(record)

    def _used(self, record: KeyRecord) -> Principal:
        key_id = record.key_id
        if record.revoked_at is not None:
            raise KeyInvalid(f"The API key {key_id} was revoked.", hint="Ask for a new one.")
        if record.expires_at is not None and record.expires_at <= self._clock.now():
            raise KeyInvalid(
                f"The API key {key_id} expired at {record.expires_at.isoformat()}.", hint="Ask for a new one."
            )
        self._used_ns[key_id] = self._clock.monotonic_ns()
        return record.principal

    def revoke(self, key_id: str) -> None:
        """Make a key worthless at once; revoking again changes nothing.

        Raises:
            NotFound: there is no such key.
        """
        with self._changing:
            if self.record(key_id).revoked_at is None:
                self._change(key_id, {"revoked_ns": ns_of(self._clock.now())})

    def record(self, key_id: str) -> KeyRecord:
        """Return a key's record.

        Raises:
            NotFound: there is no such key.
        """
        record = self._index.get(key_id)
        if record is None:
            raise NotFound(f"There is no key {key_id[:40]!r}.", param="key_id")
        return record

    def note_uses(self) -> None:
        """Write down which keys were used since the last time; blocks."""
        taken, self._used_ns = self._used_ns, {}
        if not taken:
            return
        # Requests read the cheap clock only; what the instants are by the wall is reckoned here.
        offset_ns = ns_of(self._clock.now()) - self._clock.monotonic_ns()
        used_ns = {key_id: offset_ns + at_ns for key_id, at_ns in taken.items()}
        self._database.transact(lambda connection: key_records.mark_used(connection, used_ns)).result()
        with self._changing:
            noted = {
                key_id: replace(record, last_used_at=instant_of(used_ns[key_id]))
                for key_id, record in self._index.items()
                if key_id in used_ns
            }
            self._index = {**self._index, **noted}

    def refresh(self) -> None:
        """Read all keys anew: another replica may have made or revoked some."""
        with self._changing:
            self._index = self._database.read(key_records.load)

    def records(self) -> list[KeyRecord]:
        """Return all keys ever made, the oldest first."""
        return sorted(self._index.values(), key=lambda record: (record.created_at, record.key_id))

    def is_empty(self) -> bool:
        """Tell whether no key was ever made."""
        return not self._index

    def _make(
        self, scope: Scope, values: dict[str, Any], *, own_scope: bool = False, key_id: str | None = None
    ) -> tuple[str, KeyRecord]:
        key_id = key_id or self.free_id()
        text = new_key(key_id)
        whole = {
            **values,
            "key_id": key_id,
            "digest": self._digest(text),
            "scope": parse_scope(f"{scope}.{OWN_SCOPE_PREFIX}{key_id}") if own_scope else scope,
            "created_ns": ns_of(self._clock.now()),
            "revoked_ns": None,
        }
        record = self._database.transact(lambda connection: key_records.put(connection, whole)).result()
        self._index = {**self._index, key_id: record}
        return text, record

    def _change(self, key_id: str, values: dict[str, Any]) -> KeyRecord:
        changed = self._database.transact(
            lambda connection: key_records.change(connection, key_id, values)
        ).result()
        self._index = {**self._index, key_id: changed}
        return changed

    def _digest(self, text: str) -> str:
        return self._hmac(text.encode())

    def secret_for(self, purpose: str) -> bytes:
        """Return a secret of the server's own for another purpose, the same as long as the pepper is."""
        return bytes.fromhex(self._hmac(f"secret for {purpose}".encode()))

    def _check_pepper(self) -> None:
        """Refuse a pepper that would silently make every stored key unknown."""
        check = self._digest(_PEPPER_CHECK)
        stored = self._database.read(lambda connection: key_records.get_meta(connection, _PEPPER_CHECK))
        if stored == check:
            return
        if self._index:
            raise ConfigError(
                "The pepper is not the one that the stored API keys were made with: none of them would work.",
                hint="Restore access.pepper, or the file `pepper` beside the store.",
                param="access.pepper",
            )
        self._database.transact(
            lambda connection: key_records.set_meta(connection, _PEPPER_CHECK, check)
        ).result()


def _checked_priority(priority: str) -> str:
    if priority not in PRIORITIES:
        raise RequestMalformed(
            f"{priority[:40]!r} is not a priority.", hint=f"Use {', '.join(PRIORITIES)}.", param="priority"
        )
    return priority
