"""What must hold in a workspace after a kill and the run that followed, whatever was killed when.

Each check returns what is wrong, in words; nothing is changed. They look at the disk itself and not only at what the
programs say of it: for the waveforms of what was withdrawn, every file is searched.
"""

import json
import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np
from safetensors.numpy import load as tensors

from client import bundle
from client.store import Store
from server import keys
from server.history_check import check
from server.registry import Registry
from server.verification import verify
from server.workspace import Workspace
from shared.errors import LetheError
from shared.package import Package
from shared.ptbxl import index, read_signal
from simulations.fault_world import Asked
from simulations.trace import trace

UNFINISHED = re.compile(r"^\..+|.+\.(tmp|part|partial)$|^staged\..+")
OURS = {"launcher.lock", "superlink.log", "scratch"}  # what a launcher leaves in `flower/`
PIECES = (0, 500, 1250, 2500, 4900)  # samples at which a record is searched for, 50 from each


def consent_is_whole(home: Path, one: Asked, *, promised: bool) -> list[str]:
    """Return what is wrong with consent: a promised withdrawal that is not there, or one that is there in part."""
    workspace = Workspace.open(home)
    with Registry.open(workspace.registry_path) as registry:
        rows = {row.id: row.withdrawn for row in registry.records(one.patient, consented_only=False)}
        events = [event for event in registry.events(one.patient) if event.kind == "withdrawn"]
        jobs = [job for job in registry.jobs() if job.patient == one.patient]
        findings = check(workspace, registry, head=None)[1]
    gone = [rows[record] for record in one.records]
    found = [f"ledger: {finding.words}" for finding in findings]
    if promised and not all(gone):
        found.append("consent: the command had returned 0 and its withdrawal is not in the registry")
    if any(gone) != all(gone):
        found.append("consent: some of the named records are withdrawn and others are not")
    if any(gone) and one.role == "wearable" and not jobs:
        found.append("consent: withdrawn, and no job for the device")
    if not any(gone) and (events or jobs):
        found.append("consent: an event or a job, and nothing withdrawn")
    return found


def registry_is_sound(home: Path) -> list[str]:
    """Return what SQLite and the ledger's check find."""
    with closing(sqlite3.connect(home / "registry.db")) as database:
        seen = database.execute("PRAGMA integrity_check").fetchone()[0]
    workspace = Workspace.open(home)
    with Registry.open(workspace.registry_path) as registry:
        findings = check(workspace, registry, head=None)[1]
        running = [run.id for run in registry.runs() if run.status == "running"]
        untold = [job.id for job in registry.jobs() if job.state != "CERTIFIED"]
    found = [] if seen == "ok" else [f"registry: {seen}"]
    found += [f"ledger: {finding.words}" for finding in findings]
    found += [f"registry: run {run} is still told to be running" for run in running]
    return found + [f"stuck: job {job} is not certified" for job in untold]


def nothing_withdrawn_is_used(home: Path, one: Asked) -> list[str]:
    """Return what still holds a withdrawn record: by lineage, by what the files say of themselves, and by bytes."""
    workspace = Workspace.open(home)
    with Registry.open(workspace.registry_path) as registry:
        places = trace(workspace, registry, one.patient)
    found = [
        f"used: {place.what} at {place.where} until {place.until}"
        for place in places
        if place.until.startswith("once") and set(place.records) & set(one.records)
    ]
    return found + [f"used: samples of a withdrawn record in {path}" for path in _holding(workspace, one)]


def _holding(workspace: Workspace, one: Asked) -> Iterator[str]:
    """Give the files that hold pieces of the records: as millivolts in either precision, or as counts."""
    needles = []
    for record in index(workspace.data).records:
        if record.id in one.records:
            signal, _ = read_signal(workspace.data, record)
            for start in PIECES:
                piece = signal[1, start : start + 50]
                needles += [piece.astype("<f4").tobytes(), piece.astype("<f8").tobytes()]
                needles += [np.round(piece * 1000).astype("<i2").tobytes()]
    for path in sorted(workspace.home.rglob("*")):
        if path.is_file():
            data = path.read_bytes()
            if any(needle in data for needle in needles):
                yield str(path.relative_to(workspace.home))


def no_half_file(home: Path) -> list[str]:
    """Return the temporary files that are left, and the files that cannot be read as what they are."""
    workspace, found = Workspace.open(home), []
    for path in sorted(home.rglob("*")):
        name = path.relative_to(home).as_posix()
        if UNFINISHED.match(path.name) or (path.parent == workspace.flower and path.name not in OURS):
            found.append(f"half: {name} is left")
        elif path.is_file():
            found += [f"half: {name}: {words}" for words in _unreadable(path)]
    for folder in workspace.models.iterdir():
        found += _told(f"half: models/{folder.name[:12]}", partial(Package.open, folder))
    return found


def _unreadable(path: Path) -> list[str]:
    try:
        if path.suffix == ".json":
            json.loads(path.read_text(encoding="utf-8"))
        elif path.suffix == ".safetensors":
            tensors(path.read_bytes())
        elif path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                for name in arrays.files:
                    arrays[name]
    except Exception as error:
        return [f"{type(error).__name__}: {error}"]
    return []


def devices_are_whole(home: Path) -> list[str]:
    """Return what is wrong with the devices: files that differ from their state, and the state from the registry."""
    workspace, found = Workspace.open(home), []
    with Registry.open(workspace.registry_path) as registry:
        told = {row.slot: row.personal or "" for row in registry.devices()}
    for folder in sorted(workspace.devices.iterdir()):
        store = Store(folder)
        if not store.whole:
            found.append(f"half: device {folder.name} serves other files than its state names")
        if store.state.model:
            found += _told(f"half: bundle of device {folder.name}", partial(_bundle, folder))
        if told.get(int(folder.name), store.state.model) != store.state.model:
            found.append(f"registry: device {folder.name} serves another model than the registry says")
    return found


def _bundle(folder: Path) -> None:
    bundle.read(folder, public=folder, today=datetime.now(UTC).date())


def certificates_hold(home: Path) -> list[str]:
    """Return the certificates that a verifier refuses, and those that nobody entered."""
    workspace, found = Workspace.open(home), []
    public = [one.path.read_bytes() for one in keys.known(workspace.keys)]
    with Registry.open(workspace.registry_path) as registry:
        entries = registry.ledger()
    for path in sorted(workspace.certificates.glob("*.json")):
        report = verify(path.read_bytes(), public, now=datetime.now(UTC), ledger=entries)
        if not report.accepted:
            found.append(f"certificate {path.name}: {report.sentence}")
    return found


def _told(what: str, look: Callable[[], object]) -> list[str]:
    try:
        look()
    except LetheError as error:
        return [f"{what}: {error}"]
    return []


def everything(home: Path, one: Asked) -> list[str]:
    """Return all that is wrong once the run after a kill has ended."""
    return [
        *no_half_file(home),  # first: opening a device's folder tidies it
        *_still_withdrawn(home, one),
        *registry_is_sound(home),
        *nothing_withdrawn_is_used(home, one),
        *devices_are_whole(home),
        *certificates_hold(home),
    ]


def _still_withdrawn(home: Path, one: Asked) -> list[str]:
    """Return the records that are in use again; of a forgotten patient this is all that the registry still tells."""
    with Registry.open(Workspace.open(home).registry_path) as registry:
        rows = {row.id: row.withdrawn for row in registry.records(one.patient, consented_only=False)}
    return [f"consent: record {record} is not withdrawn any more" for record in one.records if not rows[record]]
