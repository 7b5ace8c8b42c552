"""Settings from files: scenarios (`simulations/*.toml`), a workspace's own `settings.toml`, and `--set`."""

import json
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from shared.errors import UsageError, WorkspaceError
from shared.files import write_atomically
from shared.settings import Settings

FOLDER = Path(__file__).parent
NO_SETTINGS = ("home", "run", "devices")  # in a run configuration beside them
FILE = "settings.toml"  # in the workspace; also what `flwr run --run-config` takes


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
    return Settings().with_values(_read(path))


def of_workspace(home: Path) -> Settings:
    """Return the settings that a workspace was made with.

    Raises:
        WorkspaceError: its file is missing or damaged.
    """
    try:
        values = _read(home / FILE)
        return Settings().with_values({key: value for key, value in values.items() if key not in NO_SETTINGS})
    except UsageError as error:
        raise WorkspaceError(f"{error}; put the workspace's own file back, from a backup") from error


def keep(settings: Settings, *, home: Path, folder: Path) -> None:
    """Write settings into a workspace as a run configuration; `home` is where it will lie."""
    values = {"home": str(home), "run": "", **settings.flat()}
    lines = [f"{json.dumps(key)} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in values.items()]
    write_atomically(folder / FILE, "".join(lines).encode())


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
        except tomllib.TOMLDecodeError:
            values[key.strip()] = value.strip()
    return settings.with_values(values)


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(_flat(tomllib.loads(path.read_text()), ""))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path} is no settings file ({error}); expected TOML such as general.width = 16") from error


def _flat(table: Mapping[str, Any], prefix: str) -> Iterable[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
