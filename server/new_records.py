"""What an enrolled patient has recorded since, taken in with consent for it.

Enrolling is `server/enrolment.py`'s, what consent means `server/consent.py`'s.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from server.enrolment import FACT, refuse_held, usable
from server.feeds import extend_feed
from server.registry import Patient, Registry
from server.workspace import Workspace
from shared.errors import DataError, UsageError
from shared.ptbxl import LeftOut, Record
from shared.settings import General, Task


def add_records(
    workspace: Workspace, patient: str, *, data: Path | None = None, tell: Callable[[LeftOut], None]
) -> list[str]:
    """Take in what a patient with a device has recorded since, with consent for it; return the new records' ids.

    Records that are enrolled already stay as they are, withdrawn ones too.

    Args:
        workspace: has a registry.
        patient: who is enrolled.
        data: another folder in PTB-XL's layout than the workspace's.
        tell: is given every record of the patient that cannot be used.

    Raises:
        ConsentError: the device has yet to forget everything, or one of the recordings is another patient's.
        UsageError: the patient wears no device, or has no new record in the data.
        DataError: none of the patient's records can be used, or one is another recording now than was enrolled.
    """
    folder = (data or workspace.data).expanduser().resolve()
    with Registry.open(workspace.registry_path) as registry:
        slot = _device_of(registry.patient(patient))
        before = registry.recall(FACT) or {}
        task: Task = before.get("task", General.task)
        found, digests = usable(folder, patient, task=task, unit=before.get("unit"))
        new = _new(registry, patient, found.records, digests, folder=folder)

        def feed(_: Patient) -> None:
            _new(registry, patient, found.records, digests, folder=folder)  # once more: nobody else can enrol now
            extend_feed(workspace, slot, folder=folder, records=new, digests=digests)

        registry.add_records(patient, {record.id: digests[record.id] for record in new}, before_commit=feed)
    for one in found.left_out:
        tell(one)
    return [record.id for record in new]


def _device_of(patient: Patient) -> int:
    """Return the slot of a patient's device.

    Raises:
        UsageError: there is none.
    """
    if patient.slot is None:
        raise UsageError(
            f"patient {patient.id} is enrolled as {patient.role} and wears no device; new records are taken in for "
            "patients who do, those of the others are what `lethe init` found"
        )
    return patient.slot


def _new(
    registry: Registry, patient: str, records: Sequence[Record], digests: Mapping[str, str], *, folder: Path
) -> list[Record]:
    """Return those of the records that are not enrolled.

    Raises:
        ConsentError: one of them is another patient's.
        DataError: one has the name of an enrolled record, and is another recording.
        UsageError: there is none.
    """
    held = {row.id: row.sha256 for row in registry.records(patient, consented_only=False)}
    if changed := [one.id for one in records if held.get(one.id, digests[one.id]) != digests[one.id]]:
        raise DataError(
            f"record {changed[0]} of patient {patient} in {folder} is another recording than the one that was "
            "enrolled; restore its files, or give the new recording a name of its own"
        )
    new = [one for one in records if one.id not in held and digests[one.id] not in held.values()]
    if not new:
        raise UsageError(
            f"no new record of patient {patient} in {folder}: {', '.join(one.id for one in records)} enrolled already; "
            "--data names another folder"
        )
    refuse_held(registry, patient, {one.id: digests[one.id] for one in new})
    return new
