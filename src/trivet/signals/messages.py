"""What is sent of one item of news, in the shapes that receivers understand, and its signature. Pure."""

import base64
import binascii
import hashlib
import hmac
import json
from collections.abc import Mapping
from typing import Any, Literal
from urllib.parse import urlsplit

from trivet.signals.outbox import LATENCY_WARNING, SELECTION, TEST_KIND, Delivery

Shape = Literal["json", "slack", "teams"]
SHAPES: tuple[Shape, ...] = ("json", "slack", "teams")

_SECRET_PREFIX = "whsec_"  # noqa: S105 - how secrets begin, not one
_UNITS = {"tokens": "tokens", "weighted_tokens": "weighted tokens"}
_SLACK_ENTITIES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})


def shape_for(url: str, wanted: str) -> Shape:
    """Return the shape to send to a URL: what is wanted, or with `auto` what its host is known to take."""
    for shape in SHAPES:
        if shape == wanted:
            return shape
    host = urlsplit(url).hostname or ""
    if host == "hooks.slack.com":
        return "slack"
    teams = (".webhook.office.com", ".logic.azure.com", ".powerplatform.com")
    return "teams" if host.endswith(teams) else "json"


def body_of(delivery: Delivery, shape: Shape) -> bytes:
    """Return the body of the POST. It holds amounts and scopes, never a prompt, an answer or a key."""
    if shape == "slack":
        return _compact({"text": sentence(delivery).translate(_SLACK_ENTITIES)})
    if shape == "teams":
        card = {
            "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
            "type": "AdaptiveCard",
            "version": "1.4",
            "body": [{"type": "TextBlock", "text": sentence(delivery), "wrap": True}],
        }
        content = {"contentType": "application/vnd.microsoft.card.adaptive", "content": card}
        return _compact({"type": "message", "attachments": [content]})
    return _compact(
        {
            "id": delivery.delivery_id,
            "type": delivery.kind,
            "timestamp": delivery.at.isoformat(),
            "text": sentence(delivery),
            "data": delivery.data,
        }
    )


def headers_of(delivery: Delivery, body: bytes, *, secret: str | None, now_s: int) -> dict[str, str]:
    """Return the headers of the POST, signed where there is a secret (standardwebhooks.com, version 1)."""
    headers = {
        "content-type": "application/json",
        "user-agent": "trivet",
        "webhook-id": delivery.delivery_id,
        "webhook-timestamp": str(now_s),
    }
    if secret is not None:
        headers["webhook-signature"] = signature(secret, delivery.delivery_id, now_s, body)
    return headers


def signature(secret: str, delivery_id: str, timestamp_s: int, body: bytes) -> str:
    """Return `v1,` and the base64 of HMAC-SHA-256 over `id.timestamp.body`.

    A secret `whsec_...` is base64 of the key; any other text is the key itself.
    """
    signed = f"{delivery_id}.{timestamp_s}.".encode() + body
    digest = hmac.new(_key_of(secret), signed, hashlib.sha256).digest()
    return "v1," + base64.b64encode(digest).decode()


def sentence(delivery: Delivery) -> str:
    """Return the news in words for people."""
    data = delivery.data
    if delivery.kind == TEST_KIND:
        return "Trivet: this is a test. Alerts of budgets arrive here."
    if delivery.kind == SELECTION:
        tiers = ", ".join(f"{tier} {count:,}" for tier, count in data["by_tier"].items())
        return f"Trivet: models were chosen for {data['requests']:,} requests of {data['scope']}: {tiers}."
    if delivery.kind == LATENCY_WARNING:
        names = ", ".join(data["by_deployment"])
        return (
            f"Trivet: {data['requests']:,} requests of {data['scope']} waited longer than"
            f" {data['latency_warning_ms']:,} ms for {names}; the slowest {data['slowest_ms']:,} ms."
        )
    if delivery.kind != "budget.threshold":
        return f"Trivet: {delivery.kind} in {data.get('scope', delivery.organisation)}."
    used, limit = _amount(data, "used"), _amount(data, "limit")
    resets_at = data.get("resets_at")
    until = f"resets {resets_at}" if resets_at else "does not reset"
    state = "is used up" if data["threshold"] >= 100 else f"has passed {data['threshold']} %"
    return (
        f"Trivet: the {data['window']} budget of {data['scope']} {state}:"
        f" {used} of {limit}, {data['percent_used']} %; {until}."
    )


def _amount(data: Mapping[str, Any], name: str) -> str:
    if data["meter"] == "usd_micros":
        return f"${data[name] / 1_000_000:,.2f}"
    return f"{data[name]:,} {_UNITS[data['meter']]}"


def _key_of(secret: str) -> bytes:
    if secret.startswith(_SECRET_PREFIX):
        try:
            return base64.b64decode(secret.removeprefix(_SECRET_PREFIX), validate=True)
        except binascii.Error:
            pass
    return secret.encode()


def _compact(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
