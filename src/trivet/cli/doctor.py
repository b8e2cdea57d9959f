"""`trivet doctor`"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from trivet.cli import doctor_engines, doctor_machine
from trivet.cli.engines import circuit
from trivet.cli.exits import FAILED
from trivet.cli.findings import Finding, State, error, ok, told, warning
from trivet.cli.output import print_json, print_table, say
from trivet.cli.own_machine import look
from trivet.cli.session import Address, ConfigOption, JsonOption, KeyOption, UrlOption, ask
from trivet.domain.engine_states import EngineState
from trivet.domain.errors import ConfigError, TrivetError
from trivet.domain.gpus import Inventory
from trivet.domain.tiers import is_gpu

if TYPE_CHECKING:
    from trivet.config.load import Loaded
    from trivet.domain.tiers import Deployment
    from trivet.sdk.client import Trivet

_SERVING = frozenset({EngineState.READY, EngineState.SLEEPING})
_OUT = frozenset({EngineState.FAILED, EngineState.DOWN})


def doctor(
    config: ConfigOption = None, url: UrlOption = None, api_key: KeyOption = None, as_json: JsonOption = False
) -> None:
    """Examine this machine, the configuration, the store and every engine; say what to do about each fault.

    Each line is ok, a warning (works, and could stop doing so) or an error, with the fix. Without a running
    server the engines of the configuration are started for the examination. Exits with 1 when there is an
    error.

    Examples:
      trivet doctor
      trivet doctor --config trivet.yaml --json
    """
    address = Address(url, api_key, config)
    findings = list(_examine(address))
    healthy = all(finding.state != "error" for finding in findings)
    if as_json:
        print_json({"ok": healthy, "checks": [finding.as_json() for finding in findings]})
    else:
        print_table(
            ("check", "state", "detail", "fix"), [(f.check, f.state, f.detail, f.fix) for f in findings]
        )
        say(f"{len(findings)} checks: {_count(findings, 'error')}, {_count(findings, 'warning')}.")
    if not healthy:
        raise typer.Exit(FAILED)


def _count(findings: list[Finding], state: State) -> str:
    number = sum(finding.state == state for finding in findings)
    return f"{number or 'no'} {state}{'' if number == 1 else 's'}"


def _examine(address: Address) -> Iterator[Finding]:
    from trivet.storage import StoreLock

    yield from doctor_machine.software()
    loaded, deployments, problems = _configuration(address.config)
    inventory = look(address.config)
    yield from doctor_machine.gpus(inventory)
    yield doctor_machine.open_files()
    yield from problems
    if loaded is not None:
        server, store = loaded.settings.server, loaded.settings.store.path.expanduser()
        owner = None
        try:
            owner = StoreLock.owner(store)
            yield doctor_machine.store_place(store)
            url = loaded.settings.store.url
            if url is not None:
                yield doctor_machine.shared_store(url.get_secret_value())
            redis = loaded.settings.redis
            if redis.url is not None:
                yield doctor_machine.redis(redis.url.get_secret_value(), redis.timeout_s)
        except TrivetError as fault:
            yield told("store", "error", str(fault), otherwise="Set `store.path`.")
        yield doctor_machine.port(server.host, server.port, owner.url if owner else None)
        yield from _engines(loaded, deployments)
        yield from _placed(loaded, deployments, inventory)
    # Without a usable configuration the service could only say the same again.
    if address.url or loaded is not None:
        yield from _service(address)


def _configuration(path: Path | None) -> "tuple[Loaded | None, tuple[Deployment, ...], list[Finding]]":
    """Return what could be read, and a finding for each problem."""
    from trivet.config.deployments import build_deployments
    from trivet.config.load import load_settings

    try:
        loaded = load_settings(config_path=path)
        deployments = build_deployments(loaded.settings)
    except ConfigError as fault:
        fix = "Correct it; `trivet config check` shows the same, docs/reference/config.md every key."
        listed = fault.details.get("problems") or [{"key": "", "origin": "", "message": str(fault)}]
        return None, (), [_problem(problem, fix) for problem in listed]
    note = f"{loaded.path or 'environment and defaults'}; {len(deployments)} deployments"
    return loaded, deployments, [ok("configuration", note)]


def _problem(problem: dict[str, str], fix: str) -> Finding:
    where = f"{problem['key']} ({problem['origin']})" if problem["origin"] else problem["key"]
    return told(
        "configuration",
        "error",
        f"{where}: {problem['message']}" if where else problem["message"],
        otherwise=fix,
    )


def _engines(loaded: "Loaded", deployments: "tuple[Deployment, ...]") -> Iterator[Finding]:
    """Check what is installed and what answers, then the disks that their models go to."""
    from trivet.config.deployments import launch_of

    fleet = loaded.settings.fleet
    path = os.environ.get("PATH")
    launches = {d.name: launch_of(loaded.settings, d.name) for d in deployments}
    kinds = {kind: [d for d in deployments if d.engine == kind] for kind in ("ollama", "vllm", "llamacpp")}
    by_command = [launch for d in kinds["vllm"] if (launch := launches[d.name]) is not None]
    needs_ollama = any(d.url == fleet.ollama_url for d in kinds["ollama"])
    found = doctor_engines.ollama(fleet.ollama_url, needed=needs_ollama, path=path)
    yield found
    yield doctor_engines.vllm(
        fleet.vllm_url, kinds["vllm"], doctor_engines.first_words(by_command), path=path
    )
    yield doctor_engines.llamacpp(needed=any(launches[d.name] for d in kinds["llamacpp"]))
    ollama_folder, hub_folder = doctor_machine.model_folders(os.environ, Path.home())
    wanted = doctor_machine.PULL_WANTED_BYTES
    if needs_ollama and _is_here(fleet.ollama_url):
        yield doctor_machine.disk(
            "ollama's models",
            ollama_folder,
            wanted,
            "Remove models (`ollama rm`), or set OLLAMA_MODELS to a larger disk.",
        )
    if any(launch.tensor_parallel > 1 for launch in by_command):
        yield doctor_machine.shared_memory()
    if by_command:
        yield doctor_machine.disk(
            "vllm's models",
            hub_folder,
            wanted,
            "Remove models (`hf cache delete`), or set HF_HOME to a larger disk.",
        )


def _placed(
    loaded: "Loaded", deployments: "tuple[Deployment, ...]", inventory: Inventory
) -> Iterator[Finding]:
    """Check that each engine to be launched is given GPUs that are here and can be used."""
    from trivet.config.deployments import launch_of

    usable = {gpu.uuid for gpu in inventory.gpus if gpu.plannable}
    for deployment in deployments:
        missing = [device for device in deployment.devices if is_gpu(device) and device not in usable]
        if missing and launch_of(loaded.settings, deployment.name) is not None:
            yield error(
                f"devices {deployment.name}",
                f"{', '.join(missing)} cannot be used here",
                "Correct `devices`; `trivet gpus --json` shows each UUID with its state.",
            )


def _is_here(url: str) -> bool:
    return any(f"//{host}" in url for host in ("127.", "localhost", "[::1]"))


def _service(address: Address) -> Iterator[Finding]:
    async def examine(trivet: "Trivet") -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        deployments = await trivet.call("GET", "/api/v1/deployments")
        proof = await trivet.call("POST", "/api/v1/ledger/verify")
        return deployments, proof, await trivet.call("GET", "/api/v1/alerts", params={"limit": "1"})

    try:
        deployments, proof, alerts = ask(address, examine, with_engines=True)
        yield from [*_judged(deployments, proof, alerts)]
    except TrivetError as fault:
        yield error("service", fault.message, fault.hint or "Start it: `trivet serve`.")


def _judged(deployments: dict[str, Any], proof: dict[str, Any], alerts: dict[str, Any]) -> Iterator[Finding]:
    yield from (engine_found(engine) for engine in deployments["deployments"])
    note = f"{proof['rows']} counters, {proof['entries']} entries"
    if proof["ok"]:
        yield ok("ledger", note)
    else:
        yield error("ledger", f"{note}; they do not agree", "`trivet ledger verify` names each difference.")
    if alerts["delivery"] is not None:
        yield _delivery(alerts["delivery"])


def _delivery(delivery: dict[str, Any]) -> Finding:
    note = f"{delivery['delivered']} delivered, {delivery['waiting']} waiting, {delivery['dead']} given up"
    if not delivery["dead"] and delivery["last_error"] is None:
        return ok("alerts", note)
    return warning(
        "alerts",
        f"{note}; {delivery['last_error'] or 'no reason was kept'}",
        "Correct `signals.webhook_url` or its receiver; then `trivet alerts retry`.",
    )


def engine_found(engine: dict[str, Any]) -> Finding:
    """Judge an engine by what a running Trivet reports of it."""
    state, detail = engine["state"], engine.get("detail") or ""
    check = f"engine {engine['name']}"
    note = f"{engine['tier']}, {state}" + (f": {detail}" if detail else "")
    has_turns = engine.get("swap_group") is not None and state not in _OUT
    if state in _SERVING or has_turns:
        rests = circuit(engine)
        fix = "It failed requests: see the engine's own log."
        return warning(check, f"{note}; {rests}", fix) if rests else ok(check, note)
    rank: State = "error" if state in _OUT else "warning"
    wait = (
        "Wait; it becomes ready by itself." if state != EngineState.ABSENT else "It starts when it is needed."
    )
    where = f"See its log: {engine['log']}." if engine.get("log") else "See the engine's own log."
    return told(check, rank, note, otherwise=where if rank == "error" else wait)
