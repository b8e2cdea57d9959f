"""The annotated example is the documentation of the settings: whole, true, and loadable."""

import re
from pathlib import Path
from typing import Any

import yaml

from trivet.config.deployments import build_deployments
from trivet.config.keys import all_keys
from trivet.config.load import load_settings
from trivet.config.settings import LaunchSettings, Settings

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "config" / "trivet.example.yaml"
# `# ` begins a remark, `#key` an example that may be uncommented.
COMMENTED_KEY = re.compile(r"^(\s*)#(?=\S)", re.MULTILINE)


def uncommented() -> str:
    """Return the example with every commented key made active."""
    return COMMENTED_KEY.sub(r"\1", EXAMPLE.read_text(encoding="utf-8"))


def keys_of(document: Any, key: str = "") -> set[str]:
    """Return the dotted keys that a document writes, positions as N and free names as NAME."""
    free = key == "routing.task_types" or key.endswith(".launch.environment")
    if isinstance(document, dict) and not free:
        names = {name: "NAME" if key == "routing.policies" else name for name in document}
        return {
            found
            for name, item in document.items()
            for found in keys_of(item, f"{key}.{names[name]}".strip("."))
        }
    if isinstance(document, list) and document and isinstance(document[0], dict):
        return {found for item in document for found in keys_of(item, f"{key}.N")}
    return {key}


def test_the_example_loads_and_says_the_defaults() -> None:
    """As it stands the example changes nothing: each value written there is the default of the tree."""
    loaded = load_settings(config_path=EXAMPLE, environ={})
    assert loaded.settings == Settings()
    assert len(build_deployments(loaded.settings)) == 3


def test_the_example_writes_every_key() -> None:
    """Each key of the tree stands in the example, active or commented out, and no other does."""
    assert keys_of(yaml.safe_load(uncommented())) == set(all_keys())


def test_every_key_but_driving_engines_is_active() -> None:
    """Only the keys of engines that Trivet launches or drives, or that are several, are commented out."""
    active = keys_of(yaml.safe_load(EXAMPLE.read_text(encoding="utf-8")))
    missing = set(all_keys()) - active
    assert {key.rpartition(".")[0] for key in missing} == {
        "tiers.N.deployments.N.endpoints.N",
        "tiers.N.deployments.N.launch",
        "tiers.N.deployments.N.ollama",
    }


def test_the_commented_examples_are_valid(tmp_path: Path) -> None:
    """With every example uncommented the file still loads, and the deployments can be built."""
    path = tmp_path / "trivet.yaml"
    path.write_text(uncommented(), encoding="utf-8")
    settings = load_settings(config_path=path, environ={}).settings
    launch = settings.tiers[0].deployments[1].launch
    assert launch is not None
    assert launch == LaunchSettings(path=launch.path)
    assert build_deployments(settings)[1].engine == "llamacpp"


def test_every_key_has_a_remark() -> None:
    """Where a key's name first occurs, a remark stands above it or above the key before it."""
    names = {part for key in all_keys() for part in key.split(".")}
    lines = EXAMPLE.read_text(encoding="utf-8").splitlines()
    first: dict[str, int] = {}
    for number, line in enumerate(lines):
        found = re.match(r"\s*#?(?:- )?([a-z_]+):", line)
        if found and found[1] in names:
            first.setdefault(found[1], number)
    bare = [
        name
        for name, number in first.items()
        if not any(line.strip().startswith("# ") for line in lines[number - 2 : number])
    ]
    assert bare == []
