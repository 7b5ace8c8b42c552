"""What devices hold of a patient: those on this machine by their files, those elsewhere by what they last told.

A device of a deployment may run beside the hospital, in the workspace, or on a machine of its own; nobody can tell
from here which. So there both count: the files that are here, and the registry's row.
"""

import hashlib
from collections.abc import Iterator, Mapping
from filecmp import cmp
from pathlib import Path

from client.bundle import BUNDLE, INT8, MANIFEST
from client.envelope import HOSPITAL as HOSPITAL_KEYS
from client.envelope import PRIVATE, SERIAL
from client.envelope import PUBLIC as DEVICE_KEY
from server.holdings import Held, public_files
from server.registry import Registry
from server.rows import ENDED, DeviceRow
from server.workspace import Workspace
from shared.package import MODEL, PUBLIC
from simulations.traced import UNREADABLE, Holding, Known, ids_in, read_json

FORGETS = "once withdrawn and forgotten"
NEXT_GENERAL = "once withdrawn, when the device gets the next general model"
STATE = "state.json"
OWN = {STATE, MODEL, BUNDLE, INT8, MANIFEST, PRIVATE, DEVICE_KEY, HOSPITAL_KEYS, SERIAL}
KINDS = {"recordings": ".npz", "answers": ".json"}
IN_USE = (
    (MODEL, "model", "the personal model, learnt from them"),
    (BUNDLE, "bundle", "the same as the wearable runs it"),
    (INT8, "int8", "the same in eight bits"),
)
ONLY_THERE = "its files can be seen only where it runs"


def own_device(workspace: Workspace, registry: Registry, known: Known, slot: int) -> Iterator[Holding]:
    """Tell what a wearer's device holds."""
    yield from _files(workspace, known, slot)
    row = next((one for one in registry.devices() if one.slot == slot), None)
    if known.unforgotten and _may_be_elsewhere(workspace, slot) and (row is not None or workspace.deployed):
        yield Holding(f"device {slot}", f"{_last_told(row)}; {ONLY_THERE}", known.unforgotten, FORGETS)


def other_devices(workspace: Workspace, registry: Registry, known: Known) -> Iterator[Holding]:
    """Tell which devices have a general model that holds a public patient's records, or a copy of such a one."""
    kept = {held.path.name: held for held in public_files(workspace) if held.kind == "model"}
    folders = {int(path.name): path for path in workspace.devices.iterdir() if path.name.isdecimal()}
    rows = {row.slot: row for row in registry.devices()}
    for slot in sorted(folders | rows):
        if slot in folders and (records := _in_folder(folders[slot], known, kept)):
            what = "a general model made of them or sent along with them, or a copy of one"
            yield Holding(f"devices/{slot}", what, records, NEXT_GENERAL)
        if slot in rows and _may_be_elsewhere(workspace, slot) and (records := _by_row(rows[slot], known, kept)):
            yield Holding(f"device {slot}", f"{_last_told(rows[slot])}; {ONLY_THERE}", records, NEXT_GENERAL)


def _may_be_elsewhere(workspace: Workspace, slot: int) -> bool:
    return workspace.deployed or not (workspace.devices / str(slot)).is_dir()


def _last_told(row: DeviceRow | None) -> str:
    if row is None:
        return "it has told nothing yet"
    when, general = row.updated_at[:16].replace("T", " "), f"general model {str(row.general)[:12]}…"
    if row.personal is None:
        return f"on {when} it was sent {general}, and has told nothing yet"
    in_use = "which is in use" if row.personal == row.general else f"personal model {row.personal[:12]}…"
    return f"it last told on {when}: {general}, {in_use}"


def _files(workspace: Workspace, known: Known, slot: int) -> Iterator[Holding]:
    """Look into the folder of a wearer's device, all but the general models there, which are not the wearer's."""
    folder = workspace.devices / str(slot)
    name = folder.relative_to(workspace.home)
    if recordings := tuple(sorted(path.stem for path in (folder / "recordings").glob("*.npz"))):
        yield Holding(f"{name}/recordings", "waveforms and labels", recordings, FORGETS)
    state = read_json(folder / STATE)
    for file, key, what in IN_USE:
        if (folder / file).is_file():
            made_of = ids_in(state) if _digest(folder / file) == _told(state, key) else None
            if made_of is None:
                what = f"a model, {UNREADABLE}: {STATE} does not tell of it"
            if records := known.held if made_of is None else made_of:
                yield Holding(f"{name}/{file}", what, records, FORGETS)
    kept = "kept: digests and names of files"
    for path in sorted((folder / "answers").glob("*.json")):
        yield Holding(f"{name}/answers/{path.name}", "what the device answered to a withdrawal", (), kept)
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        if path.is_file() and inside.parts[0] != "general" and not _is_told(inside):
            yield Holding(f"{name}/{inside}", *_stray(inside, known))


def _is_told(inside: Path) -> bool:
    """Return whether a file is one that a device keeps: what it holds is said, or nothing of the patient's."""
    if len(inside.parts) == 1:
        return inside.name in OWN
    return len(inside.parts) == 2 and not inside.name.startswith(".") and inside.suffix == KINDS.get(inside.parts[0])


def _stray(inside: Path, known: Known) -> tuple[str, tuple[str, ...], str]:
    """Say what a file is that was on its way when the device stopped, or that is none of a device's."""
    if inside.name.startswith("staged."):
        return "a change that a killed process left, may hold all", known.held, "when the device next works"
    if inside.name.startswith("."):
        return "a file not written to the end, may hold all", known.held, "when the device next works"
    return "a file that is none of Lethe's, may hold all", known.held, "not by Lethe"


def _in_folder(folder: Path, known: Known, kept: Mapping[str, Held]) -> tuple[str, ...]:
    """Return a public patient's records that a device on this machine has in its general models, or a copy of one."""
    found = set[str]()
    packages = [path for path in (folder / "general").glob("*") if path.is_dir()]
    for package in packages:
        found |= set(_learnt(known, kept.get(package.name) if _same_public(package, kept) else None))
    if (folder / MODEL).exists() or (folder / BUNDLE).exists():
        found |= set(_learnt(known, kept.get(_told(read_json(folder / STATE), "general"))))
    return known.among(found)


def _by_row(row: DeviceRow, known: Known, kept: Mapping[str, Held]) -> tuple[str, ...]:
    """Return the records in the general model that a device last told of.

    The same weights may have come with other public segments: what was told before the hospital was without a record
    does not count.
    """
    if row.general is None:
        return ()
    before = [job for job in known.jobs if job.state not in ("AUDITED", *ENDED) and row.updated_at < job.updated_at]
    return known.among({*_learnt(known, kept.get(row.general)), *(one for job in before for one in job.records)})


def _learnt(known: Known, model: Held | None) -> tuple[str, ...]:
    """Return the records in a general model; in one that the hospital has no more, all that are not forgotten."""
    return known.unforgotten if model is None else known.among(model.records)


def _same_public(package: Path, kept: Mapping[str, Held]) -> bool:
    """Return whether a device's general model came with the public segments that the hospital has beside it."""
    if package.name not in kept:
        return False
    try:
        return cmp(package / PUBLIC, kept[package.name].path / PUBLIC, shallow=False)
    except OSError:
        return False


def _told(state: object, key: str) -> str:
    """Return a digest that a device's state names; "" where it names none."""
    told = state.get(key, "") if isinstance(state, dict) else ""
    return str(told.get("digest", "") if isinstance(told, dict) else told)


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return "unreadable"
