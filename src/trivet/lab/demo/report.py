"""What the demo found, as one object."""

from dataclasses import dataclass
from typing import Any

from trivet.lab.demo.traffic import Tally

TIERS = ("light", "standard", "heavy")
ENGINE_SECONDS = (
    "busy",
    "busy_check",
    "attributed",
    "actual",
    "baseline",
    "saved",
    "basis",
    "wall_times_devices",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoReport:
    """Figures from the clients' side, the ledger and the metering, and where to go on."""

    tally: Tally
    tenants: list[dict[str, Any]]
    savings: dict[str, Any]
    url: str
    api_key: str

    @property
    def complaint(self) -> str | None:
        """Return what went wrong, or None."""
        over = [row["scope"] for row in self.tenants if row["used"] > row["limit"]]
        held = [row["scope"] for row in self.tenants if row["held"]]
        faults = {
            f"{self.tally.errors} errors ({'; '.join(self.tally.complaints[:3])})": self.tally.errors > 0,
            "a tier served nothing": any(not self.tally.by_tier.get(tier) for tier in TIERS),
            "nothing fell back": self.tally.fallbacks == 0,
            "nothing was refused": self.tally.refused == 0,
            f"over the limit: {', '.join(over)}": bool(over),
            f"still held: {', '.join(held)}": bool(held),
        }
        return "; ".join(fault for fault, found in faults.items() if found) or None

    @property
    def ok(self) -> bool:
        """Tell whether everything went as it should."""
        return self.complaint is None

    def as_json(self) -> dict[str, Any]:
        """Return the report as `--json` prints it."""
        return {
            "requests": self.tally.requests,
            "errors": self.tally.errors,
            "cut_streams": self.tally.cut_streams,
            "refused": self.tally.refused,
            "by_tier": {tier: self.tally.by_tier.get(tier, 0) for tier in TIERS},
            "fallbacks": self.tally.fallbacks,
            "tenants": self.tenants,
            "engine_seconds": {key: self.savings[key] for key in ENGINE_SECONDS},
            "url": self.url,
            "api_key": self.api_key,
        }
