"""Alerts and the audit through the API: who sees what, and what is in it."""

import asyncio

from tests.unit.api.conftest import Rooms
from trivet.domain.scopes import Scope


async def test_fired_thresholds_and_their_delivery(rooms: Rooms) -> None:
    """The operator sees every alert and the outbox; a tenant its own alerts, and nothing of the outbox."""
    await rooms.ask("PUT", "/api/v1/budgets/watched", json={"daily": 1000})
    await asyncio.wrap_future(rooms.trivet.ledger.record(Scope("watched"), 800))
    told = (await rooms.ask("GET", "/api/v1/alerts", params={"scope": "watched"})).json()
    assert [alert["threshold"] for alert in told["alerts"]] == [80, 70, 50]
    assert told["alerts"][0] | {"at": "", "window_start": ""} == {
        "at": "",
        "scope": "watched",
        "meter": "tokens",
        "window": "daily",
        "window_start": "",
        "threshold": 80,
        "used": 800,
        "limit": 1000,
    }
    assert told["delivery"]["dead"] == 0
    assert told["delivery"]["delivered"] + told["delivery"]["waiting"] >= 3
    own = (await rooms.ask("GET", "/api/v1/alerts", rooms.key("watched.search"))).json()
    assert own == {"alerts": [], "delivery": None}
    assert (await rooms.ask("POST", "/api/v1/alerts/test")).json()["id"].startswith("msg_")
    assert (await rooms.ask("POST", "/api/v1/alerts/retry")).json() == {"revived": 0}


async def test_the_audit_names_author_and_change(rooms: Rooms) -> None:
    """Limits, calendars and overrides with who did it, from the hash chain; keys from their records."""
    await rooms.ask("PUT", "/api/v1/budgets/audited", json={"daily": 1000})
    await rooms.ask("PUT", "/api/v1/budgets/audited/time-zone", json={"time_zone": "Asia/Tokyo"})
    await rooms.ask("PUT", "/api/v1/budgets/globex", json={"monthly": 7})
    rooms.key("audited.search")
    told = (await rooms.ask("GET", "/api/v1/audit", params={"scope": "audited"})).json()
    zone, limit = told["entries"]
    assert (zone["kind"], limit["kind"]) == ("zone", "limit")
    assert limit["change"]["amount"] == 1000
    assert limit["author"] == zone["author"]
    assert len(limit["hash"]) == 64
    assert [event["kind"] for event in told["keys"]] == ["key_created"]
    older = await rooms.ask("GET", "/api/v1/audit", params={"before": str(zone["seq"]), "limit": "1"})
    assert [entry["seq"] for entry in older.json()["entries"]] == [limit["seq"]]
    assert older.json()["keys"] == []
    everything = (await rooms.ask("GET", "/api/v1/audit")).json()
    assert {entry["scope"] for entry in everything["entries"]} >= {"audited", "globex"}
