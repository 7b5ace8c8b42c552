"""The general models that are kept, by what they were made of: `models/<sha256>/` with `lineage.json` beside.

What was made of records that may no longer be used does not linger. Training is `server/general.py`'s.
"""

import hashlib
import json
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from shared.errors import DataError
from shared.files import flush_folder, write_atomically
from shared.package import MODEL, Package
from shared.ptbxl import Signals
from shared.settings import Settings
from shared.version import code_version

RECORDS = "records.json"  # ids of those that a model learnt from, was validated on, or brings along


def lineage_of(signals: Signals, settings: Settings) -> dict[str, Any]:
    """Return everything the published model depends on, and a key over it."""
    told = {
        "data": signals.digest,
        "records": len(signals.records),
        "general": asdict(settings.general),
        "public": [
            settings.personalisation.anchor_segments,
            settings.personalisation.gate_segments,
            settings.probe.control_segments,
        ],
        "code": code_version(),
    }
    return {**told, "key": hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()}


def keep_only(models: Path, lineage: dict[str, Any]) -> Path | None:
    """Remove the models that were made of other records, and return the one of this very lineage, if it is there.

    As in the signals' cache, what was made of records that may no longer be used does not linger: a package
    holds public segments. A damaged package goes too. The weights go first, so that a folder with weights is complete.
    """
    found = None
    for folder in models.iterdir():
        about = told_of(folder)
        if about.get("data") != lineage["data"] or not is_whole(folder):
            (folder / MODEL).unlink(missing_ok=True)
            flush_folder(folder)
            shutil.rmtree(folder)
        elif about.get("key") == lineage["key"]:
            found = folder
    return found


def told_of(folder: Path) -> dict[str, Any]:
    """Return a kept model's lineage, or nothing where it was not written to the end."""
    path = folder / "lineage.json"
    try:
        about = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return about if isinstance(about, dict) else {}


def is_whole(folder: Path) -> bool:
    """Return whether every part of a kept package, the public segments too, is as it was published."""
    with suppress(DataError):
        return Package.open(folder).fingerprint == told_of(folder).get("package")
    return False


def publish(
    folder: Path, package: Package, lineage: dict[str, Any], record: dict[str, Any], *, records: Sequence[str]
) -> None:
    """Write the package, after lineage, curves and the ids of the records, so that a folder with weights is complete.

    The same weights may be there with other public segments: until the new ones are there, they are not.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MODEL).unlink(missing_ok=True)
    flush_folder(folder)
    write_atomically(folder / "lineage.json", json.dumps(lineage, indent=2).encode())
    write_atomically(folder / "curves.json", json.dumps(record, indent=2).encode())
    write_atomically(folder / RECORDS, json.dumps(sorted(records)).encode())
    package.save(folder)
