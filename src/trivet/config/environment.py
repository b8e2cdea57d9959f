"""What the environment says: Trivet's own names, and those it honours from elsewhere."""

import contextlib
import ipaddress
import json
import re
import urllib.parse
from collections.abc import Callable, Mapping

from trivet.config.keys import ENVIRONMENT_PREFIX, root_shape
from trivet.config.problems import Problem, shown, unknown_key
from trivet.config.settings import default_tiers
from trivet.config.tree import DEFAULT, Node, merge, nested, node_of

RESERVED = frozenset(
    {"TRIVET_CONFIG", "TRIVET_URL", "TRIVET_API_KEY", "TRIVET_TEST_SCALE", "TRIVET_FAILPOINT"}
)
"""Names that begin like settings and are none: where to look, whom to ask, how long to test, where to die."""

# Kubernetes and Docker links put these beside every container when a service is called `trivet`.
_SERVICE_LINK = re.compile(r"TRIVET_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?)")
_OLLAMA_PORTS = {"http": 80, "https": 443}
_SEED_MODELS = ("MODEL_LIGHT", "MODEL_STANDARD", "MODEL_HEAVY")


def trivet_values(environ: Mapping[str, str], problems: list[Problem]) -> Node:
    """Read every `TRIVET_SECTION__KEY`; lists and whole sections are JSON; an empty value is not set."""
    tree = Node({}, DEFAULT)
    names = [name for name in environ if name.startswith(ENVIRONMENT_PREFIX) and _is_setting(name, environ)]
    # Shallow names first: TRIVET_ROUTING (a whole section) is refined by TRIVET_ROUTING__ENABLED.
    for name in sorted(names, key=lambda name: (name.count("__"), name)):
        path = tuple(name.removeprefix(ENVIRONMENT_PREFIX).lower().split("__"))
        node = _value(name, path, environ[name], problems)
        if node is not None:
            tree = merge(tree, nested(path, node))
    return tree


def seed_values(environ: Mapping[str, str], problems: list[Problem]) -> Node:
    """Read the names of other makers: the first guide's six, OLLAMA_HOST and vLLM's."""
    names: dict[str, tuple[tuple[str, ...], Callable[[str], str | None]]] = {
        "MODEL_ROUTING_ENABLED": (("routing", "enabled"), str.strip),
        "TOKEN_BUDGET_DAILY": (("budgets", "default_daily_tokens"), _unless_null),
        "TOKEN_BUDGET_MONTHLY": (("budgets", "default_monthly_tokens"), _unless_null),
        "MODEL_PRICING_TABLE_PATH": (("pricing", "path"), str.strip),
        "GUARDRAIL_ALERT_WEBHOOK": (("signals", "webhook_url"), str.strip),
        "OLLAMA_HOST": (("fleet", "ollama_url"), ollama_url),
        "VLLM_BASE_URL": (("fleet", "vllm_url"), server_root),
        "VLLM_API_KEY": (("fleet", "vllm_api_key"), str.strip),
    }
    tree = Node({}, DEFAULT)
    for name, (path, convert) in names.items():
        text = environ.get(name, "").strip()
        if not text:
            continue
        origin = f"{name} (environment)"
        try:
            node = Node(convert(text), origin)
        except ValueError as error:
            problems.append(Problem(".".join(path), origin, f"got {shown(text)}; {error}"))
            continue
        tree = merge(tree, nested(path, node))
    if any(environ.get(name, "").strip() for name in _SEED_MODELS):
        tree = merge(tree, Node({"tiers": _seed_tiers(environ)}, DEFAULT))
    return tree


def ollama_url(text: str) -> str:
    """Return the URL that Ollama's own client would use for a value of OLLAMA_HOST.

    Accepted are `host`, `host:port`, `:port`, IPv6 in brackets, and URLs. Without a scheme the port is
    11434 by default, with one it is the scheme's. A wildcard address becomes the loopback address.

    Raises:
        ValueError: it is none of these.
    """
    text = text.strip().strip("\"'")
    scheme, separator, rest = text.partition("://")
    if not separator:
        scheme, rest = "http", text
    default_port = _OLLAMA_PORTS.get(scheme, 11434) if separator else 11434
    allowed = "allowed: host, host:port, or a URL such as http://127.0.0.1:11434."
    if scheme not in _OLLAMA_PORTS:
        raise ValueError(allowed)
    bare = rest.strip("[]")
    with contextlib.suppress(ValueError):
        rest = f"[{ipaddress.IPv6Address(bare)}]"
    try:
        parts = urllib.parse.urlsplit(f"{scheme}://{rest}")
        host, port = parts.hostname or "127.0.0.1", parts.port or default_port
    except ValueError:
        raise ValueError(allowed) from None
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 -- compared, not bound
    host = f"[{host}]" if ":" in host else host
    path = parts.path.strip("/")
    return f"{scheme}://{host}:{port}" + (f"/{path}" if path else "")


def server_root(text: str) -> str:
    """Return a server's URL without a trailing slash and without `/v1`."""
    return text.strip().rstrip("/").removesuffix("/v1").rstrip("/")


def _is_setting(name: str, environ: Mapping[str, str]) -> bool:
    if name in RESERVED or _SERVICE_LINK.fullmatch(name) or not environ[name].strip():
        return False
    return not (name == "TRIVET_PORT" and "://" in environ[name])


def _value(name: str, path: tuple[str, ...], text: str, problems: list[Problem]) -> Node | None:
    origin, key = f"{name} (environment)", ".".join(path)
    shape = root_shape()
    for step in path:
        if shape.kind == "list":
            whole = name[: name.index("__")]
            problems.append(Problem(key, origin, f"a list is given whole, as JSON, in {whole}."))
            return None
        below = shape.child(step)
        if below is None:
            problems.append(unknown_key(key, path, origin))
            return None
        shape = below
    if shape.optional and text.strip() == "null":
        return Node(None, origin)
    if shape.kind == "leaf":
        return Node(text, origin)
    try:
        return node_of(json.loads(text), origin)
    except json.JSONDecodeError as error:
        message = f"must be JSON: {error.msg} at character {error.pos + 1}; allowed: {shape.allowed()}."
        problems.append(Problem(key, origin, message))
        return None


def _seed_tiers(environ: Mapping[str, str]) -> Node:
    """Return the default tiers with the models that MODEL_LIGHT, MODEL_STANDARD and MODEL_HEAVY name."""
    tiers = node_of([tier.model_dump(exclude_unset=True) for tier in default_tiers()], DEFAULT)
    used: set[str] = set()
    for variable, tier in zip(_SEED_MODELS, tiers.value, strict=True):
        deployment: dict[str, Node] = tier.value["deployments"].value[0].value
        model = environ.get(variable, "").strip()
        if model:
            deployment["model"] = Node(model, f"{variable} (environment)")
        model = deployment["model"].value
        if model in used:
            # One model for two tiers is a sensible wish; names must differ, and no variable sets them.
            deployment["name"] = Node(f"{model}@{tier.value['name'].value}", deployment["model"].origin)
        used.add(model)
    return tiers


def _unless_null(text: str) -> str | None:
    return None if text == "null" else text
