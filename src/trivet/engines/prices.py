"""What models cost: the operator's table first, then the list that comes with LiteLLM.

LiteLLM's list is a JSON file inside its distribution. It is read from there without importing LiteLLM, which
would take seconds, and without asking anybody.
"""

import importlib.util
import json
import re
from collections.abc import Iterable, Mapping
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from pathlib import Path
from typing import Any

import structlog

from trivet.domain.clock import Clock
from trivet.domain.errors import ConfigError
from trivet.domain.prices import FREE, UNKNOWN, Price
from trivet.domain.tiers import Deployment

DEFAULT_PATH = Path("config/model-pricing.json")
LOOK_EVERY_NS = 1_000_000_000
_LIST_NAME = "model_prices_and_context_window_backup.json"
_MICROS = 1_000_000
# LiteLLM's names are dollars a token; ours, which people write by hand, dollars a million tokens.
_FIELDS = {
    "prompt": ("input_cost_per_token", "input_usd_per_million"),
    "completion": ("output_cost_per_token", "output_usd_per_million"),
    "cached_prompt": ("cache_read_input_token_cost", "cached_input_usd_per_million"),
}
_BEYOND = re.compile(r"^input_cost_per_token_above_(\d+)k_tokens$")

log = structlog.get_logger(__name__)


class PriceTable:
    """The prices of all deployments. For the event loop's thread; a look at the file costs microseconds."""

    def __init__(self, path: Path | None, deployments: Iterable[Deployment], clock: Clock) -> None:
        """Read what is known of the deployments; blocks for some 50 ms if any of them is a cloud service's.

        Args:
            path: the operator's table; None: `config/model-pricing.json`, if there is one.
            deployments: whose prices may be asked for; of others only the operator's table knows.
            clock: tells when to look at the file again.

        Raises:
            ConfigError: the table cannot be read or holds no prices.
        """
        self._path = place_of(path)
        self._clock = clock
        abroad = [deployment for deployment in deployments if not deployment.local]
        shipped = _shipped() if abroad else {}
        self._shipped = {d.name: entry for d in abroad if (entry := _entry_of(d, shipped)) is not None}
        self._warned: set[str] = set()
        self._looked_ns = clock.monotonic_ns()
        self._seen = _identity(self._path)
        self._own = own_prices(path) or {}

    def of(self, deployment: Deployment) -> Price:
        """Return the price of a deployment's tokens now.

        The operator's entry for the deployment's name or model counts first. Without one, what runs on own
        machines is free, and of a cloud model LiteLLM's list is asked; UNKNOWN if it does not know either.
        """
        now_ns = self._clock.monotonic_ns()
        if now_ns - self._looked_ns >= LOOK_EVERY_NS:
            self._look(now_ns)
        if self._own:
            own = self._own.get(deployment.known_as) or _own_entry(deployment, self._own)
            if own is not None:
                return own
        if deployment.local:
            return FREE
        price = self._shipped.get(deployment.name, UNKNOWN)
        if not price.known and deployment.name not in self._warned:
            self._warned.add(deployment.name)
            log.warning("pricing.unknown", deployment=deployment.name, model=deployment.model)
        return price

    def _look(self, now_ns: int) -> None:
        """Read the table anew if it has changed; one that cannot be used changes nothing."""
        self._looked_ns = now_ns
        seen = _identity(self._path)
        if seen == self._seen:
            return
        self._seen = seen
        if seen is None:
            # A table that is being replaced is gone for a moment; prices do not fall to nothing by that.
            log.warning("pricing.table_missing", path=str(self._path))
            return
        try:
            self._own = read_table(self._path)
        except ConfigError as error:
            log.warning("pricing.table_refused", path=str(self._path), error=str(error))
        else:
            self._warned.clear()
            log.info("pricing.table_read", path=str(self._path), models=len(self._own))


def place_of(path: Path | None) -> Path:
    """Return where the operator's table lies, or by default would lie."""
    return DEFAULT_PATH if path is None else path.expanduser()


def own_prices(path: Path | None) -> dict[str, Price] | None:
    """Return the prices of the operator's table; None: no path is configured, and there is none.

    Raises:
        ConfigError: it is configured and missing, cannot be read, or holds what is no price.
    """
    if path is None and not DEFAULT_PATH.exists():
        return None
    return read_table(place_of(path))


def read_table(path: Path) -> dict[str, Price]:
    """Return the prices in a JSON object of model or deployment names to entries.

    An entry has LiteLLM's fields (`input_cost_per_token`, `output_cost_per_token`, dollars) or
    `input_usd_per_million` and `output_usd_per_million`; for cached prompt tokens
    `cache_read_input_token_cost` or `cached_input_usd_per_million`. Further fields are LiteLLM's business.

    Raises:
        ConfigError: it is no such file; the first entry at fault is named.
    """
    try:
        table = json.loads(path.read_text(encoding="utf-8"), parse_float=Decimal)
    except OSError as error:
        raise ConfigError(
            f"The table of prices {path} cannot be read: {error.strerror}.",
            hint="Correct pricing.path, or MODEL_PRICING_TABLE_PATH, or remove it.",
            param="pricing.path",
        ) from None
    except ValueError as error:
        raise _no_table(path, f"no JSON: {error}") from None
    if not isinstance(table, dict):
        raise _no_table(path, "no JSON object")
    prices = {}
    for name, entry in table.items():
        price = price_of(entry) if isinstance(entry, dict) else None
        if price is None:
            raise ConfigError(
                f"The table of prices {path} has no price for {name[:80]!r}.",
                hint="Write input_usd_per_million and output_usd_per_million, numbers from 0.",
                param="pricing.path",
            )
        prices[name] = price
    return prices


def _no_table(path: Path, what: str) -> ConfigError:
    return ConfigError(
        f"The table of prices {path} is {what}.",
        hint='Write {"MODEL": {"input_usd_per_million": 0.15, "output_usd_per_million": 0.6}}.',
        param="pricing.path",
    )


def price_of(entry: Mapping[str, Any]) -> Price | None:
    """Return the price that an entry states for input and output tokens; None if it does not state both."""
    base = _price(entry, "", ())
    if base is None:
        return None
    beyond = []
    for field in entry:
        found = _BEYOND.match(field)
        if found is not None:
            suffix = f"_above_{found[1]}k_tokens"
            price = _price(entry, suffix, (base.prompt, base.completion, base.cached_prompt))
            if price is not None:
                beyond.append((int(found[1]) * 1000, price))
    beyond.sort(key=lambda pair: pair[0])
    return Price(
        prompt=base.prompt,
        completion=base.completion,
        cached_prompt=base.cached_prompt,
        beyond=tuple(beyond),
    )


def _price(entry: Mapping[str, Any], suffix: str, otherwise: tuple[Fraction | None, ...]) -> Price | None:
    values = [
        _micros(entry, f"{per_token}{suffix}", per_million if not suffix else "")
        for per_token, per_million in _FIELDS.values()
    ]
    if otherwise:
        values = [other if value is None else value for value, other in zip(values, otherwise, strict=True)]
    prompt, completion, cached = values
    if prompt is None or completion is None:
        return None
    return Price(prompt=prompt, completion=completion, cached_prompt=cached)


def _micros(entry: Mapping[str, Any], per_token: str, per_million: str) -> Fraction | None:
    """Return millionths of a dollar for one token: as many as dollars for a million."""
    for name, factor in ((per_million, 1), (per_token, _MICROS)):
        value = entry.get(name)
        if value is None or isinstance(value, bool):
            continue
        try:
            amount = Decimal(str(value))
        except InvalidOperation:
            return None
        return Fraction(amount) * factor if amount.is_finite() and amount >= 0 else None
    return None


def _own_entry(deployment: Deployment, table: Mapping[str, Price]) -> Price | None:
    """Return the entry of the deployment's model; only by the deployment's name can one at home cost."""
    if deployment.local:
        return None
    return next((table[name] for name in _names_of(deployment) if name in table), None)


def _entry_of(deployment: Deployment, shipped: Mapping[str, Any]) -> Price | None:
    for name in _names_of(deployment):
        entry = shipped.get(name)
        if not isinstance(entry, dict):
            continue
        provider = _provider_of(deployment)
        # `azure/gpt-4o` costs other than `gpt-4o`: without its provider's prefix an entry must be of it.
        if "/" in deployment.model and name != deployment.model and entry.get("litellm_provider") != provider:
            continue
        return price_of(entry)
    return None


def _names_of(deployment: Deployment) -> tuple[str, ...]:
    model = deployment.model
    bare = model.partition("/")[2]
    names = (model, f"{deployment.engine}/{model}", bare)
    return tuple(dict.fromkeys(name for name in names if name))


def _provider_of(deployment: Deployment) -> str:
    return deployment.model.partition("/")[0] if "/" in deployment.model else deployment.engine


def _shipped() -> dict[str, Any]:
    """Return LiteLLM's list; nothing if this LiteLLM has none."""
    spec = importlib.util.find_spec("litellm")
    if spec is None or spec.origin is None:
        return {}
    try:
        text = (Path(spec.origin).parent / _LIST_NAME).read_text(encoding="utf-8")
        found = json.loads(text, parse_float=Decimal)
    except (OSError, ValueError) as error:
        log.warning("pricing.list_unreadable", error=str(error))
        return {}
    return found if isinstance(found, dict) else {}


def _identity(path: Path) -> tuple[int, int, int] | None:
    """Return what changes with the file; None when there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
