"""Which code and which machine gave a figure."""

import os
import platform
import sqlite3
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[2]


def provenance(seed: int) -> dict[str, Any]:
    """Return seed, commit, instant, and what the machine was like."""
    return {
        "seed": seed,
        "commit": commit(),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "cpus": os.cpu_count(),
            "load": round(os.getloadavg()[0], 1),
            "python": platform.python_version(),
            "sqlite": sqlite3.sqlite_version,
        },
    }


def commit() -> str:
    """Return the checked-out commit, marked if there are changes on top; empty outside of a checkout.

    Results that are being written are no change of the code.
    """
    try:
        name = _git("rev-parse", "HEAD")
        changes = _git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!docs/proofs")
        return name + ("+changes" if changes else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def _git(*arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=REPOSITORY, capture_output=True, text=True, check=True, timeout=20
    )
    return done.stdout.strip()
