"""`trivet doctor`"""

import platform
import sqlite3
import sys
from importlib import metadata
from typing import TYPE_CHECKING, Any

import typer

from trivet.cli.exits import FAILED
from trivet.cli.output import print_json, print_table
from trivet.cli.session import Address, ConfigOption, JsonOption, KeyOption, UrlOption, ask
from trivet.domain.errors import TrivetError

if TYPE_CHECKING:
    from trivet.sdk.client import Trivet

Finding = tuple[str, str, str]
# https://sqlite.org/wal.html#walresetbug: two connections that write or checkpoint at the same moment
# can corrupt a WAL file before these versions. Trivet writes and checkpoints through one connection only.
_WAL_FIXED = ((3, 44, 6), (3, 50, 7), (3, 51, 3))


def doctor(
    config: ConfigOption = None, url: UrlOption = None, api_key: KeyOption = None, as_json: JsonOption = False
) -> None:
    """Examine this machine, the configuration, the store and every engine; say what to do about each fault.

    Without a running server the engines of the configuration are started for the examination.
    Exits with 1 when something fails.
    """
    findings = [*_machine(), *_configuration(config), *_service(Address(url, api_key, config))]
    failed = any(state == "fail" for _, state, _ in findings)
    if as_json:
        checks = [{"check": check, "state": state, "detail": detail} for check, state, detail in findings]
        print_json({"ok": not failed, "checks": checks})
    else:
        print_table(("check", "state", "detail"), findings)
    if failed:
        raise typer.Exit(FAILED)


def _machine() -> list[Finding]:
    from trivet.gpu import gpu_uuids

    gpus = gpu_uuids()
    return [
        ("python", "ok" if sys.version_info >= (3, 11) else "fail", platform.python_version()),
        ("sqlite", "ok", _sqlite_note()),
        ("tzdata", "ok", metadata.version("tzdata")),
        ("litellm", *_litellm()),
        ("llama.cpp", *_llamacpp()),
        (
            "gpus",
            "ok" if gpus else "warn",
            ", ".join(gpus) or "none found by NVML; work on the CPU is counted as engine seconds",
        ),
    ]


def _sqlite_note() -> str:
    version = sqlite3.sqlite_version_info
    fixed = version >= (3, 51, 3) or any(version[:2] == line[:2] and version >= line for line in _WAL_FIXED)
    return f"{sqlite3.sqlite_version}" + (
        "" if fixed else " (has the WAL-reset fault; one process, one writer: not reachable here)"
    )


def _litellm() -> tuple[str, str]:
    version = metadata.version("litellm")
    if version in ("1.82.7", "1.82.8"):
        return (
            "fail",
            f"{version} is a malicious release: remove it, and treat every secret on this machine as stolen",
        )
    return "ok", version


def _llamacpp() -> tuple[str, str]:
    try:
        return "ok", f"xllamacpp {metadata.version('xllamacpp')}"
    except metadata.PackageNotFoundError:
        return "warn", "not installed; for the embedded engine: pip install 'trivet[llamacpp]'"


def _configuration(config: ConfigOption) -> list[Finding]:
    from trivet.config.deployments import build_deployments
    from trivet.config.load import load_settings

    try:
        loaded = load_settings(config_path=config)
        deployments = build_deployments(loaded.settings)
    except TrivetError as error:
        return [("configuration", "fail", str(error))]
    return [
        (
            "configuration",
            "ok",
            f"{loaded.path or 'environment and defaults'}; {len(deployments)} deployments",
        )
    ]


def _service(address: Address) -> list[Finding]:
    async def examine(trivet: "Trivet") -> tuple[dict[str, Any], dict[str, Any]]:
        deployments = await trivet.call("GET", "/api/v1/deployments")
        return deployments, await trivet.call("POST", "/api/v1/ledger/verify")

    try:
        deployments, proof = ask(address, examine, with_engines=True)
    except TrivetError as error:
        return [("service", "fail", str(error))]
    findings: list[Finding] = [
        (
            f"engine {engine['name']}",
            {"ready": "ok", "down": "fail", "failed": "fail"}.get(engine["state"], "warn"),
            f"{engine['tier']}, {engine['state']}"
            + (f": {engine['detail']}" if engine.get("detail") else ""),
        )
        for engine in deployments["deployments"]
    ]
    note = f"{proof['rows']} counters, {proof['entries']} entries"
    findings.append(
        ("ledger", "ok", note) if proof["ok"] else ("ledger", "fail", f"{note}; see `trivet ledger verify`")
    )
    return findings
