"""`trivet store`"""

from pathlib import Path
from typing import Annotated, Any

import typer

from trivet.cli.output import print_json, say
from trivet.cli.session import ConfigOption, JsonOption

app = typer.Typer(help="Backup and restore of the store.", no_args_is_help=True, rich_markup_mode=None)

FileArgument = Annotated[Path, typer.Argument(metavar="FILE", dir_okay=False, help="The backup's file.")]


@app.command()
def backup(file: FileArgument, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Copy the store to a new file, also while a server uses it, and prove the copy.

    One consistent snapshot: budgets, entries, keys' digests, usage. The keys also need the pepper, which lies
    beside the store or is `access.pepper`: keep it elsewhere. A store in PostgreSQL is backed up by pg_dump.

    Example:
      trivet store backup /backups/trivet-$(date +%F).db
    """
    from trivet.app.backup import back_up
    from trivet.config.load import load_settings

    copied = back_up(load_settings(config_path=config).settings.store, file).as_json()
    _tell(copied, f"Backed up to {file}", as_json=as_json)


@app.command()
def restore(file: FileArgument, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Put a backup in the place of the store. No server may be running.

    The backup is proven first. The former store stays beside it, under another name. Requests that were open
    when the backup was made are charged in full at the next start, as after a kill.

    Example:
      trivet store restore /backups/trivet-2026-11-01.db
    """
    from trivet.app.backup import restore as put_back
    from trivet.config.load import load_settings

    settings = load_settings(config_path=config).settings
    copied = put_back(settings.store, file).as_json()
    _tell(copied, f"Restored {copied['path']}", as_json=as_json)
    if copied["former"] and not as_json:
        say(f"The former store is {copied['former']}.")
    pepper = Path(copied["path"]).with_name("pepper")
    if settings.access.pepper is None and not pepper.exists():
        say(f"Its keys need the pepper that they were made with: put it back as {pepper} first.")


def _tell(copied: dict[str, Any], done: str, *, as_json: bool) -> None:
    if as_json:
        print_json(copied)
        return
    say(
        f"{done}: {copied['size_bytes']:,} bytes; {copied['rows']:,} counters agree with"
        f" {copied['entries']:,} entries."
    )
