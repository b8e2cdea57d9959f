"""The environment: TRIVET_ names, and those of other makers."""

import pytest

from tests.unit.config.conftest import TWO_TIERS, Load, Refuse
from trivet.config.environment import RESERVED, ollama_url, server_root


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("box", "http://box:11434"),
        ("box:99", "http://box:99"),
        (":99", "http://127.0.0.1:99"),
        ("1.2.3.4", "http://1.2.3.4:11434"),
        ("0.0.0.0", "http://127.0.0.1:11434"),
        ("0.0.0.0:99", "http://127.0.0.1:99"),
        ("http://0.0.0.0:99/", "http://127.0.0.1:99"),
        ("http://box:99", "http://box:99"),
        ("http://box", "http://box:80"),
        ("https://box", "https://box:443"),
        ("https://box:99/under/", "https://box:99/under"),
        ("box/under", "http://box:11434/under"),
        ("::1", "http://[::1]:11434"),
        ("[::1]", "http://[::1]:11434"),
        ("[::1]:99", "http://[::1]:99"),
        ("[::]:99", "http://[::1]:99"),
        ("::", "http://[::1]:11434"),
        ('"box"', "http://box:11434"),
        (" box ", "http://box:11434"),
    ],
)
def test_ollama_host_is_read_as_ollama_reads_it(text: str, expected: str) -> None:
    """Every form that Ollama takes becomes the URL that a client can use."""
    assert ollama_url(text) == expected


@pytest.mark.parametrize("text", ["ftp://box", "box:port", "box:99999", "http://[zz]"])
def test_another_ollama_host_is_refused(refuse: Refuse, text: str) -> None:
    """A scheme or port that cannot be is told with the variable and the forms allowed."""
    said = refuse(environ={"OLLAMA_HOST": text})
    assert said.startswith("fleet.ollama_url (OLLAMA_HOST): got ")
    assert "allowed: host, host:port, or a URL" in said


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://box:8000", "http://box:8000"),
        ("http://box:8000/", "http://box:8000"),
        ("http://box:8000/v1", "http://box:8000"),
        ("http://box:8000/v1/", "http://box:8000"),
        ("http://box/v1/under", "http://box/v1/under"),
    ],
)
def test_a_base_url_may_end_in_v1(text: str, expected: str) -> None:
    """The root is meant, with or without /v1 and slashes at the end."""
    assert server_root(text) == expected


def test_the_three_models_of_the_seed(load: Load) -> None:
    """MODEL_* give the models of the default tiers; a tier not named keeps its own."""
    loaded = load(environ={"MODEL_LIGHT": "ollama/a", "MODEL_HEAVY": "vllm/c"})
    assert [tier.deployments[0].model for tier in loaded.settings.tiers] == [
        "ollama/a",
        "ollama/qwen2.5:32b",
        "vllm/c",
    ]
    assert [tier.cost_weight for tier in loaded.settings.tiers] == [1.0, 3.0, 10.0]
    assert [
        loaded.origins[f"tiers.{name}.deployments.0.model"] for name in ("light", "standard", "heavy")
    ] == [
        "MODEL_LIGHT (environment)",
        "default",
        "MODEL_HEAVY (environment)",
    ]
    assert loaded.origins["tiers.light.name"] == "default"


def test_one_model_for_several_tiers(load: Load) -> None:
    """The same model may serve two tiers: the second deployment is named after its tier."""
    environ = {"MODEL_LIGHT": "ollama/a", "MODEL_STANDARD": "ollama/a", "MODEL_HEAVY": "ollama/a"}
    tiers = load(environ=environ).settings.tiers
    assert [(tier.deployments[0].model, tier.deployments[0].name) for tier in tiers] == [
        ("ollama/a", None),
        ("ollama/a", "ollama/a@standard"),
        ("ollama/a", "ollama/a@heavy"),
    ]


@pytest.mark.parametrize("stronger", ["file", "TRIVET_TIERS"])
def test_the_seed_models_yield_to_a_list_of_tiers(load: Load, stronger: str) -> None:
    """Where the file or TRIVET_TIERS gives tiers, MODEL_* say nothing."""
    environ = {"MODEL_LIGHT": "ollama/x", "MODEL_STANDARD": "ollama/y", "MODEL_HEAVY": "ollama/z"}
    tiers = (
        '[{"name": "small", "cost_weight": 1, "complexity": [0, 0.5],'
        '  "deployments": [{"model": "ollama/a"}]},'
        ' {"name": "big", "cost_weight": 4, "complexity": [0.5, 1],'
        '  "deployments": [{"model": "ollama/b"}]}]'
    )
    given = (
        load(TWO_TIERS, environ=environ)
        if stronger == "file"
        else load(environ={**environ, "TRIVET_TIERS": tiers})
    )
    assert [tier.deployments[0].model for tier in given.settings.tiers] == ["ollama/a", "ollama/b"]


@pytest.mark.parametrize(
    "name", ["MODEL_LIGHT", "TOKEN_BUDGET_DAILY", "OLLAMA_HOST", "VLLM_API_KEY", "TRIVET_SERVER"]
)
def test_an_empty_variable_is_not_set(load: Load, name: str) -> None:
    """An empty value is as good as none, as compose files and shells produce it."""
    assert set(load(environ={name: " "}).origins.values()) == {"default"}


def test_the_guides_names_of_prices_and_alerts(load: Load) -> None:
    """The first guide's webhook and table are honoured, and weaker than Trivet's own names and the file."""
    environ = {
        "GUARDRAIL_ALERT_WEBHOOK": "https://hooks.slack.com/services/T/B/x",
        "MODEL_PRICING_TABLE_PATH": "prices.json",
    }
    settings = load(environ=environ).settings
    assert settings.signals.webhook_url is not None
    assert settings.signals.webhook_url.get_secret_value() == environ["GUARDRAIL_ALERT_WEBHOOK"]
    assert str(settings.pricing.path) == "prices.json"
    own = {**environ, "TRIVET_SIGNALS__WEBHOOK_URL": "https://own.example/"}
    stronger = load("pricing: {path: mine.json}", environ=own).settings
    assert stronger.signals.webhook_url is not None
    assert stronger.signals.webhook_url.get_secret_value() == "https://own.example/"
    assert str(stronger.pricing.path) == "mine.json"


@pytest.mark.parametrize("name", sorted(RESERVED - {"TRIVET_CONFIG"}))
def test_reserved_names_are_no_settings(load: Load, name: str) -> None:
    """The names that steer the command line and the tests are left alone."""
    assert set(load(environ={name: "x"}).origins.values()) == {"default"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TRIVET_SERVICE_HOST", "10.0.0.1"),
        ("TRIVET_SERVICE_PORT", "8748"),
        ("TRIVET_SERVICE_PORT_HTTP", "8748"),
        ("TRIVET_PORT", "tcp://10.0.0.1:8748"),
        ("TRIVET_PORT_8748_TCP", "tcp://10.0.0.1:8748"),
        ("TRIVET_PORT_8748_TCP_ADDR", "10.0.0.1"),
    ],
)
def test_service_links_are_no_settings(load: Load, name: str, value: str) -> None:
    """What Kubernetes sets in every container beside a service called trivet is left alone."""
    assert set(load(environ={name: value}).origins.values()) == {"default"}


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("TRIVET_SERVER__PROT", "server.port (TRIVET_SERVER__PORT)"),
        ("TRIVET_SERVER_PORT", "server.port (TRIVET_SERVER__PORT)"),
        ("TRIVET_PORT", "server.port (TRIVET_SERVER__PORT)"),
        ("TRIVET_ROUTING__ENABLE", "routing.enabled (TRIVET_ROUTING__ENABLED)"),
        (
            "TRIVET_DEFAULT_DAILY_TOKENS",
            "budgets.default_daily_tokens (TRIVET_BUDGETS__DEFAULT_DAILY_TOKENS)",
        ),
    ],
)
def test_an_unknown_variable_is_refused_with_the_nearest(refuse: Refuse, name: str, meant: str) -> None:
    """The message names the variable, and the key and variable that were probably meant."""
    said = refuse(environ={name: "1"})
    assert f"({name}): there is no such setting; did you mean {meant}?" in said


def test_a_bad_value_names_its_variable(refuse: Refuse) -> None:
    """The origin in the message is the variable, whoever's name it is."""
    assert refuse(environ={"TOKEN_BUDGET_DAILY": "many"}) == (
        "budgets.default_daily_tokens (TOKEN_BUDGET_DAILY): got 'many'; "
        "allowed: a whole number greater than 0, or null."
    )
    assert "routing.enabled (MODEL_ROUTING_ENABLED): got 'perhaps'" in refuse(
        environ={"MODEL_ROUTING_ENABLED": "perhaps"}
    )


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("TRIVET_BUDGETS__THRESHOLDS", "50,80", ["must be JSON", "a list, each a whole number"]),
        ("TRIVET_TIERS", "[{", ["tiers (TRIVET_TIERS)", "must be JSON", "character"]),
        ("TRIVET_TIERS__0__NAME", "x", ["a list is given whole, as JSON, in TRIVET_TIERS"]),
        ("TRIVET_SERVER", "8748", ["server (TRIVET_SERVER)", "got 8748", "a mapping with the keys"]),
    ],
)
def test_lists_and_sections_are_json(refuse: Refuse, name: str, value: str, words: list[str]) -> None:
    """Anything but JSON for them is refused with what is allowed."""
    said = refuse(environ={name: value})
    assert [word for word in words if word not in said] == []


@pytest.mark.parametrize(
    ("text", "expected"), [("true", True), ("0", False), ("off", False), ("Yes", True), ("FALSE", False)]
)
def test_switches_take_the_usual_words(load: Load, text: str, expected: bool) -> None:
    """MODEL_ROUTING_ENABLED takes true, false, 1, 0, yes, no, on and off."""
    assert load(environ={"MODEL_ROUTING_ENABLED": text}).settings.routing.enabled is expected


def test_null_unsets_an_optional_value(load: Load) -> None:
    """`null` takes away a default that may be absent."""
    settings = load(environ={"TRIVET_BUDGETS__DEFAULT_DAILY_TOKENS": "null"}).settings
    assert settings.budgets.default_daily_tokens is None
