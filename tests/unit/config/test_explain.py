"""Each setting with its value and its origin."""

import json

from tests.unit.config.conftest import TWO_TIERS, Load
from trivet.config.explain import Row, explain, explain_json


def test_rows_follow_the_tree_and_name_the_tiers(load: Load) -> None:
    """The order is the tree's, at every call; tiers and tables are flattened by name."""
    loaded = load()
    keys = [row.key for row in explain(loaded)]
    assert keys[:2] == ["server.host", "server.port"]
    assert keys == [row.key for row in explain(load())]
    assert {
        "tiers.light.deployments.0.model",
        "tiers.heavy.complexity",
        "routing.policies.code.min_tier",
        "routing.task_types.fix_bug",
    } <= set(keys)
    assert len(set(keys)) == len(keys)


def test_rows_show_value_and_origin(load: Load) -> None:
    """Each row says what holds and where it came from."""
    rows = explain(load(TWO_TIERS, flags={"server.port": 5}, environ={"OLLAMA_HOST": "box"}))
    for expected in (
        Row("server.port", 5, "flag"),
        Row("fleet.ollama_url", "http://box:11434", "OLLAMA_HOST (environment)"),
        Row("tiers.big.complexity", [0.5, 1.0], "file trivet.yaml:9"),
        Row("tiers.big.deployments.0.model", "ollama/b", "file trivet.yaml:10"),
        Row("tiers.big.deployments.0.slots", None, "default"),
        Row("store.path", "~/.local/share/trivet/trivet.db", "default"),
    ):
        assert expected in rows


def test_secrets_are_never_shown(load: Load) -> None:
    """A secret that is set is eight asterisks, one that is not is null; passwords in addresses are hidden."""
    text = """
fleet: {vllm_api_key: hunter2, vllm_url: "http://me:hunter2@box"}
tiers:
  - name: small
    cost_weight: 1
    complexity: [0, 0.5]
    deployments: [{model: openai/a, url: http://x, api_key: hunter2, capabilities: [vision, tools]}]
  - name: big
    cost_weight: 4
    complexity: [0.5, 1]
    deployments: [{model: ollama/b}]
"""
    loaded = load(text)
    shown = {row.key: row.value for row in explain(loaded)}
    assert shown["fleet.vllm_api_key"] == "********"
    assert shown["fleet.vllm_url"] == "http://********@box"
    assert shown["tiers.small.deployments.0.api_key"] == "********"
    assert shown["tiers.big.deployments.0.api_key"] is None
    assert shown["tiers.small.deployments.0.capabilities"] == ["tools", "vision"]
    assert "hunter2" not in json.dumps(explain_json(loaded))


def test_the_json_form_names_the_file(load: Load) -> None:
    """One object: the path that was read, and a list of keys, values and origins."""
    assert explain_json(load())["path"] is None
    document = json.loads(json.dumps(explain_json(load("server: {port: 5}"))))
    assert document["path"].endswith("trivet.yaml")
    assert {"key": "server.port", "value": 5, "origin": "file trivet.yaml:1"} in document["settings"]
