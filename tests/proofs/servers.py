"""`trivet serve` in processes of its own, in front of the counting engine."""

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.doubles.programs import free_port
from trivet.access import Keyring
from trivet.config.settings import AccessSettings
from trivet.domain.clock import SystemClock
from trivet.storage.database import Database

TIERS = ("light", "standard", "heavy")
WEIGHTS = {"light": 1.0, "standard": 3.0, "heavy": 10.0}
COMPLEXITY = {"light": (0.0, 0.3), "standard": (0.3, 0.7), "heavy": (0.7, 1.0)}
PEPPER = "a pepper for storms only"
START_TIMEOUT_S = 60.0


def write_config(path: Path, *, engine_url: str, store: Mapping[str, Any], ladder: str = "default") -> None:
    """Write a configuration with three tiers on one engine; the port is told on the command line."""
    tiers = [
        {
            "name": tier,
            "cost_weight": WEIGHTS[tier],
            "complexity": list(COMPLEXITY[tier]),
            "max_output_tokens": 512,
            "deployments": [
                {
                    "model": f"openai/{tier}",
                    "url": f"{engine_url}/v1",
                    "context_tokens": 8192,
                    "slots": 1024,
                    "local": True,
                    "devices": ["host"],
                }
            ],
        }
        for tier in TIERS
    ]
    tree = {
        "store": dict(store),
        "access": {"pepper": PEPPER},
        "budgets": {"default_daily_tokens": None, "default_monthly_tokens": None, "ladder": ladder},
        "logging": {"level": "warning"},
        "fleet": {"probe_interval_s": 1.0},
        "tiers": tiers,
    }
    path.write_text(yaml.safe_dump(tree))


def heed_signals() -> None:
    """Let whoever ends a proof end what it started: SIGTERM, and SIGINT even in the background, unwind."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: sys.exit(128 + number))


def make_admin_key(database: Database, store_path: Path) -> str:
    """Make a key that may speak for every scope, in a store that nobody owns yet."""
    keyring = Keyring(database, AccessSettings(pepper=PEPPER), store_path, SystemClock())
    return keyring.create("storm", role="admin", label="storm")[0]  # type: ignore[arg-type]


@dataclass(slots=True)
class Server:
    """One `trivet serve`, started and killed as often as one likes."""

    config: Path
    log: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Return its base URL."""
        return f"http://127.0.0.1:{self.port}"

    def start(self, failpoint: str | None = None) -> float:
        """Start it and return the seconds until it was ready for requests.

        Args:
            failpoint: where it is to kill itself; see `trivet.domain.failpoints`.

        Raises:
            RuntimeError: it did not become ready; the message is the end of its log.
        """
        begun = time.monotonic()
        self.launch(failpoint)
        while not self.is_ready():
            if self.process is None or self.process.poll() is not None:
                raise RuntimeError(f"trivet serve ended: {self.log.read_text()[-2000:]}")
            if time.monotonic() - begun > START_TIMEOUT_S:
                raise RuntimeError(f"trivet serve is not ready: {self.log.read_text()[-2000:]}")
            time.sleep(0.01)
        return time.monotonic() - begun

    def launch(self, failpoint: str | None = None) -> None:
        """Start it and return at once."""
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("TRIVET_", "MODEL_", "TOKEN_"))}
        if failpoint is not None:
            clean["TRIVET_FAILPOINT"] = failpoint
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "trivet", "serve", "--config", self.config, "--port", str(self.port)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=clean,
            )

    def is_ready(self) -> bool:
        """Tell whether it can take a request."""
        try:
            with urllib.request.urlopen(self.url + "/readyz", timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return False

    def kill(self) -> None:
        """End it as a crash would; idempotent."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def stop(self) -> None:
        """End it as an operator would; idempotent."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.kill()
