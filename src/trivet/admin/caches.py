"""The response cache: what it holds, and how it is emptied."""

from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Any

from trivet.access import require_scope, require_tenant_admin
from trivet.access.permissions import require_admin
from trivet.cache import ResponseCache
from trivet.config.cache_settings import CacheSettings
from trivet.domain.requests import Principal
from trivet.domain.scopes import Scope, parse_scope


class CacheOffice:
    """The cache, behind permission checks. Nobody is shown an answer, or whether there is one."""

    def __init__(
        self,
        cache: ResponseCache | None,
        settings: CacheSettings,
        *,
        remove_leftover: Callable[[], Awaitable[int]] | None = None,
    ) -> None:
        """Take the cache; None: it is off.

        `remove_leftover` removes what an earlier run, with the cache on, has left, and counts it.
        """
        self._cache = cache
        self._settings = settings
        self._remove_leftover = remove_leftover

    async def stats(self, caller: Principal, scope_text: str | None) -> dict[str, Any]:
        """Return what is kept for a scope and all below it; without one for all that the caller may see.

        Whoever sees all also sees what became of lookups since the start.

        Raises:
            NotFound: the scope is somebody else's.
            StoreUnavailable: the cache's store does not answer.
        """
        scope = self._scope(caller, scope_text)
        facts: dict[str, Any] = {
            "enabled": self._cache is not None,
            "mode": self._settings.mode,
            "store": self._settings.store,
            "scope": scope,
            "max_bytes": self._settings.max_bytes,
            "ttl_s": self._settings.ttl_s,
        }
        if self._cache is None:
            return {**facts, "entries": 0, "bytes": 0, "hits": 0, "saved_device_s": 0.0, "since_start": None}
        holdings = asdict(await self._cache.holdings(scope))
        saved_ns = holdings.pop("saved_device_ns")
        return {
            **facts,
            **holdings,
            "saved_device_s": round(saved_ns / 1e9, 6),
            "since_start": self._cache.tally.as_json() if caller.sees_all else None,
        }

    async def clear(self, caller: Principal, scope_text: str | None) -> dict[str, Any]:
        """Remove what is kept for a scope and all below it; without one, for everybody (admins only).

        While the cache is off the latter removes the file of answers that is left from before.

        Raises:
            NotFound, PermissionDenied: it is not the caller's to remove.
            StoreUnavailable: the cache's store does not answer.
        """
        if scope_text is None:
            require_admin(caller)
            scope = None
        else:
            scope = parse_scope(scope_text)
            require_tenant_admin(caller, scope)
        removed = 0
        if self._cache is not None:
            removed = await self._cache.clear(scope)
        elif scope is None and self._remove_leftover is not None:
            removed = await self._remove_leftover()
        return {"scope": scope, "removed": removed}

    def _scope(self, caller: Principal, scope_text: str | None) -> Scope | None:
        if scope_text is None:
            return None if caller.sees_all else caller.scope
        scope = parse_scope(scope_text)
        require_scope(caller, scope)
        return scope
