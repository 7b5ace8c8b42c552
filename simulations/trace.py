"""Where data of one patient still lie in a workspace: looked up on the disk and in the registry, nothing changed.

What devices hold is `simulations/trace_devices.py`'s. What was copied out of the workspace (backups, certificates
handed out, printed pages) nobody can see from here.
"""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from server.certificate import path_of
from server.holdings import public_files
from server.registry import Registry
from server.rows import UNFORGOTTEN, counted
from server.workspace import Workspace
from shared.notice import FOLDER
from shared.revocation import list_path
from simulations.trace_devices import other_devices, own_device
from simulations.traced import UNREADABLE, Holding, Known, ids_in, known, read_json

NEXT_TRAINING = "once withdrawn, with the next training"
UNDRAWN = "once withdrawn, with the next run"
WHERE = {"model": "models", "signals": "cache", "slice": "slices"}
WHAT = {
    "model": "a general model, made of them or sent along with them",
    "signals": "their signals",
    "slice": "a network on its way, learnt from them",
}


def trace(workspace: Workspace, registry: Registry, patient: str) -> list[Holding]:
    """Return all places that hold something of a patient's, from the waveforms to the names.

    Raises:
        UsageError: there is no such patient.
    """
    about = known(registry, patient)
    places = [*_in_registry(workspace, registry, about), *_reports(workspace, about)]
    if (slot := about.who.slot) is None:
        return [*_public(workspace, registry, about), *other_devices(workspace, registry, about), *places]
    return [*own_device(workspace, registry, about, slot), *_word(workspace, about, slot), *places]


def _word(workspace: Workspace, known: Known, slot: int) -> Iterator[Holding]:
    for path in (workspace.home / FOLDER / str(slot), list_path(workspace.home, slot)):
        if path.exists() and path.stat().st_size:
            where = str(path.relative_to(workspace.home))
            yield Holding(where, "ids of withdrawn records, for the device to stop at", (), "kept, so that it does")
    feed = workspace.feed(slot)
    if feed.exists():
        found = ids_in(read_json(feed))
        what = "what the simulated sensor records: ids, no waveforms"
        what = f"{what}; {UNREADABLE}" if found is None else what
        yield Holding(f"feeds/{feed.name}", what, known.held if found is None else found, "kept")


def _public(workspace: Workspace, registry: Registry, known: Known) -> Iterator[Holding]:
    """Tell what has a corpus or control patient's records in it, by what each file says that it was made of.

    A file that does not say, because it is damaged or was not written to the end, counts as made of all.
    """
    worn = Counter(device.general for device in registry.devices())
    for held in public_files(workspace):
        if records := known.among(held.records):
            where, name = WHERE[held.kind], held.path.name
            where = f"{where}/{name[:12]}…" if held.kind == "model" else f"{where}/{name}"
            on = f"; on {counted(worn[name], 'device')}" if held.kind == "model" else ""
            yield Holding(where, f"{WHAT[held.kind]}{on}", records, NEXT_TRAINING)


def _in_registry(workspace: Workspace, registry: Registry, known: Known) -> Iterator[Holding]:
    ids = "id, pseudonym, record ids and sha256; no waveform"
    yield Holding("registry", ids, known.held, "kept, so that nobody enrols what was withdrawn")
    for path in sorted(workspace.home.glob("registry.db.version-*")):
        what = "the registry as it was before an upgrade: ids, record ids and the salt of whom was enrolled by then"
        yield Holding(path.name, what, known.held, "when you remove it: all is well with the upgraded one")
    for job in known.jobs:
        due = "once all is forgotten" if job.state in UNFORGOTTEN else "kept: what was asked and erased"
        yield Holding("registry", f"job {job.id}, {job.state}", job.records, due)
        certificate = path_of(workspace, registry, job)
        if certificate.exists():
            where = str(certificate.relative_to(workspace.home))
            yield Holding(where, "a certificate, which names nobody", (), "kept: whoever has it proves by it")
    yield Holding(str(workspace.data), "the data that the patient was enrolled from", known.held, "not by Lethe")


def _reports(workspace: Workspace, known: Known) -> Iterator[Holding]:
    for path in sorted(workspace.reports.glob("*/figures.npz")):
        where, drawn = str(path.parent.relative_to(workspace.home)), "one second of ECG, drawn on the page"
        shown = _shown(path)
        if shown is None:
            yield Holding(where, f"{drawn}, by figures.npz, {UNREADABLE}", known.held, "when you remove it")
        elif shown in known.held:
            yield Holding(where, drawn, (shown,), UNDRAWN)
    for path in sorted(workspace.reports.glob("*/result.json")):
        if json.dumps(known.who.pseudonym) in path.read_text(errors="replace"):
            where = str(path.parent.relative_to(workspace.home))
            yield Holding(
                where, f"figures under the pseudonym {known.who.pseudonym}", (), "once all is certified as forgotten"
            )


def _shown(path: Path) -> str | None:
    """Return the record that a page draws, "" where it draws none; None where its figures do not say."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as drawn:
            return str(drawn["record"]) if drawn.files else ""
    except Exception:  # zip, zlib and NumPy raise a dozen kinds on bytes that are no file of theirs
        return None
