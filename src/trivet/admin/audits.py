"""Who changed what binds others: limits, overrides, calendars, keys."""

import asyncio
from typing import Any

from trivet.access import KeyRecord, Keyring, require_reader_of_all, require_tenant_admin
from trivet.budgets import Ledger
from trivet.budgets.history import HISTORY_MAX, EntryRecord
from trivet.domain.requests import Principal
from trivet.domain.scopes import Scope, contains, parse_scope


class AuditOffice:
    """The trail of changes, behind permission checks."""

    def __init__(self, ledger: Ledger, keyring: Keyring) -> None:
        self._ledger = ledger
        self._keyring = keyring

    async def trail(
        self, caller: Principal, scope_text: str | None, *, limit: int, before: int | None
    ) -> dict[str, Any]:
        """Return changes of rules and of keys, the latest first.

        They are entries of the ledger's hash chains, with `seq` and `hash`; `before` pages through them. With
        the first page comes what keys' records tell and no entry does, since it is older: `keys`.
        """
        scope: Scope | None = None
        if scope_text is None:
            require_reader_of_all(caller)
        else:
            scope = parse_scope(scope_text)
            if not caller.sees_all:
                require_tenant_admin(caller, scope)
        found, entered = await asyncio.to_thread(lambda: self._read(scope, limit, before))
        entries = [
            {
                "seq": entry.seq,
                "at": entry.at.isoformat(),
                "kind": entry.kind,
                "scope": entry.scope,
                "author": entry.detail.get("author"),
                "change": {name: value for name, value in entry.detail.items() if name != "author"},
                "hash": entry.hash,
            }
            for entry in found
        ]
        keys = [] if before is not None else _key_events(self._keyring.records(), scope)
        keys = [event for event in keys if (event["kind"], event["key_id"]) not in entered]
        return {"entries": entries, "keys": keys[:limit]}

    def _read(
        self, scope: Scope | None, limit: int, before: int | None
    ) -> tuple[list[EntryRecord], set[tuple[str, str]]]:
        """Return a page of both trails, and which events of keys are entered; blocks."""
        rules = self._ledger.rule_changes(scope, limit=limit, before=before)
        keys = self._ledger.key_changes(scope, limit=HISTORY_MAX)
        page = [entry for entry in keys if before is None or entry.seq < before]
        entered = {
            (f"key_{'created' if event == 'rotated' else event}", str(entry.detail["key_id"]))
            for entry in keys
            if (event := entry.detail["event"])
        }
        return sorted((*rules, *page), key=lambda entry: -entry.seq)[:limit], entered


def _key_events(records: list[KeyRecord], scope: Scope | None) -> list[dict[str, Any]]:
    """Return what the records of keys tell."""
    events = []
    for record in records:
        if scope is not None and not contains(scope, record.scope):
            continue
        for kind, at in (("key_created", record.created_at), ("key_revoked", record.revoked_at)):
            if at is not None:
                events.append(
                    {
                        "at": at.isoformat(),
                        "kind": kind,
                        "scope": record.scope,
                        "key_id": record.key_id,
                        "role": record.role,
                        "replaces": record.replaces,
                    }
                )
    return sorted(events, key=lambda event: str(event["at"]), reverse=True)
