"""The machine as a command sees it: what a running Trivet and its engines hold of it is Trivet's own."""

import contextlib
from pathlib import Path

from trivet.domain.errors import TrivetError
from trivet.domain.gpus import Inventory


def look(config: Path | None) -> Inventory:
    """Return the GPUs and the memory of this machine as they are now; see `trivet.gpu.discover`.

    The configuration only says where a running Trivet would be found; a wrong one does not matter here.
    """
    from trivet.config.deployments import state_dir_of
    from trivet.config.load import load_settings
    from trivet.fleet.records import running_engines
    from trivet.gpu import discover
    from trivet.storage import StoreLock

    trivets: tuple[int, ...] = ()
    engines: tuple[int, ...] = ()
    with contextlib.suppress(TrivetError):
        settings = load_settings(config_path=config).settings
        owner = StoreLock.owner(settings.store.path.expanduser())
        trivets = (owner.pid,) if owner else ()
        engines = running_engines(state_dir_of(settings))
    return discover(trivets=trivets, engines=engines)
