# ruff: noqa: E501 - the pages' prose is as wide as it is in the pages
"""Write docs/reference/config.md, cli.md and models.md from the settings tree, the annotated example, the commands
and the catalog.

.venv/bin/python scripts/reference.py             write them
.venv/bin/python scripts/reference.py --check     exit with 1 if one of them is not current
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main

from trivet.catalog.cards import load_catalog
from trivet.catalog.gpu_table import load_gpu_table
from trivet.catalog.model_card import ModelCard
from trivet.cli.main import app
from trivet.config.keys import Shape, all_keys, environment_name, shape_at
from trivet.config.settings import Settings

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "config" / "trivet.example.yaml"
REFERENCE = ROOT / "docs" / "reference"
REQUIRED = "required"
COMMON = ("--config", "--url", "--api-key", "--json")
"""Options that many commands share; explained once, at the top of the page."""

CONFIG_HEAD = """# Configuration keys

This page is made by `scripts/reference.py` from the settings tree and from the remarks in
[config/trivet.example.yaml](../../config/trivet.example.yaml); a test fails when it is not current.

Trivet reads the first of `--config FILE`, `$TRIVET_CONFIG`, `./trivet.yaml`, `~/.config/trivet/trivet.yaml`.
Precedence, strongest first: command-line flags, `TRIVET_*` variables, the file, the names of other makers
(below), the defaults. `trivet config show` prints every value with its origin; `trivet config check` says what
is wrong. Unknown keys are refused.

- A variable is `TRIVET_` and the key in capitals with `__` for each dot. Lists, tables and whole sections are
  JSON: `TRIVET_BUDGETS__THRESHOLDS='[80, 95]'`. An empty variable counts as not set; `null` sets null.
- `tiers` is one list: it is given whole, in the file or as JSON in `TRIVET_TIERS`. `N` below is a position.
- `routing.policies.NAME` and `routing.task_types` refine or join the defaults. A policy's key may be set by
  itself: `TRIVET_ROUTING__POLICIES__CODE__MIN_TIER=heavy`.
- In any string of the file `${NAME}` is an environment variable, `${NAME:-text}` has a default, `$${` is a
  literal `${`. A secret may also be `file:/path`; its content counts.
- `trivet serve` must be started again after a change. Nothing is reloaded while it runs.

| other name | sets |
|---|---|
| `MODEL_LIGHT`, `MODEL_STANDARD`, `MODEL_HEAVY` | the model of the default tier (`tiers.N.deployments.0.model`) |
| `MODEL_ROUTING_ENABLED` | `routing.enabled` |
| `TOKEN_BUDGET_DAILY`, `TOKEN_BUDGET_MONTHLY` | `budgets.default_daily_tokens`, `budgets.default_monthly_tokens` |
| `MODEL_PRICING_TABLE_PATH` | `pricing.path` |
| `GUARDRAIL_ALERT_WEBHOOK` | `signals.webhook_url` |
| `OLLAMA_HOST` | `fleet.ollama_url`; host, host:port, or a URL, as Ollama reads it |
| `VLLM_BASE_URL`, `VLLM_API_KEY` | `fleet.vllm_url`, `fleet.vllm_api_key` |

These begin with `TRIVET_` and are no settings: `TRIVET_CONFIG`, `TRIVET_URL`, `TRIVET_API_KEY` (options of the
commands), `TRIVET_TEST_SCALE` (the tests).
"""

CLI_HEAD = """# Commands

This page is made by `scripts/reference.py` from the commands themselves; a test fails when it is not current.

Data goes to standard output, everything else to standard error. With `--json` a failure is one JSON object
`{"error": {"code", "message", ...}}` on standard output.

**Whom a command talks to.** With `--url` (or `TRIVET_URL`) it calls that server with `--api-key` (or
`TRIVET_API_KEY`). Without `--url` it looks at the lock of the configured store: if a server owns the store, the
command calls that server, by default with the owner's token that lies in the lock file (readable by the same
operating-system user only). If nobody owns the store, the command opens it in its own process, with the
owner's rights; `chat`, `route` and `doctor` then start the engines too, which takes as long as `serve` takes.
So run commands with the same configuration as the server.

| common option | variable | meaning |
|---|---|---|
| `--config`, `-c` | `TRIVET_CONFIG` | the configuration file; else as [config.md](config.md) says |
| `--url` | `TRIVET_URL` | use the server at this URL |
| `--api-key` | `TRIVET_API_KEY` | the API key to send to the server |
| `--json` | | print JSON instead of a table |

| exit status | meaning |
|---|---|
| 0 | done |
| 1 | failed: any error without a status of its own; `doctor` found a fault; the demo did not go as it should |
| 2 | wrong usage: an unknown command or option, a missing argument |
| 3 | the configuration cannot be used |
| 4 | the store cannot be used, or another process owns it |
| 5 | the API key is missing, not known, or not allowed to do this |
| 6 | a budget refuses |
| 7 | no server or no engine answers as it should |
| 8 | `ledger verify` found differences |
| 130 | interrupted |

`trivet --version` prints the version. Every command has `--help`.
"""

MODELS_HEAD = """# Models and GPUs that Trivet knows

This page is made by `scripts/reference.py` from the catalog; a test fails when it is not current.

Plans, footprints and tiers begin with two lists that ship with Trivet: model cards and GPUs. Their files are
[config/models.yaml](../../config/models.yaml) and [config/gpus.yaml](../../config/gpus.yaml), each with a head that
explains its keys and with the source of its figures.

## Adding your own

Put entries of the same form into files of your own and name them. Entries join the shipped ones; one with the id
or name of a shipped entry replaces it. A wrong entry is refused with its place and what is wrong.

```yaml
catalog:
  models: /etc/trivet/models.yaml
  gpus: /etc/trivet/gpus.yaml
```

A card for a model:

```yaml
- id: our-support-8b
  family: our-support
  released: 2026-09-01
  licence: internal
  context_tokens: 32768
  capabilities: [tools]          # of tools, vision, thinking, embedding
  params_b: 8.03                 # all parameters, in 10^9
  quality: 55                    # 0 to 100, on the scale of the cards that it shall be compared with
  quality_source: our own evaluation of 2026-09
  source: its config.json
  architecture:                  # from its config.json; the counted parameters must agree with params_b
    {model_type: llama, hidden_size: 4096, num_hidden_layers: 32, num_attention_heads: 32, num_key_value_heads: 8,
     intermediate_size: 14336, vocab_size: 128256, tie_word_embeddings: false, max_position_embeddings: 131072}
  variants:                      # first choice first; weights_bytes where you know the file's size
  - {engine: vllm, ref: /srv/models/our-support-8b, dtype: bf16}
  - {engine: ollama, ref: "our-support:8b", quant: q4_k_m, weights_bytes: 4920753328}
```

If the counted parameters are far from `params_b`, the entry is refused: look first at `tie_word_embeddings`,
`head_dim` (where it is not hidden_size / num_attention_heads), and at `moe_intermediate_size` and the shared
experts. Copy the whole `text_config` of models that see; add `vision_config` if images are to be served.

A model without a card needs none to be sized: `trivet footprint --model DIRECTORY` reads config.json and the
headers of safetensors, `--model FILE.gguf` the file's header, and `--arch FILE` a config.json or what Ollama says of
a model that it has (`curl http://127.0.0.1:11434/api/show -d '{"model": "NAME"}' > show.json`).

A GPU:

```yaml
- {name: RTX 4090 48GB, memory_gib: 48, usable_gib: 47.27, estimated: true, bandwidth_gb_s: 1008, bf16_tflops: 165.2,
   fp8_tflops: 330.3, compute_capability: "8.9", connect: pcie, driver: [NVIDIA GeForce RTX 4090]}
```

`usable_gib` is the total that CUDA reports (`torch.cuda.mem_get_info()[1]`), not the size on the box. Where it is
not known, take nvidia-smi's total less 256 MiB and 1 %, and say `estimated: true`. A GPU that is in the machine
needs no entry: its memory is read from the driver; an entry gives it its name and rates.

How names are read: case, spaces, hyphens and makers' names do not count (`rtx4090`, `RTX 4090`, `4090`), a size may
follow (`RTX3060-12GB`, `A100-40`), and a size alone (`24GB`) is a card of the slowest kind of that size. Models are
found by id, Ollama tag or Hugging Face id, with or without a quantisation.

## Models that ship

In brackets: parameters (all/active) and quality. Quality is MMLU-Pro as the makers publish it, for embeddings MTEB;
`~` means interpolated between siblings, because nobody publishes it. It orders models of about one generation; a
few points say nothing. Measure on your own traffic before you trust it.

| family | models | context | abilities | licence |
|---|---|---|---|---|
"""

GPUS_HEAD = """
## GPUs that ship

| memory as sold | names |
|---|---|
"""


def config_page() -> str:
    """Return the configuration reference."""
    remarks = read_remarks()
    parts = [CONFIG_HEAD]
    sections: dict[str, list[str]] = {}
    for key in all_keys():
        sections.setdefault(section_of(key), []).append(key)
    for section, keys in sections.items():
        parts.append(
            f"\n## {section}\n\n| key and variable | allowed | default | meaning |\n|---|---|---|---|\n"
        )
        for key in keys:
            variable = environment_name(key)
            shown = f"`{key}`" + (f"<br>`{variable}`" if variable else "")
            shape = shape_at(path_of(key))
            allowed = shape.allowed() if shape else ""
            parts.append(
                f"| {shown} | {cell(allowed)} | {cell(default_of(key))} | {cell(remarks.get(key, ''))} |\n"
            )
    return "".join(parts)


def section_of(key: str) -> str:
    """Return the heading under which a key stands."""
    return key.rpartition(".")[0]


def path_of(key: str) -> tuple[str | int, ...]:
    """Return a key's path, with the first position for N."""
    return tuple(0 if part == "N" else part for part in key.split("."))


def default_of(key: str) -> str:
    """Return the default of a key as it would be written."""
    parts = key.split(".")
    if "N" not in parts and "NAME" not in parts:
        value: Any = Settings()
        for part in parts:
            value = getattr(value, part)
        return written(value)
    shape: Shape | None = shape_at(path_of(key)[:-1])
    field = shape.inner.model_fields[parts[-1]] if shape else None
    return f"({REQUIRED})" if field is None or field.is_required() else written(field.default)


def written(value: Any) -> str:
    """Return a value as YAML would have it, in backticks."""
    if isinstance(value, tuple | list):
        return f"`{json.dumps(list(value), default=str)}`"
    if isinstance(value, dict):
        return f"`{json.dumps(value, default=str)}`" if value else "`{}`"
    return f"`{json.dumps(value, default=str)}`".replace('"', "")


def read_remarks() -> dict[str, str]:
    """Return each key's remark in the example: the one right above it, else that of the key before it."""
    known = all_keys()
    last_parts = {key: key.rpartition(".")[2] for key in known}
    found: dict[str, str] = {}
    block: list[str] = []
    above: list[tuple[int, str]] = []
    remark = ""
    for line in EXAMPLE.read_text(encoding="utf-8").splitlines():
        text = line.strip()
        if text.startswith("# "):
            block.append(text[2:])
            continue
        match = re.match(r"(\s*)(#?)(- )?([A-Za-z_]+):", line)
        if match is None:
            block = []
            continue
        depth = len(match[1]) + len(match[3] or "")
        above = [(at, name) for at, name in above if at < depth] + [(depth, match[4])]
        if block:
            remark = " ".join(block)
        block = []
        for key in matching([name for _, name in above], known, last_parts):
            found.setdefault(key, remark)
    return found


def matching(names: list[str], known: list[str], last_parts: dict[str, str]) -> Iterator[str]:
    """Yield the key that a chain of names in the example stands for."""
    for key in known:
        parts = [part for part in key.split(".") if part != "N"]
        if last_parts[key] != names[-1] or len(parts) != len(names):
            continue
        if all(part in ("NAME", name) for part, name in zip(parts, names, strict=True)):
            yield key


def cli_page() -> str:
    """Return the reference of the commands."""
    root = typer.main.get_command(app)
    context = root.make_context("trivet", [], resilient_parsing=True)
    parts = [CLI_HEAD]
    for name, command in commands(root, context, "trivet"):
        doc = str(command.help or "").replace("\b", "").strip()
        about, _, examples = doc.partition("\n\nExample")
        arguments = [p for p in command.params if p.param_type_name == "argument"]
        usage = " ".join([name, *(p.name.upper() for p in arguments)])
        parts.append(f"\n## `{usage}`\n{about}\n")
        options = [p for p in command.params if p.name != "help"]
        common = [p.opts[0] for p in options if p.opts[0] in COMMON]
        lines = [parameter_line(p) for p in options if p.opts[0] not in COMMON]
        lines += [f"- common: {', '.join(f'`{option}`' for option in common)}"] if common else []
        lines += [f"- example: `{line.strip()}`" for line in examples.splitlines()[1:] if line.strip()]
        parts.append("\n" + "\n".join(lines) + "\n")
    return "".join(parts)


def commands(command: Any, context: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Yield every command that does something, with its full name."""
    below = getattr(command, "commands", None)
    if below is None:
        yield name, command
        return
    for child_name, child in below.items():
        yield from commands(child, context, f"{name} {child_name}")


def parameter_line(parameter: Any) -> str:
    """Return one line about an argument or an option."""
    said = " ".join((getattr(parameter, "help", None) or "").split())
    if parameter.param_type_name == "argument":
        return f"- `{parameter.name.upper()}`: {said}"
    names = ", ".join(f"`{option}`" for option in parameter.opts)
    default = parameter.default
    if default not in (None, False, "", ()) and not callable(default):
        said += f" Default: `{default}`."
    if getattr(parameter, "envvar", None):
        said += f" Variable: `{parameter.envvar}`."
    return f"- {names}: {said}"


def models_page() -> str:
    """Return the reference of the catalog: how to add to it, and what ships."""
    families: dict[str, list[ModelCard]] = {}
    for card in load_catalog().cards:
        families.setdefault(card.family, []).append(card)
    parts = [MODELS_HEAD]
    for family, cards in families.items():
        names = ", ".join(f"`{card.id}` {figures(card)}" for card in cards)
        abilities = ", ".join(sorted({word for card in cards for word in card.capabilities})) or "-"
        licences = ", ".join(dict.fromkeys(card.licence for card in cards))
        contexts = sorted({card.context_tokens for card in cards})
        ends = dict.fromkeys((contexts[0], contexts[-1]))
        window = " to ".join(f"{tokens // 1024}k" if tokens >= 1024 else str(tokens) for tokens in ends)
        parts.append(f"| {family} | {names} | {window} | {abilities} | {licences} |\n")
    parts.append(GPUS_HEAD)
    sizes: dict[float, list[str]] = {}
    for spec in load_gpu_table().specs:
        sizes.setdefault(spec.memory_gib, []).append(spec.name)
    for gib, specs in sorted(sizes.items()):
        parts.append(f"| {gib:g} GB | {', '.join(specs)} |\n")
    return "".join(parts)


def figures(card: ModelCard) -> str:
    """Return a model's size and quality in a few signs."""
    size = f"{card.total_params / 1e9:.3g}"
    if card.active_params < card.total_params:
        size += f"/{card.active_params / 1e9:.2g}"
    return f"({size} B, {card.quality:g}{'' if card.quality_is_published else '~'})"


def cell(text: str) -> str:
    """Make a text safe in a table's cell."""
    return text.replace("|", "\\|").replace("\n", " ")


def main() -> int:
    """Write the pages, or with --check compare them; return the exit status."""
    stale = []
    pages = (("config.md", config_page()), ("cli.md", cli_page()), ("models.md", models_page()))
    for name, text in pages:
        path = REFERENCE / name
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(name)
        if "--check" not in sys.argv:
            path.write_text(text, encoding="utf-8")
            print(f"wrote {path.relative_to(ROOT)}")
    if "--check" in sys.argv and stale:
        print(f"not current: {', '.join(stale)}; run scripts/reference.py", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
