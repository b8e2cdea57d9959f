"""The tree of keys: which exist, what they allow."""

import pytest

from trivet.config.keys import all_keys, environment_name, nearest_key, shape_at
from trivet.config.tree import Path


def test_all_keys_are_listed_with_stand_ins() -> None:
    """Lists show N, tables NAME; every leaf is there once."""
    keys = all_keys()
    assert len(set(keys)) == len(keys)
    assert {
        "server.port",
        "tiers.N.deployments.N.launch.path",
        "routing.policies.NAME.min_tier",
        "routing.task_types",
        "budgets.thresholds",
    } <= set(keys)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (("server", "port"), "a whole number from 0 to 65535"),
        (("budgets", "default_daily_tokens"), "a whole number greater than 0, or null"),
        (("tiers", 0, "complexity"), "a list of 2, each a number from 0 to 1"),
        (("tiers", 0, "deployments", 0, "transport"), "one of auto, relay, litellm"),
        (("tiers", 0, "deployments", 0, "engine"), "one of ollama, vllm, llamacpp, openai, litellm, or null"),
        (
            ("server",),
            (
                "a mapping with the keys host, port, body_limit_bytes, head_timeout_s, body_timeout_s, "
                "drain_timeout_s, write_timeout_s, "
                "keep_alive_interval_s"
            ),
        ),
        (("routing", "policies"), "a mapping of names to values"),
        (("budgets", "exhausted_status"), "one of 429, 402"),
        (("access", "pepper"), "text, ${VARIABLE} or file:/path, or null"),
    ],
)
def test_what_is_allowed_is_read_from_the_tree(path: Path, expected: str) -> None:
    """The sentence comes from the annotation, bounds included."""
    shape = shape_at(path)
    assert shape is not None
    assert shape.allowed() == expected


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ((), True),
        (("access",), True),
        (("tiers",), True),
        (("fleet", "vllm_api_key"), True),
        (("fleet", "vllm_url"), False),
        (("routing",), False),
    ],
)
def test_parts_that_hold_secrets_are_known(path: Path, expected: object) -> None:
    """A section is as secret as what it holds."""
    shape = shape_at(path)
    assert shape is not None
    assert shape.holds_secret() is expected


def test_no_shape_where_no_key_is() -> None:
    """Unknown keys, positions beyond a fixed list, and steps below a leaf have no shape."""
    assert shape_at(("nothing",)) is None
    assert shape_at(("tiers", 0, "complexity", 2)) is None
    assert shape_at(("server", "port", "x")) is None


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (("budget",), "budgets"),
        (("execution", "dead_line_s"), "execution.deadline_s"),
        (("server", "drain_s"), "server.drain_timeout_s"),
        (("xyzzy",), None),
    ],
)
def test_the_nearest_key_is_near_or_none(path: Path, expected: str | None) -> None:
    """A wild guess is worse than none."""
    assert nearest_key(path) == expected


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("server.port", "TRIVET_SERVER__PORT"),
        ("tiers", "TRIVET_TIERS"),
        ("tiers.N.name", None),
        ("routing.policies.NAME.min_tier", None),
    ],
)
def test_the_variable_of_a_key(key: str, expected: str | None) -> None:
    """Each key outside lists has one variable."""
    assert environment_name(key) == expected
