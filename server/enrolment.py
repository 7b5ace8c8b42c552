"""From a data folder's records to enrolled patients.

Who plays which part is `simulations/split.py`'s; what enrolling means for consent is `server/registry.py`'s. No
device is touched: it records by itself when it is first asked to do something. What an enrolled patient has recorded
since is `server/new_records.py`'s.
"""

import difflib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from server.feeds import write_feed
from server.registry import Enrolment, Patient, Registry
from server.workspace import Workspace
from shared.errors import ConsentError, DataError, UsageError
from shared.ptbxl import BadRecord, LeftOut, Record, for_task, index, read_signal, record_digest, without_copies
from shared.settings import General, Settings, Task
from shared.waveforms import header_meaning

FACT = "enrolment"  # the registry remembers under this name how its patients were enrolled


@dataclass(frozen=True)
class Readable:
    """Records whose signals can be read, those that cannot, and the units met ("mV" or "NU")."""

    records: tuple[Record, ...]
    left_out: tuple[LeftOut, ...]
    units: frozenset[str]


def readable(folder: Path, records: Iterable[Record], *, tell: Callable[[int], None]) -> Readable:
    """Read every record's signal once, so that nobody is enrolled with a record that cannot be used."""
    kept, left_out, units = [], [], set()
    for done, record in enumerate(records, start=1):
        try:
            units.add(read_signal(folder, record)[1])
            kept.append(record)
        except BadRecord as error:
            left_out.append(LeftOut(record.id, error.reason, str(error)))
        tell(done)
    return Readable(tuple(kept), tuple(left_out), frozenset(units))


def refuse_other(settings: Settings, registry: Registry) -> None:
    """Refuse settings that the patients were not enrolled under; they cannot change afterwards.

    Raises:
        UsageError: names the first such setting.
    """
    enrolled = (registry.recall(FACT) or {}).get("settings", {})
    for key, value in settings.flat().items():
        fixed = key.startswith("cohort.") or key == "general.task"
        if fixed and enrolled.get(key, value) != value:
            raise UsageError(
                f"{key} is {value!r}, but the patients of this workspace were enrolled with {enrolled[key]!r}; "
                "make another workspace with `lethe init --home NEW`"
            )


def _ignore(_: LeftOut) -> None:
    """Leave it at that."""


def enrol_patient(
    workspace: Workspace, patient: str, *, data: Path | None = None, tell: Callable[[LeftOut], None] = _ignore
) -> Patient:
    """Enrol one more patient with a device, from the workspace's data or from another folder.

    A recording is recognised by the sha256 of its files and of what the header says, whatever their names are and
    however it is written. The same waveform with another gain or in another format is another recording here.

    Args:
        workspace: has a registry.
        patient: the id in the data.
        data: another folder in PTB-XL's layout.
        tell: is given every record of the patient that cannot be used.

    Raises:
        ConsentError: the patient is enrolled already, in whatever part, or one of the recordings is.
        UsageError: the data do not know the patient.
        DataError: none of the patient's records can be used.
    """
    folder = (data or workspace.data).expanduser().resolve()
    with Registry.open(workspace.registry_path) as registry:
        _refuse_enrolled(registry, patient)
        before = registry.recall(FACT) or {}
        task: Task = before.get("task", General.task)
        found, digests = usable(folder, patient, task=task, unit=before.get("unit"))
        refuse_held(registry, patient, digests)

        def feed(enrolled: Sequence[Patient]) -> None:
            refuse_held(registry, patient, digests)  # once more: nobody else can enrol now
            write_feed(workspace, enrolled[0], folder=folder, records=found.records, digests=digests)

        (added,) = registry.enrol_many(
            [Enrolment(patient, "wearable", {record.id: digests[record.id] for record in found.records})],
            before_commit=feed,
        )
    for one in found.left_out:
        tell(one)
    return added


def _refuse_enrolled(registry: Registry, patient: str) -> None:
    for known in registry.patients(ids=[patient]):
        if known.status == "withdrawn":
            raise ConsentError(
                f"patient {patient} has withdrawn; `lethe patients consent {patient}` takes down that consent is given "
                "again"
            )
        if known.role == "wearable":
            raise ConsentError(f"patient {patient} wears device {known.slot} already; `lethe patients show {patient}`")
        raise ConsentError(
            f"patient {patient} is enrolled as {known.role}, and a role is for good: a device is for patients whom no "
            "general model has met; choose one who is not enrolled"
        )


def refuse_held(registry: Registry, patient: str, digests: Mapping[str, str]) -> None:
    """See that nobody holds the patient's recordings, whose sha256 are given by id.

    Raises:
        ConsentError: somebody does.
    """
    for holder, record_id in registry.holders(digests.values()):
        raise ConsentError(
            f"a recording of patient {patient} is enrolled already, as record {record_id} of patient {holder}; "
            "choose a patient whose recordings nobody holds"
        )


def usable(folder: Path, patient: str, *, task: Task, unit: str | None) -> tuple[Readable, dict[str, str]]:
    """Return the patient's records that the task can use and that can be read, and their files' digests by id.

    Raises:
        DataError: there is none, or they are in another unit.
        UsageError: the data do not know the patient.
    """
    known = index(folder)
    own = [record for record in known.records if record.patient == patient]
    if not own:
        people = {record.patient for record in known.records}
        near = difflib.get_close_matches(patient, sorted(people), n=3)
        hint = f"did you mean {', '.join(near)}?" if near else "--data names another folder"
        raise UsageError(f"no patient {patient!r} with a superclass among the {len(people)} of {folder}; {hint}")
    kept, unfit = for_task(own, task)
    digests = {record.id: record_digest(folder, record) for record in kept}
    others = _alike(folder, kept, [record for record in for_task(known.records, task)[0] if record.patient != patient])
    once, again = without_copies([*kept, *others], digests | {one.id: record_digest(folder, one) for one in others})
    again = tuple(one for one in again if one.record in digests)
    found = readable(folder, [record for record in once if record.id in digests], tell=lambda _: None)
    left_out = (*unfit, *again, *found.left_out)
    if not found.records:
        reasons = ", ".join(f"{reason} ({n})" for reason, n in Counter(one.reason for one in left_out).items())
        raise DataError(
            f"none of the {len(own)} records of patient {patient} can be used: {reasons}; the first: "
            f"{left_out[0].detail}; choose another patient"
        )
    if unit is not None and found.units != {unit}:
        raise DataError(
            f"records of patient {patient} are in {' and '.join(sorted(found.units))}, this workspace's in {unit}; "
            "take a folder in the same unit"
        )
    return Readable(found.records, left_out, found.units), digests


def _alike(folder: Path, own: Iterable[Record], others: Iterable[Record]) -> list[Record]:
    """Return those of `others` whose headers say what one of `own` says: they may be copies."""
    said = {header_meaning(folder / f"{record.path}.hea") for record in own}
    return [record for record in others if header_meaning(folder / f"{record.path}.hea") in said]
