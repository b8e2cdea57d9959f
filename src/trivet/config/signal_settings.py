"""What dollars are reckoned by, and where alerts go."""

from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator

from trivet.config.section import PositiveFloat, PositiveInt, Section


class PricingSettings(Section):
    """What cloud models cost: LiteLLM's own list, and a table that goes before it."""

    path: Path | None = None
    """A JSON file of prices, read anew on change; by default `config/model-pricing.json` if there is one."""


class SignalSettings(Section):
    """Where alerts go besides the log."""

    webhook_url: SecretStr | None = None
    """Gets each alert by POST; null: alerts are only logged and shown."""
    webhook_secret: SecretStr | None = None
    """Signs what is sent, as standardwebhooks.com says: `whsec_` and base64, or any text."""
    format: Literal["auto", "json", "slack", "teams"] = "auto"
    """Shape of what is sent; auto goes by the webhook's host."""
    timeout_s: PositiveFloat = 10.0
    give_up_after_hours: PositiveFloat = 24.0
    """How long a delivery is tried again; then it is a dead letter."""
    retention_days: PositiveInt = 90
    """How long delivered alerts and dead letters are kept."""
    events: tuple[Literal["model.selection", "model.latency_warning"], ...] = ()
    """Events about models that go to the log and the webhook as well, gathered by organisation."""
    events_interval_s: Annotated[float, Field(ge=1, le=3600)] = 10.0
    latency_warning_ms: PositiveInt = 10_000
    """A request that waits longer for its first content is told by `model.latency_warning`."""
    metrics_name_tenants: bool = False
    """Show organisations' limits and use on /metrics, which asks for no key."""

    @field_validator("webhook_url")
    @classmethod
    def _is_a_web_address(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None:
            parts = urlsplit(url.get_secret_value())
            if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
                raise ValueError("allowed: an http or https URL without user and password.")
        return url
