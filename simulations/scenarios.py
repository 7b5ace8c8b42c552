"""Settings that a command is given: scenarios (`simulations/*.toml`) and `--set`.

A workspace's own are `server/workspace_settings.py`'s.
"""

import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from server.workspace_settings import read_values
from shared.errors import UsageError
from shared.settings import Settings

FOLDER = Path(__file__).parent


def scenario(name: str) -> Settings:
    """Return the settings of a scenario that comes with Lethe, by name, or of a TOML file.

    Raises:
        UsageError: there is none, or it is not a settings file.
    """
    path = FOLDER / f"{name}.toml"
    if not path.exists():
        path = Path(name)
    if not path.is_file():
        known = ", ".join(sorted(found.stem for found in FOLDER.glob("*.toml")))
        raise UsageError(f"no scenario {name!r}, expected one of {known} or the path of a TOML file")
    return Settings().with_values(read_values(path))


def with_assignments(settings: Settings, assignments: Iterable[str]) -> Settings:
    """Return settings with `--set general.width=64` and the like applied.

    Raises:
        UsageError: no assignment, or one of an unknown setting or wrong type.
    """
    values: dict[str, Any] = {}
    for text in assignments:
        key, sign, value = text.partition("=")
        if not sign:
            raise UsageError(f"--set got {text!r}, expected setting=value, for example general.width=64")
        try:
            values[key.strip()] = tomllib.loads(f"value = {value}")["value"]
        except (ValueError, RecursionError):
            values[key.strip()] = value.strip()
    return settings.with_values(values)
