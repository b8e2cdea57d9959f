"""Settings from all sources: precedence, origins, files, secrets."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.unit.config.conftest import TWO_TIERS, Load, Refuse
from trivet.config.load import find_file, load_settings
from trivet.config.settings import Settings
from trivet.domain.errors import ConfigError

PORT_FLAG = {"server.port": 1}
PORT_VARIABLE = {"TRIVET_SERVER__PORT": "2"}
PORT_FILE = "server:\n  port: 3\n"


@pytest.mark.parametrize(
    ("flags", "environ", "text", "expected", "origin"),
    [
        (PORT_FLAG, PORT_VARIABLE, PORT_FILE, 1, "flag"),
        (PORT_FLAG, {}, None, 1, "flag"),
        ({"server.port": None}, PORT_VARIABLE, PORT_FILE, 2, "TRIVET_SERVER__PORT (environment)"),
        ({}, PORT_VARIABLE, PORT_FILE, 2, "TRIVET_SERVER__PORT (environment)"),
        ({}, {"TRIVET_SERVER__PORT": ""}, PORT_FILE, 3, "file trivet.yaml:2"),
        ({}, {"TRIVET_SERVER": '{"port": 2}'}, PORT_FILE, 2, "TRIVET_SERVER (environment)"),
        ({}, {"TRIVET_SERVER": '{"port": 9}', **PORT_VARIABLE}, None, 2, "TRIVET_SERVER__PORT (environment)"),
        ({}, {}, PORT_FILE, 3, "file trivet.yaml:2"),
        ({}, {}, "server:\n", 8748, "default"),
        ({}, {}, None, 8748, "default"),
    ],
)
def test_the_stronger_source_wins_and_is_named(
    load: Load, flags: dict[str, Any], environ: dict[str, str], text: str | None, expected: int, origin: str
) -> None:
    """A flag beats TRIVET_*, which beats the file, which beats the default; the winner is the origin."""
    loaded = load(text, flags=flags, environ=environ)
    assert (loaded.settings.server.port, loaded.origins["server.port"]) == (expected, origin)


@pytest.mark.parametrize(
    ("seed", "value", "key", "expected", "variable", "text"),
    [
        ("MODEL_ROUTING_ENABLED", "false", "routing.enabled", False, "true", "routing: {enabled: true}"),
        (
            "TOKEN_BUDGET_DAILY",
            "5",
            "budgets.default_daily_tokens",
            5,
            "7",
            "budgets: {default_daily_tokens: 9}",
        ),
        (
            "TOKEN_BUDGET_MONTHLY",
            "5",
            "budgets.default_monthly_tokens",
            5,
            "7",
            "budgets: {default_monthly_tokens: 9}",
        ),
        (
            "TOKEN_BUDGET_DAILY",
            "null",
            "budgets.default_daily_tokens",
            None,
            "7",
            "budgets: {default_daily_tokens: 9}",
        ),
        (
            "OLLAMA_HOST",
            "box",
            "fleet.ollama_url",
            "http://box:11434",
            "http://v",
            "fleet: {ollama_url: http://f}",
        ),
        (
            "VLLM_BASE_URL",
            "http://box/v1",
            "fleet.vllm_url",
            "http://box",
            "http://v",
            "fleet: {vllm_url: http://f}",
        ),
    ],
)
def test_a_seed_name_is_weaker_than_the_file_and_stronger_than_the_default(
    load: Load, seed: str, value: str, key: str, expected: object, variable: str, text: str
) -> None:
    """Each name of another maker sets its key unless the file or a TRIVET_ variable does."""
    section, name = key.split(".")
    trivet = "TRIVET_" + key.replace(".", "__").upper()
    alone = load(environ={seed: value})
    assert getattr(getattr(alone.settings, section), name) == expected
    assert alone.origins[key] == f"{seed} (environment)"
    assert load(environ={seed: value, trivet: variable}).origins[key] == f"{trivet} (environment)"
    assert load(text, environ={seed: value}).origins[key] == "file trivet.yaml:1"


def test_nothing_given_is_the_defaults(load: Load) -> None:
    """Without any source the tree is the default one and every origin says so."""
    loaded = load()
    assert loaded.settings == Settings()
    assert loaded.path is None
    assert set(loaded.origins.values()) == {"default"}


def test_origins_cover_the_parts_of_a_tier(load: Load) -> None:
    """Keys inside a tier carry the tier's name; those that the file leaves out are defaults."""
    loaded = load(TWO_TIERS)
    assert loaded.origins["tiers.small.deployments.0.model"] == "file trivet.yaml:6"
    assert loaded.origins["tiers.big.cost_weight"] == "file trivet.yaml:8"
    assert loaded.origins["tiers.big.max_output_tokens"] == "default"


def test_a_list_is_replaced_whole(load: Load) -> None:
    """A stronger source's list leaves nothing of a weaker one's."""
    loaded = load("budgets: {thresholds: [10, 20, 30]}", environ={"TRIVET_BUDGETS__THRESHOLDS": "[60, 90]"})
    assert loaded.settings.budgets.thresholds == (60, 90)


def test_a_policy_in_the_file_refines_the_default_ones(load: Load) -> None:
    """Tables are joined entry by entry: one policy can be added without repeating the rest."""
    text = """
routing:
  policies: {code: {temperature: 0.5}, legal: {min_tier: heavy}}
  task_types: {nda: legal}
"""
    routing = load(text).settings.routing
    assert sorted(routing.policies) == ["code", "deep_research", "legal", "normal", "ops"]
    assert (routing.policies["code"].temperature, routing.policies["code"].min_tier) == (0.5, "standard")
    assert (routing.task_types["nda"], routing.task_types["fix_bug"]) == ("legal", "code")


def test_one_entry_of_a_table_from_the_environment(load: Load) -> None:
    """A variable can set a single entry of a table."""
    routing = load(environ={"TRIVET_ROUTING__TASK_TYPES__FIX_BUG": "ops"}).settings.routing
    assert (routing.task_types["fix_bug"], routing.task_types["deploy_code"]) == ("ops", "code")


def test_default_policies_do_not_bind_other_tiers(load: Load) -> None:
    """With tiers of other names the default policies lose the bounds that name tiers nobody has."""
    settings = load(TWO_TIERS + "routing: {policies: {code: {min_tier: big}}}\n").settings
    assert settings.routing.policies["deep_research"].min_tier is None
    assert settings.routing.policies["code"].min_tier == "big"


def test_the_settings_keep_the_names_of_the_seed(load: Load) -> None:
    """The limits are found under the seed's attribute names too."""
    settings = load(environ={"TOKEN_BUDGET_DAILY": "11", "TOKEN_BUDGET_MONTHLY": "22"}).settings
    assert (settings.token_budget_daily, settings.token_budget_monthly) == (11, 22)


def test_the_processes_own_environment_and_directory_are_the_default(tmp_path: Path) -> None:
    """Without arguments the process's environment and working directory are read, at the call."""
    (tmp_path / "trivet.yaml").write_text("server: {host: from-file, port: 1}")
    program = "from trivet.config.load import get_settings as g; s = g().server; print(s.host, s.port)"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={"TRIVET_SERVER__PORT": "9"},
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout == "from-file 9\n"


def test_the_file_is_searched_in_order(tmp_path: Path) -> None:
    """First the file that TRIVET_CONFIG names, then the directory's, then the home's, then none."""
    home, directory = tmp_path / "home", tmp_path / "here"
    in_home, here = home / ".config" / "trivet" / "trivet.yaml", directory / "trivet.yaml"
    environ = {"HOME": str(home)}
    assert find_file(environ, directory) is None
    in_home.parent.mkdir(parents=True)
    in_home.touch()
    assert find_file(environ, directory) == in_home
    directory.mkdir()
    here.touch()
    assert find_file(environ, directory) == here
    assert find_file({**environ, "TRIVET_CONFIG": "/etc/t.yaml"}, directory) == Path("/etc/t.yaml")
    assert find_file({**environ, "TRIVET_CONFIG": "t.yaml"}, directory) == directory / "t.yaml"
    assert find_file({**environ, "TRIVET_CONFIG": "~/t.yaml"}, directory) == home / "t.yaml"


def test_a_named_file_must_exist(tmp_path: Path) -> None:
    """A file named by the flag or by TRIVET_CONFIG that is not there is an error, not a default."""
    missing = tmp_path / "nowhere.yaml"
    with pytest.raises(ConfigError, match=r"nowhere\.yaml.*cannot be read.*--config or TRIVET_CONFIG"):
        load_settings(config_path=missing, environ={}, directory=tmp_path)
    with pytest.raises(ConfigError, match=r"nowhere\.yaml.*No such file"):
        load_settings(environ={"TRIVET_CONFIG": str(missing)}, directory=tmp_path)


def test_a_named_file_beats_the_search(tmp_path: Path) -> None:
    """The file of the flag is read, whatever lies in the directory; its whole path is the origin."""
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "trivet.yaml").write_text("server: {port: 1}")
    other = tmp_path / "other.yaml"
    other.write_text("server: {port: 2}")
    loaded = load_settings(config_path=other, environ={}, directory=tmp_path / "here")
    assert (loaded.settings.server.port, loaded.path) == (2, other)
    assert loaded.origins["server.port"] == f"file {other}:1"


@pytest.mark.parametrize("source", ["file", "variable", "json", "seed", "flag"])
def test_a_secret_may_lie_in_a_file(load: Load, tmp_path: Path, source: str) -> None:
    """`file:/path` stands for the file's content in every source, its last line break taken off."""
    (tmp_path / "key").write_text("s3cret\n")
    reference = f"file:{tmp_path / 'key'}"
    given: dict[str, dict[str, Any]] = {
        "file": {"text": f"fleet: {{vllm_api_key: 'file:{tmp_path / 'key'}'}}"},
        "variable": {"environ": {"TRIVET_FLEET__VLLM_API_KEY": reference}},
        "json": {"environ": {"TRIVET_FLEET": f'{{"vllm_api_key": "{reference}"}}'}},
        "seed": {"environ": {"VLLM_API_KEY": reference}},
        "flag": {"flags": {"fleet.vllm_api_key": reference}},
    }
    secret = load(**given[source]).settings.fleet.vllm_api_key
    assert secret is not None
    assert secret.get_secret_value() == "s3cret"


def test_a_secret_in_the_home_directory(load: Load, tmp_path: Path) -> None:
    """`file:~/path` begins at HOME."""
    (tmp_path / "key").write_text("s3cret")
    environ = {"HOME": str(tmp_path), "VLLM_API_KEY": "file:~/key"}
    secret = load(environ=environ).settings.fleet.vllm_api_key
    assert secret is not None
    assert secret.get_secret_value() == "s3cret"


def test_only_secrets_are_read_from_files(load: Load) -> None:
    """Elsewhere `file:` is plain text."""
    assert load("server: {host: 'file:/x'}").settings.server.host == "file:/x"


@pytest.mark.parametrize(
    ("content", "reason"), [(None, "No such file"), (b" \n", "is empty"), (b"\xff", "UTF-8")]
)
def test_a_secrets_file_that_fails_is_named(
    refuse: Refuse, tmp_path: Path, content: bytes | None, reason: str
) -> None:
    """A missing, empty or binary secret's file is an error that names key and file."""
    path = tmp_path / "key"
    if content is not None:
        path.write_bytes(content)
    said = refuse(environ={"VLLM_API_KEY": f"file:{path}"})
    assert said.startswith("fleet.vllm_api_key (VLLM_API_KEY): the secret's file")
    assert str(path) in said
    assert reason in said


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "server: {port: abc}",
            ["server.port (file trivet.yaml:1)", "got 'abc'", "a whole number from 0 to 65535"],
        ),
        ("server: {port: 70000}", ["got 70000", "0 to 65535"]),
        (
            "server:\n  drain_timeout_s: 0",
            ["server.drain_timeout_s (file trivet.yaml:2)", "a number greater than 0"],
        ),
        ("server: 5", ["server (file trivet.yaml:1)", "got 5", "a mapping with the keys host, port"]),
        ("routing: {enabled: maybe}", ["routing.enabled", "got 'maybe'", "true or false"]),
        ("routing: {policies: [a]}", ["routing.policies", "got a list", "a mapping of names to values"]),
        ("logging: {level: loud}", ["logging.level", "'loud'", "one of debug, info, warning, error"]),
        (
            "budgets: {thresholds: 50}",
            ["budgets.thresholds", "got 50", "a list, each a whole number greater than 0"],
        ),
        ("budgets: {thresholds: [50, 101]}", ["budgets.thresholds.1", "got 101", "at most 100"]),
        ("budgets: {default_daily_tokens: 0}", ["budgets.default_daily_tokens", "greater than 0, or null"]),
        ("budgets: {time_zone: Mars/Olympus}", ["budgets.time_zone", "'Mars/Olympus'", "Europe/Berlin"]),
        ("store: {path: 7}", ["store.path", "got 7", "a path"]),
        ("server: {host: 7}", ["server.host", "got 7", "text"]),
        ("tiers: []", ["tiers (file trivet.yaml:1)", "an empty list", "at least 2"]),
        (
            "routing: {default_policy: none}",
            ["routing.default_policy (file", "'none'", "the policies are normal"],
        ),
        ("routing: {task_types: {x: y}}", ["routing.task_types.x (file", "no policy is called 'y'"]),
        ("routing: {fixed_tier: huge}", ["routing.fixed_tier (file", "the tiers are light, standard, heavy"]),
        (
            "routing: {policies: {code: {min_tier: huge}}}",
            ["routing.policies.code (file", "'huge'", "the tiers are"],
        ),
        (TWO_TIERS + "routing: {enabled: false}", ["routing.fixed_tier", "'standard'", "small, big"]),
        (
            TWO_TIERS.replace("[0, 0.5]", "[0, 0.4]"),
            ["tiers.big.complexity (file trivet.yaml:9)", "without gaps"],
        ),
        (TWO_TIERS.replace("[0.5, 1]", "[0.5, 0.9]"), ["tiers (file", "must end at 1"]),
        (TWO_TIERS.replace("ollama/b", "ollama/a"), ["tiers (file", "ollama/a", "unique", "name"]),
        (TWO_TIERS.replace("ollama/b", "small"), ["a deployment cannot be called small"]),
        (
            TWO_TIERS.replace("cost_weight: 4", "max_output_tokens: 1"),
            ["tiers.big.cost_weight", "is missing"],
        ),
        (TWO_TIERS.replace("ollama/b", ""), ["tiers.big.deployments.0.model", "got null", "text"]),
        (TWO_TIERS.replace("name: big", "name: Big Tier"), ["tiers.Big Tier.name", "matches ^[a-z]"]),
        (
            TWO_TIERS.replace("[0, 0.5]", "[0]"),
            ["tiers.small.complexity.1", "is missing", "a number from 0 to 1"],
        ),
    ],
)
def test_a_bad_value_is_told_with_key_place_and_what_is_allowed(
    refuse: Refuse, text: str, words: list[str]
) -> None:
    """The message shows the dotted key, the line, what was given and what may be given."""
    said = refuse(text)
    assert [word for word in words if word not in said] == []


def test_all_problems_are_told_at_once(refuse: Refuse, load: Load) -> None:
    """Problems of all sources are listed together, and as data."""
    text = "server: {port: abc, hots: x}\nlogging: {level: loud}\n"
    environ = {"TRIVET_SERVR__PORT": "1", "OLLAMA_HOST": "ftp://x"}
    lines = refuse(text, environ=environ).splitlines()
    assert lines[0] == "The configuration has 5 problems:"
    assert sorted(line.split()[1] for line in lines[1:]) == [
        "fleet.ollama_url",
        "logging.level",
        "server.hots",
        "server.port",
        "servr.port",
    ]
    with pytest.raises(ConfigError) as caught:
        load(text, environ=environ)
    assert {problem["key"] for problem in caught.value.details["problems"]} == {
        "fleet.ollama_url",
        "logging.level",
        "server.hots",
        "server.port",
        "servr.port",
    }


@pytest.mark.parametrize(
    ("text", "environ"),
    [
        ("fleet: {vllm_api_key: [hunter2]}", {}),
        ("access: hunter2", {}),
        ("tiers: hunter2", {}),
        ("access: {pepper: {hunter2: 1}}\nserver: {port: x}", {}),
        ("access: {pepper: 123456789}", {}),
        ("access:\n  pepper: *hunter2\n", {}),
        ("access:\n  pepper: !hunter2 x\n", {}),
        ("access:\n  pepper: hunter2: hunter2\n", {}),
        ('access:\n  pepper: "hunter2\n', {}),
        ("fleet: {ollama_url: [http://me:hunter2@box]}\nserver: {host: [http://me:hunter2@box]}", {}),
        ("budgets: {time_zone: http://me:hunter2@box}", {}),
        ("", {"TRIVET_TIERS": '[{"api_key": "hunter2"'}),
        ("", {"TRIVET_ACCESS": '"hunter2"'}),
        ("", {"TRIVET_ACCESS__PEPER": "hunter2"}),
        ("", {"TRIVET_TIERS": '[{"name": "a", "deployments": [{"model": 1, "api_key": "hunter2"}]}]'}),
    ],
)
def test_an_error_never_repeats_a_secret(refuse: Refuse, text: str, environ: dict[str, str]) -> None:
    """Whatever is wrong around a secret, its text is not in the message."""
    said = refuse(text, environ=environ)
    assert "hunter2" not in said
    assert "123456789" not in said


def test_an_unknown_flag_is_refused(refuse: Refuse) -> None:
    """Flags are checked against the tree like any source."""
    assert refuse(flags={"server.prot": 1}) == (
        "server.prot (flag): there is no such setting; did you mean server.port?"
    )
