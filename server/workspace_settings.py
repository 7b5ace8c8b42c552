"""The settings that a workspace was made with: its `settings.toml`, which `flwr run --run-config` takes too."""

import json
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from shared.errors import UsageError, WorkspaceError
from shared.files import write_atomically
from shared.settings import Settings

FILE = "settings.toml"
NO_SETTINGS = ("home", "run", "devices")  # in a run configuration beside them


def of_workspace(home: Path) -> Settings:
    """Return the settings that a workspace was made with.

    Raises:
        WorkspaceError: its file is missing or damaged.
    """
    try:
        values = read_values(home / FILE)
        return Settings().with_values({key: value for key, value in values.items() if key not in NO_SETTINGS})
    except UsageError as error:
        raise WorkspaceError(f"{error}; put the workspace's own file back, from a backup") from error


def keep(settings: Settings, *, home: Path, folder: Path) -> None:
    """Write settings into a workspace as a run configuration; `home` is where it will lie."""
    values = {"home": str(home), "run": "", **settings.flat()}
    lines = [f"{json.dumps(key)} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in values.items()]
    write_atomically(folder / FILE, "".join(lines).encode())


def read_values(path: Path) -> dict[str, Any]:
    """Return what a TOML file says by dotted names, such as `general.width`.

    Raises:
        UsageError: it is no such file.
    """
    try:
        return dict(_flat(tomllib.loads(path.read_text()), ""))
    except (OSError, ValueError, RecursionError) as error:  # also a number of 5,000 digits
        raise UsageError(f"{path} is no settings file ({error}); expected TOML such as general.width = 16") from error


def _flat(table: Mapping[str, Any], prefix: str) -> Iterable[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
