"""API keys: made, listed, changed, rotated and revoked, each by whom it may."""

import asyncio
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from trivet.access import KeyRecord, Keyring, require_tenant_admin
from trivet.admin.limits import parse_limits
from trivet.admin.periods import parse_future
from trivet.budgets import Ledger
from trivet.domain.budgets import PRIORITIES
from trivet.domain.clock import Clock
from trivet.domain.errors import NotFound, PermissionDenied, RequestMalformed
from trivet.domain.requests import Principal
from trivet.domain.scopes import Scope, contains, parse_scope

LONGEST_OVERLAP_S = 30 * 24 * 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyOrder:
    """A key to be made."""

    scope: str
    role: str = "tenant"
    priority: str = "interactive"
    tiers: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    label: str = ""
    expires_at: str | None = None
    own_scope: bool = False
    limits: dict[str, Any] | None = None
    """Of the key alone; they imply a scope of its own."""


class KeyOffice:
    """Keys, behind permission checks: admins see to all, tenant admins to those of their scope."""

    def __init__(
        self,
        keyring: Keyring,
        ledger: Ledger,
        *,
        tier_names: Collection[str],
        deployment_names: Collection[str],
        clock: Clock,
    ) -> None:
        """Take the rooms, and the names that the configuration has, whether engines run or not."""
        self._keyring = keyring
        self._ledger = ledger
        self._tier_names = tuple(tier_names)
        self._deployment_names = tuple(deployment_names)
        self._clock = clock

    async def create(self, caller: Principal, order: KeyOrder) -> tuple[str, KeyRecord]:
        """Make an API key; its text is returned this once and never stored.

        Raises:
            RequestMalformed: the role, a tier or a model is unknown, or `expires_at` is no future time.
            PermissionDenied: it would may more than who makes it.
        """
        scope = parse_scope(order.scope)
        require_tenant_admin(caller, scope)
        _check_names(order.tiers, self._tier_names, "tiers")
        _check_names(order.models, self._deployment_names, "models")
        _check_label(order.label)
        limits = parse_limits(order.limits) if order.limits is not None else []
        expiry = self._future_instant(order.expires_at)
        if not caller.is_admin:
            _check_no_more_than(caller, order)
        key_id, own_scope = self._keyring.free_id(), order.own_scope or bool(limits)
        self._keyring.check(scope, role=order.role, priority=order.priority, own_scope=own_scope)
        await self._enter(caller, scope, "created", key_id, role=order.role, priority=order.priority)
        text, record = await asyncio.to_thread(
            lambda: self._keyring.create(
                scope,
                key_id=key_id,
                role=order.role,
                priority=order.priority,
                own_scope=own_scope,
                tiers=order.tiers or tuple(sorted(caller.tiers) if not caller.is_admin else ()),
                models=order.models or tuple(sorted(caller.models) if not caller.is_admin else ()),
                label=order.label[:100],
                expires_at=expiry,
            )
        )
        for limit in limits:
            await asyncio.wrap_future(
                self._ledger.set_limit(
                    record.scope,
                    limit.kind,
                    limit.amount,
                    author=caller.key_id,
                    meter=limit.meter,
                    allowance=limit.allowance,
                )
            )
        return text, record

    async def list(self, caller: Principal) -> list[KeyRecord]:
        """Return the records of the keys that the caller may see, without secrets."""
        if not caller.sees_all:
            require_tenant_admin(caller, caller.scope)
        return [record for record in self._keyring.records() if _sees(caller, record)]

    async def change(
        self, caller: Principal, key_id: str, *, priority: str | None, label: str | None
    ) -> KeyRecord:
        """Change a key's priority or label; a tenant admin raises none above its own."""
        self._require_key(caller, key_id)
        if label is not None:
            _check_label(label)
        if priority is not None and not caller.is_admin:
            _check_priority(caller, priority)
        if priority in PRIORITIES:
            scope = self._keyring.record(key_id).scope
            await self._enter(caller, scope, "changed", key_id, priority=priority)
        return await asyncio.to_thread(
            lambda: self._keyring.change(
                key_id, priority=priority, label=None if label is None else label[:100]
            )
        )

    async def rotate(self, caller: Principal, key_id: str, *, overlap_s: float) -> tuple[str, KeyRecord]:
        """Make a successor, which may do the same; the old key lives on for the overlap."""
        self._require_key(caller, key_id)
        if not 0 <= overlap_s <= LONGEST_OVERLAP_S:
            raise RequestMalformed(
                f"overlap_s lies between 0 and {LONGEST_OVERLAP_S} (30 days).", param="overlap_s"
            )
        overlap, new_id = timedelta(seconds=overlap_s), self._keyring.free_id()
        scope = self._keyring.check_rotation(key_id).scope
        await self._enter(caller, scope, "rotated", new_id, replaces=key_id, overlap_s=overlap_s)
        return await asyncio.to_thread(lambda: self._keyring.rotate(key_id, overlap=overlap, new_id=new_id))

    async def revoke(self, caller: Principal, key_id: str) -> None:
        """Make a key worthless at once."""
        self._require_key(caller, key_id)
        record = self._keyring.record(key_id)
        if record.revoked_at is None:
            await self._enter(caller, record.scope, "revoked", key_id)
        await asyncio.to_thread(self._keyring.revoke, key_id)

    async def _enter(self, caller: Principal, scope: Scope, event: str, key_id: str, **facts: Any) -> None:
        """Enter what is about to become of a key: should all end here, too much was entered, no less."""
        await asyncio.wrap_future(
            self._ledger.enter_key(scope, event, author=caller.key_id, key_id=key_id, **facts)
        )

    def _require_key(self, caller: Principal, key_id: str) -> None:
        """Let those pass who may change this key.

        Raises:
            NotFound: there is none, or it is not the caller's to see.
            PermissionDenied: the caller may change no keys, or not one that may more than it.
        """
        missing = NotFound(f"There is no key {key_id[:40]!r}.", param="key_id")
        try:
            record = self._keyring.record(key_id)
        except NotFound:
            if caller.role in ("tenant", "auditor"):
                require_tenant_admin(caller, caller.scope)
            raise missing from None
        if not _sees(caller, record):
            raise missing
        require_tenant_admin(caller, record.scope)
        if not caller.is_admin and record.role not in ("tenant", "tenant_admin"):
            raise missing

    def _future_instant(self, text: str | None) -> datetime | None:
        if text is None:
            return None
        instant = parse_future(text, param="expires_at")
        if instant <= self._clock.now():
            raise RequestMalformed("`expires_at` lies in the past.", param="expires_at")
        return instant


def _sees(caller: Principal, record: KeyRecord) -> bool:
    # An admin's or auditor's key is bound to no scope, whatever stands in its record.
    within = contains(caller.scope, record.scope) and record.role in ("tenant", "tenant_admin")
    return caller.sees_all or within


def _check_no_more_than(caller: Principal, order: KeyOrder) -> None:
    """Refuse a key that may more than the tenant admin who makes it."""
    if order.role not in ("tenant", "tenant_admin"):
        raise PermissionDenied(
            f"Only an admin makes keys of the role {order.role[:40]!r}.", hint="Use tenant.", param="role"
        )
    _check_priority(caller, order.priority)
    for wanted, own, param in ((order.tiers, caller.tiers, "tiers"), (order.models, caller.models, "models")):
        beyond = sorted(set(wanted) - own) if own else []
        if beyond:
            raise PermissionDenied(f"Your own key may not use {beyond[0]}.", param=param)


def _check_priority(caller: Principal, priority: str) -> None:
    if priority in PRIORITIES and PRIORITIES.index(priority) > PRIORITIES.index(caller.priority):
        raise PermissionDenied(
            f"Your own key has the priority {caller.priority}; it gives none above.",
            hint="Ask whoever runs this Trivet.",
            param="priority",
        )


def _check_label(label: str) -> None:
    if not label.isprintable():
        raise RequestMalformed("label holds control characters.", hint="Send plain text.", param="label")


def _check_names(wanted: Collection[str], known: Collection[str], param: str) -> None:
    """Refuse a name that the configuration lacks: a key limited to it could be used for nothing."""
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise RequestMalformed(
            f"{param}: {unknown[0][:80]!a} is not configured.",
            hint=f"Use {', '.join(known)}." if known else "None is configured.",
            param=param,
        )
