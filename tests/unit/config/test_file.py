"""The configuration file: YAML, its lines, its references."""

from pathlib import Path

import pytest

from tests.unit.config.conftest import TWO_TIERS, Load, Refuse
from trivet.config.load import load_settings
from trivet.domain.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("server: [", ["file trivet.yaml:1", "is not valid YAML"]),
        ("server:\n  port: 1\n host: x\n", ["file trivet.yaml:3", "is not valid YAML"]),
        ("- a\n- b\n", ["file trivet.yaml:1", "must be a mapping"]),
        ("just words", ["file trivet.yaml:1", "must be a mapping"]),
        ("a: 1\n---\nb: 2\n", ["file trivet.yaml:2", "is not valid YAML"]),
        ("server: {port: 1\x00}", ["file trivet.yaml", "characters YAML forbids"]),
        ("server:\n  port: 1\n  port: 2\n", ["server.port (file trivet.yaml:3)", "twice, on lines 2 and 3"]),
        ("server: {}\nserver: {}\n", ["server (file trivet.yaml:2)", "twice"]),
        ("? [a]\n: 1\n", ["trivet.yaml:1", "a key must be plain text"]),
        ("server: &s\n  host: *s\n", ["server.host", "must not contain itself"]),
        ("server.port: 1\n", ["server.port (file trivet.yaml:1)", "no dots", "mapping inside"]),
    ],
)
def test_a_file_that_cannot_be_read_says_where(refuse: Refuse, text: str, words: list[str]) -> None:
    """Broken YAML, a wrong root, duplicate keys and circles are told with their line."""
    said = refuse(text)
    assert [word for word in words if word not in said] == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "server:\n  prot: 1\n",
            "server.prot (file trivet.yaml:2): there is no such setting; did you mean server.port?",
        ),
        ("port: 1\n", "port (file trivet.yaml:1): there is no such setting; did you mean server.port?"),
        ("sever: {port: 1}\n", "sever (file trivet.yaml:1): there is no such setting; did you mean server?"),
        (
            "qqqqqq: 1\n",
            "qqqqqq (file trivet.yaml:1): there is no such setting; `trivet config show` lists all.",
        ),
        (
            TWO_TIERS.replace("{model: ollama/b}", "{model: ollama/b, contxt_tokens: 5}"),
            (
                "tiers.big.deployments.0.contxt_tokens (file trivet.yaml:10): there is no such setting; "
                "did you mean tiers.big.deployments.0.context_tokens?"
            ),
        ),
        (
            "routing: {default_daily_tokens: 5}\n",
            (
                "routing.default_daily_tokens (file trivet.yaml:1): there is no such setting; "
                "did you mean budgets.default_daily_tokens?"
            ),
        ),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest(refuse: Refuse, text: str, expected: str) -> None:
    """The message names the key, its line, and the key that was probably meant."""
    assert refuse(text) == expected


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "null\n", "server:\nrouting:\n  policies:\n"])
def test_an_empty_file_gives_nothing(load: Load, text: str) -> None:
    """No document, or sections whose every line is commented out, leave the defaults."""
    assert load(text).settings == load_settings(environ={}, directory=Path("/nonexistent")).settings


def test_an_empty_section_hides_no_weaker_source(load: Load) -> None:
    """`tiers:` with nothing below it leaves the models of the seed's names."""
    tiers = load("tiers:\n", environ={"MODEL_LIGHT": "ollama/x"}).settings.tiers
    assert tiers[0].deployments[0].model == "ollama/x"


@pytest.mark.parametrize(
    ("written", "environ", "expected"),
    [
        ("${HOST}", {"HOST": "a"}, "a"),
        ("x-${HOST}-${HOST}", {"HOST": "a"}, "x-a-a"),
        ("${HOST:-b}", {}, "b"),
        ("${HOST:-b}", {"HOST": ""}, "b"),
        ("${HOST:-b}", {"HOST": "a"}, "a"),
        ("${HOST:-}x", {}, "x"),
        ("$${HOST}", {"HOST": "a"}, "${HOST}"),
        ("$HOST", {"HOST": "a"}, "$HOST"),
        ("${HOST}", {"HOST": "${PORT}"}, "${PORT}"),
    ],
)
def test_references_are_replaced(load: Load, written: str, environ: dict[str, str], expected: str) -> None:
    """`${NAME}` is the variable, `${NAME:-text}` has a default, `$${` is literal; none is read twice."""
    assert load(f"server: {{host: '{written}'}}", environ=environ).settings.server.host == expected


def test_a_reference_may_hold_a_number(load: Load) -> None:
    """A number or a switch may come from a variable; its origin stays the file."""
    loaded = load("server:\n  port: ${PORT}\n", environ={"PORT": "99"})
    assert (loaded.settings.server.port, loaded.origins["server.port"]) == (99, "file trivet.yaml:2")


def test_a_reference_to_nothing_is_null(load: Load) -> None:
    """A value that expands to nothing is as good as null, so an optional secret may be left unset."""
    assert load("fleet: {vllm_api_key: '${KEY:-}'}").settings.fleet.vllm_api_key is None


def test_a_secret_from_a_variable_that_names_a_file(load: Load, tmp_path: Path) -> None:
    """A reference may expand to `file:/path`."""
    (tmp_path / "key").write_text("s3cret")
    secret = load(
        "access: {pepper: '${P}'}", environ={"P": f"file:{tmp_path / 'key'}"}
    ).settings.access.pepper
    assert secret is not None
    assert secret.get_secret_value() == "s3cret"


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("${NOPE}", ["server.host (file trivet.yaml:1)", "variable NOPE is not set", "${NOPE:-default}"]),
        ("${A}${B}", ["variable A", "variable B"]),
        ("${not a name}", ["begins no reference", "$${"]),
        ("${OPEN", ["begins no reference"]),
    ],
)
def test_a_reference_that_fails_is_told(refuse: Refuse, written: str, words: list[str]) -> None:
    """A missing variable is named with its key and line; so is a reference that is none."""
    said = refuse(f"server: {{host: '{written}'}}")
    assert [word for word in words if word not in said] == []


def test_a_failed_reference_in_a_tier_is_told_once(refuse: Refuse) -> None:
    """The key carries the tier's name, and nothing more is said about the hole that it leaves."""
    said = refuse(TWO_TIERS.replace("ollama/b", "'${MODEL}'"))
    assert said.startswith(
        "tiers.big.deployments.0.model (file trivet.yaml:10): the environment variable MODEL"
    )


def test_anchors_and_merge_keys_work(load: Load) -> None:
    """YAML's own means against repetition are available; a key beside `<<` wins over the merged one."""
    text = """
tiers:
  - &small
    name: small
    cost_weight: 1
    complexity: [0, 0.5]
    deployments: [{model: ollama/a}]
  - <<: *small
    name: big
    complexity: [0.5, 1]
    deployments: [{model: ollama/b}]
"""
    tiers = load(text).settings.tiers
    assert [(tier.name, tier.cost_weight) for tier in tiers] == [("small", 1.0), ("big", 1.0)]


def test_a_folder_and_binary_files_are_no_configuration(tmp_path: Path) -> None:
    """What is not a readable text file is told with the system's reason."""
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load_settings(config_path=tmp_path, environ={}, directory=tmp_path)
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="is not UTF-8 text"):
        load_settings(config_path=tmp_path / "binary", environ={}, directory=tmp_path)


def test_an_impossible_date_is_text(refuse: Refuse) -> None:
    """What looks like a date and is none is taken as it was written."""
    assert "got '2026-13-45'" in refuse("server: {port: 2026-13-45}")
