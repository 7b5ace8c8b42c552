"""Where data of one patient still lie in a workspace: looked up on the disk and in the registry, nothing changed.

A simulation's devices are folders here, and are looked into; of a device elsewhere only its own hospital's records
tell. What was copied out of the workspace (backups, certificates handed out, printed pages) nobody can see from here.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from server.certificate import path_of
from server.holdings import public_files
from server.registry import Registry
from server.rows import UNFORGOTTEN, Patient, counted
from server.workspace import Workspace
from shared.notice import FOLDER
from shared.revocation import list_path

NEXT_TRAINING = "once withdrawn, with the next training"
WHERE = {"model": "models", "signals": "cache", "slice": "slices"}
WHAT = {
    "model": "a general model, made of them or sent along with them",
    "signals": "their signals",
    "slice": "a network on its way, learnt from them",
}


@dataclass(frozen=True)
class Holding:
    """One place that holds something of the patient's.

    Attributes:
        where: a path in the workspace, or "registry", or the data folder.
        what: what lies there, in words.
        records: of which records; empty where it is of the patient and no record.
        until: what makes it go.
    """

    where: str
    what: str
    records: tuple[str, ...]
    until: str


@dataclass(frozen=True)
class Known:
    """The patient and the ids of all records, withdrawn or not."""

    who: Patient
    held: tuple[str, ...]

    def among(self, records: Iterable[str] | None) -> tuple[str, ...]:
        """Return which of the patient's records are among these; all, where nobody can tell which these are."""
        if records is None:
            return self.held
        there = set(records)
        return tuple(record for record in self.held if record in there)


def trace(workspace: Workspace, registry: Registry, patient: str) -> list[Holding]:
    """Return all places that hold something of a patient's, from the waveforms to the names.

    Raises:
        UsageError: there is no such patient.
    """
    known = _known(registry, patient)
    places = [*_in_registry(workspace, registry, known), *_reports(workspace, known)]
    if known.who.slot is None:
        return [*_public(workspace, registry, known), *places]
    return [*_device(workspace, known.who.slot), *_word(workspace, known.who.slot), *places]


def _known(registry: Registry, patient: str) -> Known:
    rows = registry.records(patient, consented_only=False)
    return Known(registry.patient(patient), tuple(row.id for row in rows))


def _device(workspace: Workspace, slot: int) -> Iterator[Holding]:
    folder = workspace.devices / str(slot)
    forgets, name = "once withdrawn and forgotten", folder.relative_to(workspace.home)
    if recordings := tuple(sorted(path.stem for path in (folder / "recordings").glob("*.npz"))):
        yield Holding(f"{name}/recordings", "waveforms and labels", recordings, forgets)
    state = _json(folder / "state.json")
    made_of = tuple(str(record) for record in state.get("records", ()))
    if made_of:
        yield Holding(f"{name}/model.safetensors", "the personal model, learnt from them", made_of, forgets)
        yield Holding(f"{name}/bundle.onnx", "the same model, as the wearable runs it", made_of, forgets)
    for path in sorted((folder / "answers").glob("*.json")):
        yield Holding(
            f"{name}/answers/{path.name}",
            "what the device answered to a withdrawal",
            (),
            "kept: digests and names of files",
        )


def _word(workspace: Workspace, slot: int) -> Iterator[Holding]:
    for path in (workspace.home / FOLDER / str(slot), list_path(workspace.home, slot)):
        if path.exists() and path.stat().st_size:
            where = str(path.relative_to(workspace.home))
            yield Holding(where, "ids of withdrawn records, for the device to stop at", (), "kept, so that it does")
    feed = workspace.feed(slot)
    if feed.exists():
        found = tuple(str(entry["id"]) for entry in _json(feed).get("records", ()))
        yield Holding(f"feeds/{feed.name}", "what the simulated sensor records: ids, no waveforms", found, "kept")


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
    for job in registry.jobs():
        if job.patient != known.who.id:
            continue
        due = "once all is forgotten" if job.state in UNFORGOTTEN else "kept: what was asked and erased"
        yield Holding("registry", f"job {job.id}, {job.state}", job.records, due)
        certificate = path_of(workspace, registry, job)
        if certificate.exists():
            where = str(certificate.relative_to(workspace.home))
            yield Holding(where, "a certificate, which names nobody", (), "kept: whoever has it proves by it")
    yield Holding(str(workspace.data), "the data that the patient was enrolled from", known.held, "not by Lethe")


def _reports(workspace: Workspace, known: Known) -> Iterator[Holding]:
    for path in sorted(workspace.reports.glob("*/figures.npz")):
        with np.load(path, allow_pickle=False) as drawn:
            shown = str(drawn["record"]) if "record" in drawn else ""
        if shown in known.held:
            where = str(path.parent.relative_to(workspace.home))
            yield Holding(where, "one second of ECG, drawn on the page", (shown,), "once withdrawn, with the next run")
    for path in sorted(workspace.reports.glob("*/result.json")):
        if json.dumps(known.who.pseudonym) in path.read_text(errors="replace"):
            where = str(path.parent.relative_to(workspace.home))
            yield Holding(
                where, f"figures under the pseudonym {known.who.pseudonym}", (), "once all is certified as forgotten"
            )


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
