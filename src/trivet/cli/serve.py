"""`trivet serve`"""

import asyncio
import contextlib
import os
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trivet.cli.output import print_json, say, say_recovered
from trivet.cli.session import ConfigOption, JsonOption

if TYPE_CHECKING:
    from trivet.app import OpenTrivet


def serve(
    config: ConfigOption = None,
    host: Annotated[
        str | None, typer.Option(help="Address to listen on.  [default: 127.0.0.1]", show_default=False)
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(help="Port to listen on; 0 picks a free one.  [default: 8748]", show_default=False),
    ] = None,
    store: Annotated[
        Path | None, typer.Option(help="SQLite file of the ledger and the records.", show_default=False)
    ] = None,
    log_format: Annotated[str | None, typer.Option(help="console or json.", show_default=False)] = None,
    exit_with_stdin: Annotated[
        bool,
        typer.Option("--exit-with-stdin", help="Stop when standard input closes; for supervisors."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Serve the tiers of the configuration on an OpenAI-compatible port.

    Without a configuration file the tiers come from MODEL_LIGHT, MODEL_STANDARD and MODEL_HEAVY.

    Examples:
      trivet serve --config trivet.yaml
      MODEL_HEAVY=vllm/qwen2.5:72b trivet serve --port 9000
    """
    from trivet.app import serve as serve_until_stopped
    from trivet.app.logs import configure_logging
    from trivet.config.load import load_settings
    from trivet.domain import failpoints
    from trivet.domain.serving import make_collections_short, new_event_loop

    failpoints.arm(os.environ.get(failpoints.VARIABLE))
    flags = {"server.host": host, "server.port": port, "store.path": store, "logging.format": log_format}
    loaded = load_settings(config_path=config, flags=flags)
    configure_logging(loaded.settings.logging)
    if exit_with_stdin:
        threading.Thread(target=_stop_with_standard_input, name="lifeline", daemon=True).start()
    say(f"Configuration: {loaded.path or 'environment and defaults'}. Starting engines ...")

    def started(trivet: "OpenTrivet", url: str, first_key: str | None) -> None:
        make_collections_short()
        (_announce_json if as_json else _announce)(trivet, url, first_key)

    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(serve_until_stopped(loaded.settings, started=started))
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # all is settled: a late signal changes nothing any more


def _announce_json(trivet: "OpenTrivet", url: str, first_key: str | None) -> None:
    print_json(
        {
            "url": url,
            "first_key": first_key,
            "recovered_holds": trivet.recovered_holds,
            "deployments": trivet.fleet.report(),
        }
    )
    sys.stdout.flush()


def _stop_with_standard_input() -> None:
    """Wait for the end of the input, then stop as on SIGTERM: drain, settle, end the engines."""
    with contextlib.suppress(OSError):
        while os.read(0, 4096):
            pass
    os.kill(os.getpid(), signal.SIGTERM)


def _announce(trivet: "OpenTrivet", url: str, first_key: str | None) -> None:
    say(f"\nTrivet listens on {url}")
    say_recovered(trivet.recovered_holds)
    for engine in trivet.fleet.report():
        serves = engine["state"] not in ("down", "failed", "absent") or engine["swap_group"] is not None
        mark = f"{engine['state'] if serves else engine['state'].upper():<8}"
        note = f": {engine['detail']}" if engine["detail"] else ""
        say(f"  {engine['tier']:<10} {mark} {engine['name']} ({engine['engine']}){note}")
    if first_key is not None:
        say(f"\nFirst start. The admin key, shown only this once:\n  {first_key}")
    key = first_key or "$TRIVET_API_KEY"
    say(
        "\nTry:\n"
        f'  curl {url}/v1/chat/completions -H "Authorization: Bearer {key}" \\\n'
        "    -H 'Content-Type: application/json' \\\n"
        '    -d \'{"model": "auto", "messages": [{"role": "user", "content": "Hello"}]}\'\n'
    )
