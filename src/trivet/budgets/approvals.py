"""Approvals for the dearest tier that are in force, kept in memory for advice. The ledger's word is final."""

from collections.abc import Iterable
from datetime import datetime

from trivet.domain.budgets import Override
from trivet.domain.scopes import Scope, lineage


class Approvals:
    """Which scopes may use what a filling budget would keep from them. Usable from any thread."""

    def __init__(self) -> None:
        self._ends: dict[Scope, dict[str, datetime]] = {}

    def learn(self, overrides: Iterable[Override]) -> None:
        """Take all overrides there are, in place of what was known."""
        ends: dict[Scope, dict[str, datetime]] = {}
        for override in overrides:
            if override.kind == "approval" and override.state == "approved":
                ends.setdefault(override.scope, {})[override.override_id] = override.expires_at
        self._ends = ends

    def note(self, override: Override) -> None:
        """Take what has become of one override."""
        if override.kind != "approval":
            return
        known = dict(self._ends.get(override.scope, {}))
        known.pop(override.override_id, None)
        if override.state == "approved":
            known[override.override_id] = override.expires_at
        self._ends = {**self._ends, override.scope: known}

    def in_force(self, scope: Scope, now: datetime) -> bool:
        """Tell whether an approval of the scope, or of one above it, is in force."""
        ends = self._ends
        return bool(ends) and any(
            end > now for above in lineage(scope) for end in ends.get(above, {}).values()
        )
