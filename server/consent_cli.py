"""The operator's commands on consent that is given later: again, after a withdrawal, and for new records."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from server.cli import HOME, AsJson, Home, NamedRecords, OtherData, PatientId, patients, run_command
from server.workspace import Workspace
from shared.terminal import note, show

__all__ = ["patients"]

if TYPE_CHECKING:
    from server.registry import Registry
    from server.rows import Patient
    from shared.ptbxl import LeftOut


@patients.command("consent")
def consent_again(
    patient: PatientId,
    record: NamedRecords = None,
    home: Home = HOME,
    as_json: AsJson = False,
) -> None:
    """Take down that a patient gives consent again, for all that was withdrawn or for named records."""
    from server.registry import Registry

    with Registry.open(Workspace.open(home).registry_path) as registry:
        again = registry.consent_again(patient, records=record or None)
        _show(registry, patient, again, home=home, as_json=as_json)


@patients.command("add-records")
def add_new_records(
    patient: PatientId,
    data: OtherData = None,
    home: Home = HOME,
    as_json: AsJson = False,
) -> None:
    """Take in what an enrolled patient's device has recorded since, with consent for it."""
    from server.new_records import add_records
    from server.registry import Registry

    workspace, left_out = Workspace.open(home), list["LeftOut"]()
    new = add_records(workspace, patient, data=data, tell=left_out.append)
    for one in left_out:
        note(f"record {one.record} is left out, {one.reason}: {one.detail}")
    with Registry.open(workspace.registry_path) as registry:
        _show(registry, patient, new, home=home, as_json=as_json)


def _show(registry: "Registry", patient: str, given: Sequence[str], *, home: Path, as_json: bool) -> None:
    from server import cli_views

    who, events = registry.patient(patient), registry.events(patient)
    next_step = _next_step(who, home)
    result = {"changed": bool(given), "patient": asdict(who), "records": list(given)}
    result |= {"event": asdict(events[-1]) if given else None, "next": next_step if given else ""}
    show(result, as_json=as_json, render=lambda: cli_views.given(who, given, events=events, next_step=next_step))


def _next_step(patient: "Patient", home: Path) -> str:
    run = f"The next `{run_command(home)}`"
    if patient.slot is not None:
        return f"{run} has device {patient.slot} record them and make its model of all that consent allows."
    return f"{run} trains a general model with them." if patient.role == "corpus" else f"{run} may use them."
