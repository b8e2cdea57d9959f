"""`POST /api/v1/route` and `GET /v1/models`: what Trivet would do, and what it can serve."""

import json
import uuid
from typing import Any

from trivet.admin import Office
from trivet.api.asgi import Receive, Scope, Send, header_map, parse_json, read_body, send_whole
from trivet.api.auth import Doorkeeper
from trivet.api.errors import error_body, error_headers, http_status
from trivet.domain.budgets import BudgetStatus
from trivet.domain.decisions import Decision
from trivet.domain.errors import TrivetError
from trivet.execution import Pipeline
from trivet.fleet import Fleet
from trivet.routing import decision_as_json, parse_chat


class DecisionDoor:
    """Decides without executing; holds and charges nothing."""

    def __init__(
        self, pipeline: Pipeline, office: Office, doorkeeper: Doorkeeper, *, body_limit_bytes: int
    ) -> None:
        self._pipeline = pipeline
        self._office = office
        self._doorkeeper = doorkeeper
        self._body_limit_bytes = body_limit_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with the decision, every reason, and what it would mean for the budget."""
        request_id = uuid.uuid4().hex
        try:
            headers = header_map(scope)
            principal = self._doorkeeper.principal(headers)
            body = await read_body(receive, limit_bytes=self._body_limit_bytes)
            request = parse_chat(parse_json(body), body_bytes=len(body), headers=headers)
            decision = self._pipeline.decide(request, principal)
            status = await self._office.budget_status(principal, principal.scope)
            answer = {**decision_as_json(decision), "budget": _budget_impact(decision, request.n, status)}
            await _send_json(send, 200, answer, request_id)
        except TrivetError as error:
            await _send_error(send, error, request_id)


class ModelList:
    """Lists what a caller may write in `model`: `auto`, the tiers, the deployments."""

    def __init__(self, fleet: Fleet, doorkeeper: Doorkeeper, tier_names: tuple[str, ...]) -> None:
        self._fleet = fleet
        self._doorkeeper = doorkeeper
        self._tier_names = tier_names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with OpenAI's list of models, those that the key may use."""
        request_id = uuid.uuid4().hex
        try:
            caller = self._doorkeeper.principal(header_map(scope))
        except TrivetError as error:
            await _send_error(send, error, request_id)
            return
        tiers = [name for name in self._tier_names if not caller.tiers or name in caller.tiers]
        deployments = [
            offer.deployment
            for offer in self._fleet.offers()
            if offer.deployment.tier.name in tiers
            and (not caller.models or offer.deployment.name in caller.models)
        ]
        entries = [_model("auto", "trivet"), *(_model(name, "trivet") for name in tiers)]
        entries += [
            {**_model(d.name, d.engine), "tier": d.tier.name, "max_model_len": d.context_tokens}
            for d in deployments
        ]
        await _send_json(send, 200, {"object": "list", "data": entries}, request_id)


def _model(name: str, owner: str) -> dict[str, Any]:
    # OpenAI's `created` is the model's date; engines give none, and a made-up one would change.
    return {"id": name, "object": "model", "created": 0, "owned_by": owner}


def _budget_impact(decision: Decision, n: int, status: BudgetStatus) -> dict[str, Any]:
    """Say what the request's ceiling would take of the tightest limit."""
    limited = [row for row in status.rows if row.remaining is not None]
    row = min(limited, key=lambda r: r.remaining or 0) if limited else status.rows[0]
    needed = decision.estimated.prompt_tokens + decision.max_output_tokens * n
    remaining = row.remaining
    percent = round(100.0 * needed / remaining, 2) if remaining else None
    return {
        "scope": row.scope,
        "meter": row.meter,
        "window": row.window,
        "remaining": remaining,
        "percent_of_remaining": percent,
        "status": status.status,
    }


async def _send_json(send: Send, status: int, content: Any, request_id: str) -> None:
    body = json.dumps(content).encode()
    await send_whole(send, status=status, body=body, headers={"x-request-id": request_id})


async def _send_error(send: Send, error: TrivetError, request_id: str) -> None:
    status = http_status(error)
    body = json.dumps(error_body(error, status=status, request_id=request_id)).encode()
    await send_whole(
        send, status=status, body=body, headers={"x-request-id": request_id, **error_headers(error)}
    )
