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
        "rearmed_at": None,
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


async def test_the_audit_proves_what_became_of_keys(rooms: Rooms) -> None:
    """Who made, rotated, changed and revoked which key is in the hash chain; what is refused is not."""
    made = (await rooms.ask("POST", "/api/v1/keys", json={"scope": "locked.team"})).json()
    old = made["key_id"]
    new = (await rooms.ask("POST", f"/api/v1/keys/{old}/rotate", json={"overlap_s": 60})).json()["key_id"]
    assert (await rooms.ask("POST", f"/api/v1/keys/{old}/rotate", json={"overlap_s": 60})).status_code == 400
    assert (
        await rooms.ask("POST", "/api/v1/keys", json={"scope": "locked", "role": "king"})
    ).status_code in (400, 422)
    await rooms.ask("PATCH", f"/api/v1/keys/{new}", json={"priority": "batch"})
    for _ in range(2):
        await rooms.ask("DELETE", f"/api/v1/keys/{new}")
    told = (await rooms.ask("GET", "/api/v1/audit", params={"scope": "locked"})).json()
    assert [(e["scope"], e["change"]["event"], e["change"]["key_id"]) for e in told["entries"]] == [
        ("locked.team", "revoked", new),
        ("locked.team", "changed", new),
        ("locked.team", "rotated", new),
        ("locked.team", "created", old),
    ]
    assert {entry["kind"] for entry in told["entries"]} == {"key"}
    assert told["entries"][1]["change"]["priority"] == "batch"
    assert told["entries"][2]["change"]["replaces"] == old
    assert {entry["author"] for entry in told["entries"]} == {told["entries"][0]["author"]}
    assert told["keys"] == []
    assert await asyncio.to_thread(lambda: rooms.trivet.ledger.verify().ok)
