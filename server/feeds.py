"""The feeds of simulated sensors: which records a device is going to record, and where they lie.

`client/sensor.py` reads them. A record that is withdrawn stays named in its feed, and no device is asked for it.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from server.rows import Patient
from server.workspace import Workspace
from shared.errors import WorkspaceError
from shared.files import write_atomically
from shared.ptbxl import Record


def write_feed(
    workspace: Workspace, patient: Patient, *, folder: Path, records: Iterable[Record], digests: Mapping[str, str]
) -> None:
    """Write which records the sensor of a patient's device will record, in the order of time.

    Raises:
        WorkspaceError: the feed cannot be written.
    """
    if patient.slot is None:
        return
    about = {"data": str(folder), "patient": patient.id, "pseudonym": patient.pseudonym}
    _write(workspace.feed(patient.slot), about, [_entry(record, digests[record.id]) for record in records])


def extend_feed(
    workspace: Workspace, slot: int, *, folder: Path, records: Iterable[Record], digests: Mapping[str, str]
) -> None:
    """Add to what a sensor will record; the new records may lie in a folder of their own.

    Raises:
        WorkspaceError: the feed cannot be read, or not be written.
    """
    path = workspace.feed(slot)
    try:
        feed = json.loads(path.read_text())
        there = {entry["id"] for entry in feed["records"]}
        elsewhere = {} if feed["data"] == str(folder) else {"data": str(folder)}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WorkspaceError(f"feed {path} cannot be read ({error!r}); restore it from a backup") from error
    new = [_entry(record, digests[record.id]) | elsewhere for record in records if record.id not in there]
    _write(path, feed, [*feed["records"], *new])


def recorded_at(workspace: Workspace, slot: int) -> dict[str, str]:
    """Return when each record of a feed was recorded, as far as its folder's tables said; nothing where it is gone."""
    try:
        entries = json.loads(workspace.feed(slot).read_text())["records"]
        return {str(entry["id"]): str(entry["recorded_at"]) for entry in entries if entry["recorded_at"]}
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return {}


def _write(path: Path, about: Mapping[str, Any], entries: Iterable[dict[str, Any]]) -> None:
    in_time = sorted(entries, key=lambda entry: (entry["recorded_at"], len(entry["id"]), entry["id"]))
    feed = {**about, "records": in_time}
    try:
        write_atomically(path, (json.dumps(feed, indent=1) + "\n").encode())
    except OSError as error:
        raise WorkspaceError(
            f"cannot write feed {path}: {error.strerror or error}; free space and try again"
        ) from error


def _entry(record: Record, digest: str) -> dict[str, Any]:
    return {
        "id": record.id,
        "path": record.path,
        "hz": record.hz,
        "sha256": digest,
        "superclasses": list(record.superclasses),
        "recorded_at": record.recorded_at,
    }
