"""`POST /api/v1/route` and `GET /v1/models`: what Trivet would do, and what it can serve."""

import math
from collections.abc import Awaitable
from typing import Any

from trivet.admin import Office
from trivet.api.asgi import (
    BodyBounds,
    ClientGone,
    Receive,
    Scope,
    Send,
    header_map,
    new_request_id,
)
from trivet.api.auth import Doorkeeper
from trivet.api.reading import read_routed
from trivet.api.replies import send_error, send_json
from trivet.domain.budgets import Amounts, BudgetRow, BudgetStatus
from trivet.domain.errors import ModelUnknown, TrivetError
from trivet.execution import Pipeline
from trivet.fleet import Fleet
from trivet.routing import decision_as_json
from trivet.routing.eligibility import may_use

LIST_HINT = "GET /v1/models lists what the key may use."


class DecisionDoor:
    """Decides without executing. Holds budget only if that is asked for; charges nothing."""

    def __init__(
        self,
        pipeline: Pipeline,
        office: Office,
        doorkeeper: Doorkeeper,
        *,
        bounds: BodyBounds,
        exhausted_status: int,
    ) -> None:
        self._pipeline = pipeline
        self._office = office
        self._doorkeeper = doorkeeper
        self._bounds = bounds
        self._exhausted_status = exhausted_status

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with the decision, every reason, and what it would mean for the budget."""
        await _reply(send, self._answer(scope, receive), exhausted_status=self._exhausted_status)

    async def _answer(self, scope: Scope, receive: Receive) -> dict[str, Any]:
        request, reserve, principal = await read_routed(scope, receive, self._doorkeeper, bounds=self._bounds)
        held: dict[str, Any] = {}
        # Read first: once a hold is given out nothing may come between it and the answer.
        status = await self._office.budget_status(principal, principal.scope)
        if reserve:
            promise = await self._pipeline.reserve(request, principal)
            decision, held = promise.decision, promise.as_json()
        else:
            decision = await self._pipeline.route(request, principal)
        needed, priced = self._pipeline.ceiling(decision, request.n)
        answer = {**decision_as_json(decision), **held, "budget": _budget_impact(needed, status)}
        answer["estimated"]["usd_micros"] = needed.usd_micros if priced else None
        return answer


class ModelList:
    """Lists what a caller may write in `model`: `auto`, the tiers, the deployments."""

    def __init__(self, fleet: Fleet, doorkeeper: Doorkeeper, tier_names: tuple[str, ...]) -> None:
        self._fleet = fleet
        self._doorkeeper = doorkeeper
        self._tier_names = tier_names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with OpenAI's list of models, those that the key may use, or with the one of the path."""
        await _reply(send, self._answer(scope))

    async def _answer(self, scope: Scope) -> dict[str, Any]:
        entries = self._entries(scope)
        name = scope.get("path_params", {}).get("name")
        if name is None:
            return {"object": "list", "data": entries}
        for entry in entries:
            if entry["id"] == name:
                return entry
        raise ModelUnknown(f"There is no model called {name[:200]!a}.", hint=LIST_HINT, param="model")

    def _entries(self, scope: Scope) -> list[dict[str, Any]]:
        caller = self._doorkeeper.principal(header_map(scope))
        offered = [offer.deployment for offer in self._fleet.offers()]
        deployments = [deployment for deployment in offered if may_use(caller, deployment)]
        usable = {deployment.tier.name for deployment in deployments}
        tiers = [name for name in self._tier_names if name in usable]
        entries = [_model("auto", "trivet"), *(_model(name, "trivet") for name in tiers)]
        # Of several endpoints the first: they serve the same model.
        listed = {d.known_as: d for d in reversed(deployments)}
        entries += [
            {**_model(name, d.engine), "tier": d.tier.name, "max_model_len": d.context_tokens}
            for name, d in reversed(listed.items())
        ]
        return entries


async def _reply(send: Send, answer: Awaitable[Any], *, exhausted_status: int = 429) -> None:
    """Send the answer or the error; nothing to a client that has gone."""
    request_id = new_request_id()
    try:
        await send_json(send, await answer, request_id=request_id)
    except ClientGone:
        return
    except TrivetError as error:
        await send_error(send, error, request_id=request_id, exhausted_status=exhausted_status)


def _model(name: str, owner: str) -> dict[str, Any]:
    # OpenAI's `created` is the model's date; engines give none, and a made-up one would change.
    return {"id": name, "object": "model", "created": 0, "owned_by": owner}


def _budget_impact(needed: Amounts, status: BudgetStatus) -> dict[str, Any]:
    """Say what the request's ceiling would take of the limit of which it would take the largest part."""
    limited = [row for row in status.rows if row.remaining is not None and needed.of(row.meter)]
    row = max(limited, key=lambda r: _share(needed, r), default=status.rows[0])
    share = _share(needed, row)
    return {
        "scope": row.scope,
        "meter": row.meter,
        "window": row.window,
        "remaining": row.remaining,
        "percent_of_remaining": round(100.0 * share, 2) if math.isfinite(share) else None,
        "status": status.status,
    }


def _share(needed: Amounts, row: BudgetRow) -> float:
    return needed.of(row.meter) / row.remaining if row.remaining else math.inf
