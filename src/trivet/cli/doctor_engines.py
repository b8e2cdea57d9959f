"""Which engines `trivet doctor` finds on the machine, and whether the configuration needs them."""

import re
import shutil
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trivet.cli.findings import Finding, error, ok, warning
from trivet.domain.tiers import Deployment

if TYPE_CHECKING:
    from trivet.config.settings import LaunchSettings

ANSWER_TIMEOUT_S = 2.0
OLLAMA_KEEPS_PROMPTS_SINCE = (0, 12, 6)
"""`truncate` and `shift` of /api/chat came to stay with ollama's pull request 12582 of 11 October 2025."""
VLLM_ARGUMENTS_SINCE = (0, 9)
"""From here on vLLM's arguments are those that Trivet launches it with; see `engines.vllm_server`."""


def ollama(url: str, *, needed: bool, path: str | None) -> Finding:
    """Check for an Ollama server, else for the program.

    Args:
        url: where the configuration says that it is.
        needed: whether a deployment is to use it.
        path: the PATH to look for the program in.
    """
    answer = _answer(f"{url}/api/version")
    if isinstance(answer, dict) and "version" in answer:
        return ollama_version(str(answer["version"]), url)
    program = shutil.which("ollama", path=path)
    if not needed:
        return ok("ollama", "installed, not running, not needed" if program else "not found, not needed")
    if program:
        return error(
            "ollama", f"installed ({program}), and nobody answers at {url}", "Start it: `ollama serve`."
        )
    return error(
        "ollama",
        f"nobody answers at {url}, and the program is not installed here",
        "Install Ollama, or say where it runs: OLLAMA_HOST or `fleet.ollama_url`.",
    )


def ollama_version(version: str, url: str) -> Finding:
    """Check that an Ollama knows the parameters by which Trivet forbids it to cut prompts."""
    if _numbers(version) >= OLLAMA_KEEPS_PROMPTS_SINCE:
        return ok("ollama", f"{version} at {url}")
    return warning(
        "ollama",
        f"{version} at {url} cuts prompts that are too long and says nothing: it does not know `truncate`.",
        "Update Ollama to 0.12.6 or newer.",
    )


def vllm(
    url: str, deployments: Iterable[Deployment], programs: Iterable[str], *, path: str | None
) -> Finding:
    """Check for a vLLM server that is attached to, and for the programs that launched ones are started with.

    Args:
        url: where the configuration says that an attached server is.
        deployments: those of engine vllm.
        programs: first words of the commands of those that Trivet launches; empty for the default.
        path: the PATH to look for programs in.
    """
    wanted = list(deployments)
    commands = list(programs)
    program = shutil.which("vllm", path=path)
    installed = f"{installed_version(Path(program)) or 'unknown version'} at {program}" if program else None
    missing = [command for command in commands if command and shutil.which(command, path=path) is None]
    if missing:
        return error(
            "vllm",
            f"the launch command {missing[0]} is not there",
            "Correct `launch.command`, or install vLLM.",
        )
    if "" in commands and program is None and not _module_is_there(path):
        return error(
            "vllm",
            "a tier launches vLLM, and neither `vllm` nor a Python with it is on the PATH",
            "`./scripts/setup-vllm`, then `launch.command: [.venv-vllm/bin/vllm, serve]`.",
        )
    attached = any(deployment.url == url for deployment in wanted)
    answer = _answer(f"{url}/version") if attached or not commands else None
    if isinstance(answer, dict) and "version" in answer:
        return ok("vllm", f"{answer['version']} at {url}")
    if attached:
        return error(
            "vllm",
            f"nobody answers at {url}" + (f"; installed: {installed}" if installed else ""),
            "Start it with `vllm serve`, or set VLLM_BASE_URL.",
        )
    version = installed_version(Path(program)) if program and "" in commands else None
    if version is not None and _numbers(version) < VLLM_ARGUMENTS_SINCE:
        return warning(
            "vllm", f"{installed} is older than what Trivet launches", "Update vLLM to 0.9 or newer."
        )
    if commands:
        return ok("vllm", installed or f"launched by {', '.join(sorted(filter(None, commands))) or 'python'}")
    return ok("vllm", installed or "not found, not needed")


def llamacpp(*, needed: bool) -> Finding:
    """Check for the embedded server."""
    try:
        return ok("llama.cpp", f"xllamacpp {metadata.version('xllamacpp')}")
    except metadata.PackageNotFoundError:
        fix = "pip install 'trivet[llamacpp]'"
        if needed:
            return error("llama.cpp", "a tier launches it, and it is not installed", fix)
        return warning("llama.cpp", "the embedded engine is not installed", fix)


def installed_version(program: Path) -> str | None:
    """Return the version of the vLLM that a program belongs to, from files: asking it takes seconds."""
    # A virtual environment's Python is a link out of it, a tool installer's program one into it.
    for home in (program.absolute().parent.parent, program.resolve().parent.parent):
        for folder in home.glob("lib/python3*/site-packages/vllm*.dist-info"):
            match = re.fullmatch(r"vllm(?:_cpu)?-(.+)\.dist-info", folder.name)
            if match:
                return match[1]
    return None


def _numbers(version: str) -> tuple[int, ...]:
    """Return the leading numbers of a version; what cannot be read counts as new."""
    match = re.match(r"v?(\d+(?:\.\d+)*)", version)
    return tuple(map(int, match[1].split("."))) if match else (1 << 30,)


def _module_is_there(path: str | None) -> bool:
    """Tell whether the PATH's Python has vLLM: what a launch without a command falls back to."""
    python = shutil.which("python", path=path)
    return python is not None and installed_version(Path(python)) is not None


def _answer(url: str) -> Any:
    """Return the JSON that a server answers; None if it answers nothing of the kind."""
    import httpx

    try:
        response = httpx.get(url, timeout=ANSWER_TIMEOUT_S, trust_env=False)
        return response.json() if response.status_code == httpx.codes.OK else None
    except (httpx.HTTPError, httpx.InvalidURL, ValueError):
        return None


def first_words(launches: "Iterable[LaunchSettings]") -> list[str]:
    """Return the first word of each launch command; empty where it is left to Trivet."""
    return [launch.command[0] if launch.command else "" for launch in launches]
