"""The command line, in processes of its own, against a running server and without one."""

import asyncio
import contextlib
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.doubles.commands import run_command
from tests.e2e.conftest import ServerProcess, server_process, write_config
from trivet.app import open_trivet
from trivet.config.settings import Settings
from trivet.domain.budgets import Hold
from trivet.domain.scopes import Scope


@pytest.fixture(scope="module")
def server(
    tiny_models: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    """A server in a process of its own."""
    directory = tmp_path_factory.mktemp("cli")
    config = write_config(directory, tiny_models)
    with server_process(config, directory / "trivet.db", directory / "serve.log") as found:
        yield found


def clean_environ() -> dict[str, str]:
    """Return the environment without what would set up Trivet."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("TRIVET_", "MODEL_", "TOKEN_"))}


def trivet(*arguments: str, environ: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command in a process that has loaded it, and return what it did."""
    return run_command(arguments, {**clean_environ(), **(environ or {})})


def started_anew(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a shell does, and return what it did."""
    return subprocess.run(
        [sys.executable, "-m", "trivet", *arguments],
        capture_output=True,
        text=True,
        env=clean_environ(),
        timeout=60,
        stdin=subprocess.DEVNULL,
    )


def as_json(*arguments: str, environ: Mapping[str, str] | None = None) -> Any:
    """Run the command with --json and return the document."""
    done = trivet(*arguments, "--json", environ=environ)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_version() -> None:
    """`--version` prints name and version."""
    done = started_anew("--version")
    assert (done.returncode, done.stdout.split()[0]) == (0, "trivet")


@pytest.mark.parametrize(
    "command",
    [
        "demo",
        "serve",
        "chat",
        "route",
        "report",
        "budgets",
        "keys",
        "config",
        "gpus",
        "doctor",
        "bench",
        "ledger",
    ],
)
def test_help(command: str) -> None:
    """Every command explains itself."""
    done = started_anew(command, "--help")
    assert done.returncode == 0
    assert "Usage" in done.stdout


def test_life_of_a_tenant(server: ServerProcess) -> None:
    """Budget, key, chat, route, reports, proof: found through the store, without URL or key."""
    place = ("--config", str(server.config))
    status = as_json("budgets", "set", "acme.search", "--daily", "5000", *place)
    limits = {(row["scope"], row["window"]): row["limit"] for row in status["rows"]}
    assert limits["acme.search", "daily"] == 5000
    key = as_json("keys", "create", "acme.search.ana", *place)["key"]

    remote = {"TRIVET_URL": server.url, "TRIVET_API_KEY": key}
    answer = as_json("chat", "Hello", "--max-tokens", "8", environ=remote)
    assert (answer["tier"], type(answer["text"]), bool(answer["reason"])) == ("light", str, True)
    assert as_json("route", "Hello", "--min-tier", "heavy", environ=remote)["tier"] == "heavy"
    mine = as_json("budgets", "status", "acme.search.ana", environ=remote)
    assert {row["scope"] for row in mine["rows"]} == {"acme", "acme.search", "acme.search.ana"}

    listed = as_json("budgets", "list", *place)["rows"]
    assert {"acme", "acme.search", "acme.search.ana"} <= {row["scope"] for row in listed}
    assert as_json("report", "savings", "--since", "1h", *place)["gpu_hours_saved"] == 0.0
    rows = as_json("report", "usage", "--by", "scope,tier", "--since", "1h", *place)["rows"]
    assert ("acme.search.ana", "light") in {(row["scope"], row["tier"]) for row in rows}
    assert set(as_json("ledger", "verify", *place)) == {"ok", "rows", "entries", "differences"}
    examined = as_json("doctor", *place)
    assert examined["ok"] is True
    assert {check["state"] for check in examined["checks"]} <= {"ok", "warning"}
    assert {check["check"] for check in examined["checks"]} >= {"gpu driver", "port", "store", "ledger"}
    key_id = next(
        k["key_id"] for k in as_json("keys", "list", *place)["keys"] if k["scope"] == "acme.search.ana"
    )
    assert as_json("keys", "revoke", key_id, *place) == {"key_id": key_id, "revoked": True}
    assert trivet("chat", "Hello", environ=remote).returncode == 5
    as_json("budgets", "clear", "acme.search", *place)


def test_tables(server: ServerProcess) -> None:
    """Without --json there are tables for people."""
    place = ("--config", str(server.config))
    for arguments, expected in (
        (("chat", "Hello", "--max-tokens", "6"), "[light"),
        (("route", "Hello"), "complexity"),
        (("route", "Hello", "--reserve"), "expires_at"),
        (("budgets", "list"), "resets"),
        (("budgets", "status", "default"), "Burn rate"),
        (("keys", "list"), "admin"),
        (("report", "savings"), "GPU hours saved"),
        (("report", "usage"), "requests"),
        (("ledger", "verify"), "ok:"),
        (("doctor",), "ledger"),
        (("config", "show", "--changed"), "tiers.light"),
        (("config", "check"), "llamacpp"),
    ):
        done = trivet(*arguments, *place)
        assert done.returncode == 0, (arguments, done.stderr)
        assert expected in done.stdout + done.stderr, arguments


def test_without_a_server(tiny_models: Mapping[str, Path], tmp_path: Path) -> None:
    """When nobody owns the store the command opens it itself."""
    config = write_config(tmp_path, tiny_models)
    place = ("--config", str(config))
    as_json("budgets", "set", "solo", "--daily", "1000", *place)
    assert as_json("chat", "Hello", "--max-tokens", "6", "--scope", "solo", *place)["tier"] == "light"
    used = [row["used"] for row in as_json("budgets", "list", *place)["rows"] if row["scope"] == "solo"]
    assert used[0] > 0
    assert as_json("ledger", "verify", *place)["ok"] is True


def test_ledger_names_each_difference(tmp_path: Path) -> None:
    """What was tampered with stands on a line of its own, and the exit status tells."""
    store = tmp_path / "trivet.db"
    environ = {"TRIVET_STORE__PATH": str(store)}
    assert trivet("budgets", "set", "acme", "--daily", "1000", environ=environ).returncode == 0
    with contextlib.closing(sqlite3.connect(store)) as connection, connection:
        connection.execute("UPDATE limits SET amount = 9000")
    done = trivet("ledger", "verify", environ=environ)
    assert done.returncode == 8
    (line,) = done.stdout.splitlines()
    assert line.startswith("limit: ")
    assert "9000" in line
    assert "1000" in line
    assert "1 difference." in done.stderr


async def test_what_a_killed_process_held_is_told(tmp_path: Path) -> None:
    """Whichever command opens the store first charges the holds, and says so once."""
    store = tmp_path / "trivet.db"
    settings = Settings.model_validate({"store": {"path": store}, "logging": {"level": "error"}})
    async with open_trivet(settings, with_engines=False) as opened:
        opened.ledger.reserve(Hold.of_tokens(Scope("acme"), 7), reservation_id="r").result()
    environ = {"TRIVET_STORE__PATH": str(store)}
    first = await asyncio.to_thread(trivet, "ledger", "verify", environ=environ)
    again = await asyncio.to_thread(trivet, "ledger", "verify", environ=environ)
    assert (first.returncode, again.returncode) == (0, 0)
    assert "Charged 1 hold that an earlier process left open." in first.stderr
    assert "Charged" not in again.stderr


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, "cannot be read: No such file"),
        ('{"gpt-9": {"input_usd_per_million": 1}}', "no price for 'gpt-9'"),
    ],
)
def test_a_check_reads_the_prices(tmp_path: Path, text: str | None, told: str) -> None:
    """A table that is named has to be there and to hold prices, before anything is started with it."""
    table, config = tmp_path / "prices.json", tmp_path / "trivet.yaml"
    config.write_text(f"pricing:\n  path: {table}\n")
    if text is not None:
        table.write_text(text)
    refused = trivet("config", "check", "--config", str(config))
    assert (refused.returncode, "Traceback" in refused.stderr) == (3, False)
    assert str(table) in refused.stderr
    assert told in refused.stderr


def test_a_check_tells_of_the_prices(tmp_path: Path) -> None:
    """How many there are; without a path nothing has to lie in the default place."""
    table, config = tmp_path / "prices.json", tmp_path / "trivet.yaml"
    config.write_text("server:\n  port: 8999\n")
    assert as_json("config", "check", "--config", str(config))["prices"] is None
    config.write_text(f"pricing:\n  path: {table}\n")
    table.write_text('{"gpt-9": {"input_usd_per_million": 1, "output_usd_per_million": 2}}')
    told = as_json("config", "check", "--config", str(config))["prices"]
    assert told == {"path": str(table), "models": 1}


def test_errors_are_sentences(tmp_path: Path) -> None:
    """Errors are one sentence on standard error and a status that says their kind."""
    broken = tmp_path / "broken.yaml"
    broken.write_text("server:\n  prot: 9\n")
    for arguments, status, words in (
        (("config", "check", "--config", str(broken)), 3, "server.port"),
        (("serve", "--config", str(broken)), 3, "server.port"),
        (("config", "check", "--config", str(tmp_path / "none.yaml")), 3, "none.yaml"),
        (("chat", "x", "--url", "http://127.0.0.1:9"), 7, "trivet serve"),
        (("budgets", "set", "acme"), 2, "--daily"),
    ):
        done = trivet(*arguments)
        assert done.returncode == status, (arguments, done.stderr)
        assert words in done.stderr
        assert "Traceback" not in done.stderr


def test_taken_port_and_owned_store(server: ServerProcess, tmp_path: Path) -> None:
    """A second server says who owns the store, or that the port is taken."""
    owned = trivet("serve", "--config", str(server.config), "--port", "0")
    assert (owned.returncode, server.url in owned.stderr) == (4, True)
    port = server.url.rsplit(":", 1)[1]
    taken = trivet("serve", "--port", port, "--store", str(tmp_path / "other.db"))
    assert (taken.returncode, "--port" in taken.stderr) == (3, True)


def test_engines_down_at_start(tmp_path: Path) -> None:
    """With every engine down Trivet starts, says what to do for each, and is not ready."""
    environ = {
        "OLLAMA_HOST": "127.0.0.1:9",
        "VLLM_BASE_URL": "http://127.0.0.1:9",
        "TRIVET_SERVER__PORT": "0",
    }
    config = tmp_path / "trivet.yaml"
    config.write_text(f"store:\n  path: {tmp_path / 'trivet.db'}\n")
    doctor = trivet("doctor", "--config", str(config), environ=environ)
    assert doctor.returncode == 1
    assert "Start it with `ollama serve`" in " ".join(doctor.stdout.split())
    assert "Start it with `vllm serve`" in " ".join(doctor.stdout.split())


def test_doctor_lists_every_problem_of_a_configuration(tmp_path: Path) -> None:
    """Each problem is a line with its fix, and the machine is examined all the same."""
    broken = tmp_path / "broken.yaml"
    broken.write_text("server:\n  prot: 9\n  port: x\n")
    done = trivet("doctor", "--config", str(broken), "--json")
    document = json.loads(done.stdout)
    problems = [check for check in document["checks"] if check["check"] == "configuration"]
    assert (done.returncode, document["ok"]) == (1, False)
    assert [check["state"] for check in problems] == ["error", "error"]
    assert "server.port" in problems[0]["fix"]
    assert {"sqlite", "gpu driver"} <= {check["check"] for check in document["checks"]}


def test_doctor_knows_which_gpus_are_here(tiny_models: Mapping[str, Path], tmp_path: Path) -> None:
    """An engine that is to be launched on a GPU that is not there is an error before it is tried."""
    config = tmp_path / "trivet.yaml"
    config.write_text(
        f"store: {{path: {tmp_path / 'trivet.db'}}}\n"
        "tiers:\n"
        + "".join(
            f"- {{name: {tier}, cost_weight: 1, complexity: {span}, deployments: [{{model: llamacpp/{tier}, "
            f"devices: [GPU-none], launch: {{path: '{tiny_models['light']}'}}}}]}}\n"
            for tier, span in (("light", "[0, 0.5]"), ("heavy", "[0.5, 1]"))
        )
    )
    done = trivet("doctor", "--config", str(config), "--json")
    checks = {check["check"]: check for check in json.loads(done.stdout)["checks"]}
    assert done.returncode == 1
    assert checks["devices llamacpp/heavy"]["state"] == "error"
    assert "GPU-none" in checks["devices llamacpp/heavy"]["detail"]


async def test_serve_prints_what_one_needs(server: ServerProcess) -> None:
    """`serve` prints URL, tiers, engine states, the first key once, and a curl line that works."""
    log = (server.config.parent / "serve.log").read_text()
    key = next(word for word in log.split() if word.startswith("tvt_"))
    assert server.url in log
    assert all(f"tiny-{tier}" in log for tier in ("light", "standard", "heavy"))
    assert log.count(key) == 2  # once by itself, once in the curl line
    script = log[log.index("  curl ") :].strip().split("\n\n")[0]
    process = await asyncio.create_subprocess_shell(
        script, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    assert json.loads(output)["choices"]


def test_a_running_servers_store_is_backed_up(server: ServerProcess, tmp_path: Path) -> None:
    """A proven copy, made beside the server; putting one back has to wait until it ends."""
    copy = tmp_path / "copy.db"
    copied = as_json("store", "backup", str(copy), "--config", str(server.config))
    assert copied["size_bytes"] == copy.stat().st_size
    refused = trivet("store", "restore", str(copy), "--config", str(server.config))
    assert refused.returncode == 4
    assert server.url in refused.stderr
    elsewhere = tmp_path / "elsewhere.yaml"
    elsewhere.write_text(f"store: {{path: {tmp_path / 'new' / 'trivet.db'}}}")
    restored = trivet("store", "restore", str(copy), "--config", str(elsewhere))
    assert restored.returncode == 0, restored.stderr
    assert f"put it back as {tmp_path / 'new' / 'pepper'}" in restored.stderr


def test_engines(server: ServerProcess) -> None:
    """The engines of the running server with their gates; the table names each, with its limit."""
    config = ("--config", str(server.config))
    assert trivet("chat", "Hello", *config).returncode == 0
    listed = as_json("engines", *config)["deployments"]
    table = trivet("engines", *config).stdout
    assert [each["tier"] for each in listed] == ["light", "standard", "heavy"]
    gates = [each["admission"] for each in listed if each["admission"] is not None]
    assert [(gate["limit"], gate["in_flight"]) for gate in gates] == [(4, 0)]
    assert all(each["name"] in table for each in listed)
    assert "limit" in table


def test_keys_rates_and_overrides(server: ServerProcess) -> None:
    """What operators do with keys, rate limits and overrides works on the command line."""
    config = ("--config", str(server.config))
    key = as_json("keys", "create", "doors.ana", "--daily", "500", "--priority", "batch", *config)
    assert (key["scope"], key["priority"]) == (f"doors.ana.key-{key['key_id']}", "batch")
    assert as_json("keys", "priority", key["key_id"], "critical", *config)["priority"] == "critical"
    assert as_json("keys", "label", key["key_id"], "nightly", *config)["label"] == "nightly"
    assert "nightly" in trivet("keys", "list", *config).stdout
    rotated = as_json("keys", "rotate", key["key_id"], "--overlap-hours", "1", *config)
    assert (rotated["replaces"], rotated["scope"]) == (key["key_id"], key["scope"])
    assert as_json("rates", "set", "doors", "--rpm", "60", *config)["requests_per_minute"] == 60
    assert as_json("rates", "list", *config)["limits"][0]["scope"] == "doors"
    assert "doors" in trivet("rates", "list", *config).stdout
    assert as_json("rates", "clear", "doors", *config) == {"scope": "doors", "cleared": True}
    chief = as_json("keys", "create", "boss", "--role", "admin", *config)["key"]
    as_json("budgets", "set", "doors", "--daily", "1000", *config)
    asked = as_json(
        *("overrides", "request", "doors", "--amount", "50", "--reason", "a test", *config),
        environ={"TRIVET_API_KEY": chief},
    )
    assert asked["state"] == "requested"
    own = trivet("overrides", "approve", asked["override_id"], *config, environ={"TRIVET_API_KEY": chief})
    assert (own.returncode, "cannot decide" in own.stderr) == (5, True)
    assert as_json("overrides", "approve", asked["override_id"], *config)["state"] == "approved"
    assert asked["override_id"] in trivet("overrides", "list", "--scope", "doors", *config).stdout
    assert as_json("overrides", "revoke", asked["override_id"], *config)["state"] == "revoked"
