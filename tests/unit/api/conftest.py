"""A Trivet whose engines are configured and answer nobody."""

import json as json_text
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from trivet.app.assembly import OpenTrivet, open_trivet
from trivet.config.settings import Settings

SHAPES = {"light": (1.0, (0.0, 0.3)), "standard": (3.0, (0.3, 0.7)), "heavy": (10.0, (0.7, 1.0))}


@dataclass(frozen=True, slots=True)
class Rooms:
    """An opened Trivet, asked through its application without a socket."""

    trivet: OpenTrivet

    async def ask(
        self,
        method: str,
        path: str,
        api_key: str | None = None,
        *,
        json: Any = None,
        raw: bytes | None = None,
        params: dict[str, str] | None = None,
        headers: dict[str, str] | None = None,
    ) -> httpx.Response:
        """Send a request with the key, by default the owner's; its JSON in ASCII, or bytes as they are."""
        transport = httpx.ASGITransport(self.trivet.application, raise_app_exceptions=False)
        sent = {
            "content-type": "application/json",
            **(headers or {}),
            "authorization": f"Bearer {api_key or self.trivet.owner_token}",
        }
        async with httpx.AsyncClient(transport=transport, base_url="http://trivet", headers=sent) as http:
            content = raw if json is None else json_text.dumps(json)
            return await http.request(method, path, content=content, params=params)

    def key(self, scope: str, **limits: Any) -> str:
        """Make a tenant's key."""
        return self.trivet.keyring.create(scope, **limits)[0]  # type: ignore[arg-type]


def settings_at(directory: Path, *, vectors: bool = False) -> Settings:
    """Return settings of three tiers with one unreachable deployment each; perhaps one more makes vectors."""
    tiers: list[dict[str, Any]] = [
        {
            "name": name,
            "cost_weight": weight,
            "complexity": complexity,
            "deployments": [{"model": f"vllm/{name}-model", "url": "http://127.0.0.1:9", "local": True}],
        }
        for name, (weight, complexity) in SHAPES.items()
    ]
    if vectors:
        maker = {"model": "vllm/vectors", "url": "http://127.0.0.1:9", "capabilities": ["embeddings"]}
        tiers[0]["deployments"] += [maker]
    return Settings.model_validate(
        {"tiers": tiers, "store": {"path": directory / "trivet.db"}, "logging": {"level": "error"}}
    )


@pytest.fixture(scope="session")
async def rooms(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rooms]:
    """An opened Trivet for the whole session."""
    async with open_trivet(settings_at(tmp_path_factory.mktemp("rooms"))) as trivet:
        yield Rooms(trivet)


@pytest.fixture(scope="session")
async def engineless(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rooms]:
    """The same, opened without engines, as the command line does where no server runs."""
    directory = tmp_path_factory.mktemp("engineless")
    async with open_trivet(settings_at(directory), with_engines=False) as trivet:
        yield Rooms(trivet)


@pytest.fixture(params=["engines", "no engines"])
def either(request: pytest.FixtureRequest, rooms: Rooms, engineless: Rooms) -> Rooms:
    """One after the other."""
    return rooms if request.param == "engines" else engineless
