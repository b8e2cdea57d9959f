"""The tenants: two organisations with teams, users, keys and budgets."""

from dataclasses import dataclass

import httpx

from trivet.lab.demo.stage import Stage


@dataclass(frozen=True, slots=True)
class User:
    """One user of the demo: its scope, its key, and how much of the traffic it sends."""

    scope: str
    api_key: str
    share: int


# Scope, daily limit, share of the traffic. dana's limit is meant to be reached.
BUDGETS: tuple[tuple[str, int], ...] = (
    ("acme", 400_000),
    ("acme.search", 200_000),
    ("acme.search.ana", 120_000),
    ("acme.search.dana", 500),
    ("acme.support", 150_000),
    ("globex", 300_000),
    ("globex.research", 250_000),
)
USERS: tuple[tuple[str, int], ...] = (
    ("acme.search.ana", 4),
    ("acme.search.dana", 2),
    ("acme.support.bo", 3),
    ("globex.research.chen", 3),
    ("globex.ops.eve", 2),
)


async def admit_tenants(stage: Stage) -> list[User]:
    """Set the budgets and make a key for every user, through the admin API."""
    async with httpx.AsyncClient(
        base_url=stage.url, headers={"authorization": f"Bearer {stage.owner_token}"}, trust_env=False
    ) as http:
        for scope, daily in BUDGETS:
            (await http.put(f"/api/v1/budgets/{scope}", json={"daily": daily})).raise_for_status()
        users = []
        for scope, share in USERS:
            answer = await http.post("/api/v1/keys", json={"scope": scope, "label": "demo"})
            users.append(User(scope, answer.raise_for_status().json()["key"], share))
        return users
