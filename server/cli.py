"""The operator's commands: patients and devices; `simulations/cli.py` mounts them and prints errors.

Each opens the workspace, asks the registry, and shows the answer. Nothing heavy is imported before a command runs.
"""

import os
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from server.model_words import model_state
from server.rows import ENDED, UNFORGOTTEN, Job, Patient, Role, counted, is_final
from server.workspace import Workspace
from shared.errors import UsageError, plainly
from shared.terminal import note, show

if TYPE_CHECKING:
    from server.consent_book import Unheard
    from server.registry import Registry
    from shared.ptbxl import LeftOut

patients = typer.Typer(help="Enrol patients, look them up, and take their withdrawals.", no_args_is_help=True)
devices = typer.Typer(help="What the devices last told, and running one.", no_args_is_help=True)

Home = Annotated[Path, typer.Option("--home", envvar="LETHE_HOME", help="The workspace.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
PatientId = Annotated[str, typer.Argument(help="The patient's id in the data.", show_default=False)]
OtherData = Annotated[
    Path | None, typer.Option("--data", help="Another folder in PTB-XL's layout.", show_default=False)
]
NamedRecords = Annotated[
    list[str] | None, typer.Option("--record", help="Only this record; may be repeated.", show_default=False)
]
HOME = Path("lethe-home")


def run_command(home: Path) -> str:
    """Return the command that does what is due in this workspace, as it is to be typed here."""
    usual = Path(os.environ.get("LETHE_HOME", HOME))
    return "lethe run" if home == usual else f"lethe run --home {shlex.quote(str(home))}"


@contextmanager
def _registry(home: Path) -> Iterator["Registry"]:
    from server.registry import Registry

    with Registry.open(Workspace.open(home).registry_path) as registry:
        yield registry


@patients.command("add")
def add_patient(
    patient: PatientId,
    data: OtherData = None,
    home: Home = HOME,
    as_json: AsJson = False,
) -> None:
    """Enrol a patient and give them the next device; the next run makes its model."""
    from server.enrolment import enrol_patient

    left_out: list[LeftOut] = []
    added = enrol_patient(Workspace.open(home), patient, data=data, tell=left_out.append)
    for one in left_out:
        note(f"left out: {one.detail}")
    text = (
        f"Patient {added.id} (pseudonym {added.pseudonym}) wears device {added.slot}: "
        f"{counted(added.records, 'record')}.\nThe next `{run_command(home)}` makes the personal model."
    )
    show({"patient": asdict(added), "left_out": _dicts(left_out)}, as_json=as_json, render=lambda: text)


@patients.command("list")
def list_patients(
    role: Annotated[Role, typer.Option("--role", help="Which patients.")] = "wearable",
    home: Home = HOME,
    as_json: AsJson = False,
) -> None:
    """List the patients who wear a device, or those of another role."""
    from server import cli_views

    with _registry(home) as registry:
        found = registry.patients(role)
        told = {device.slot: device for device in registry.devices()}
        due, stale = registry.jobs(), registry.stale()
    own: dict[str, list[Job]] = {one.id: [] for one in found}
    for job in due:
        own.get(job.patient, []).append(job)
    worn = {
        p.id: model_state(p, told.get(p.slot), own[p.id], stale=p.slot in stale) for p in found if p.slot is not None
    }
    result = {"patients": [asdict(one) | {"model": worn.get(one.id)} for one in found]}
    show(result, as_json=as_json, render=lambda: cli_views.patient_table(found, worn, role=role))


@patients.command("show")
def show_patient(patient: PatientId, home: Home = HOME, as_json: AsJson = False) -> None:
    """Show one patient: records, consent, jobs and device."""
    from server import cli_views

    with _registry(home) as registry:
        who = registry.patient(patient)
        records = registry.records(patient, consented_only=False)
        events = registry.events(patient)
        own = [job for job in registry.jobs() if job.patient == patient]
        device = next((one for one in registry.devices() if one.slot == who.slot), None)
        stale = who.slot in registry.stale()
    model = model_state(who, device, own, stale=stale) if who.slot is not None else None
    result = {
        "patient": asdict(who) | {"model": model},
        "records": _dicts(records),
        "events": _dicts(events),
        "jobs": _dicts(own),
        "device": asdict(device) if device else None,
    }
    show(
        result,
        as_json=as_json,
        render=lambda: cli_views.patient_page(
            who, model=model or "", records=records, events=events, jobs=own, device=device
        ),
    )


@patients.command("withdraw")
def withdraw_consent(
    patient: PatientId,
    record: NamedRecords = None,
    since: Annotated[
        str | None, typer.Option("--from", help="Only what was recorded on this day or later.", show_default=False)
    ] = None,
    until: Annotated[
        str | None, typer.Option("--until", help="Only what was recorded on this day or before.", show_default=False)
    ] = None,
    yes: Yes = False,
    home: Home = HOME,
    as_json: AsJson = False,
) -> None:
    """Take a patient's consent back: for everything, for named records, or for what was recorded between two days."""
    named = record or None
    if since is not None or until is not None:
        if named:
            raise UsageError("--record and days were given, expected one or the other; run the command twice for both")
        named = _of_days(home, patient, since, until)
    _withdraw(home, patient, named, yes=yes, as_json=as_json)


@patients.command("remove")
def remove_patient(patient: PatientId, yes: Yes = False, home: Home = HOME, as_json: AsJson = False) -> None:
    """Take a patient's consent back for everything; another name of withdraw."""
    _withdraw(home, patient, None, yes=yes, as_json=as_json)


def _of_days(home: Path, patient: str, since: str | None, until: str | None) -> list[str]:
    from server.recorded import between, day, days_of

    first = None if since is None else day(since, option="--from")
    last = None if until is None else day(until, option="--until")
    with _registry(home) as registry:
        who = registry.patient(patient)
        held = [row.id for row in registry.records(who.id, consented_only=False)]
    return between(days_of(Workspace.open(home), who, held), since=first, until=last)


def _withdraw(home: Path, patient: str, named: Sequence[str] | None, *, yes: bool, as_json: bool) -> None:
    from server import cli_views
    from server.consent import named_records

    taken: list[str] = []
    unheard: list[Unheard] = []
    with _registry(home) as registry:
        rows = registry.records(patient, consented_only=False)
        wanted = None if named is None else named_records(patient, named, [row.id for row in rows])
        lost = [row.id for row in rows if not row.withdrawn and (wanted is None or row.id in wanted)]
        if lost and not yes:
            _confirm(registry.patient(patient), lost, of=len(rows))
        covering = registry.withdraw(patient, records=named, taken=taken.extend, unheard=unheard.append)
        events = registry.events(patient)
        who = registry.patient(patient)
    next_step = _next_step(who, covering, home, unheard)
    changed, about = bool(taken), set(taken) or wanted
    mine = [event for event in events if event.kind == "withdrawn" and (about is None or about & set(event.records))]
    event = mine[-1] if mine else None  # a forgotten patient's events are nobody's
    result = {"changed": changed, "patient": asdict(who), "event": asdict(event) if event else None}
    lacking = {one.what for one in unheard}
    result |= {
        "jobs": _dicts(covering),
        "word": "word" not in lacking,
        "list": "list" not in lacking,
        "next": next_step,
    }
    show(
        result,
        as_json=as_json,
        render=lambda: cli_views.withdrawal(who, changed=changed, event=event, jobs=covering, next_step=next_step),
    )


def _confirm(patient: Patient, lost: Sequence[str], *, of: int) -> None:
    """Ask at a terminal, saying what will be erased.

    Raises:
        UsageError: there is nobody to ask.
    """
    effect = "the general model, and every copy of it, is made again without them"
    if patient.slot is not None:
        effect = f"device {patient.slot} erases them and its model unlearns them"
    what = f"{', '.join(lost)} ({len(lost)} of {counted(of, 'record')})"
    if not sys.stdin.isatty():
        raise UsageError(
            f"patient {patient.id} withdraws {what}: {effect}, for good, and there is no terminal to ask at; "
            "confirm with --yes"
        )
    note(f"Patient {patient.id} withdraws {what}: {effect}.")
    # typer.confirm would print a part of its question on stdout, where the result goes.
    print("This cannot be undone. Withdraw? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        note("Nothing was changed.")
        raise typer.Exit(1)


def _next_step(patient: Patient, covering: Sequence[Job], home: Path, unheard: Sequence["Unheard"]) -> str:
    if patient.slot is None:
        return _at_the_hospital(covering, home)
    if any(job.state in UNFORGOTTEN and not is_final(job) for job in covering):
        word = _word(patient.slot, unheard, deployed=Workspace.open(home).deployed)
        return (
            f"{word} The run that goes on, or the next `{run_command(home)}`, has it compare copies with and without "
            "them, then erase them and unlearn."
        )
    return "The device has forgotten them already."


def _word(slot: int, unheard: Sequence["Unheard"], *, deployed: bool) -> str:
    """Say what was left for a device: the word that stops it at work, and the signed list for the wearable in use."""
    why = {one.what: plainly(one.why) or str(one.why) for one in unheard}
    making, using = "what it is making of them", "the model that it made of them"
    told = [f"Device {slot} has word: it stops {making}{'' if why else f', and {using}'}."]
    if deployed:
        here = f"Device {slot}, where it runs on this machine, has word: it stops {making}"
        told = [
            f"{here}{'' if why else f', and {using}'}. One on a machine of its own learns of it with the next message."
        ]
    if "word" in why:
        told = [
            f"No word could be left for device {slot} ({why['word']}): in a run that goes on it ends {making}, and "
            "forgets it after; withdraw again to leave word."
        ]
    if "list" in why:
        told.append(
            f"The signed list, by which a wearable in use stops {using}, could not be left ({why['list']}): until the "
            "device forgets, that goes on; withdraw again to leave it."
        )
    elif why:
        told.append(f"The signed list was left: a wearable in use stops {using}.")
    return " ".join(told)


def _at_the_hospital(covering: Sequence[Job], home: Path) -> str:
    """Return what happens to records that the general model was made of, or that travel with it."""
    if all(job.state in ENDED for job in covering):
        return "No model is made of them any more."
    return (
        f"No run uses them any more. The next `{run_command(home)}` trains a general model without these records, has "
        "every device make its copy from it, and certifies that."
    )


@devices.command("list")
def list_devices(home: Home = HOME, as_json: AsJson = False) -> None:
    """List what every device last told."""
    from server import cli_views

    with _registry(home) as registry:
        found = registry.devices()
        pseudonyms = {one.id: one.pseudonym for one in registry.patients("wearable")}
    show({"devices": _dicts(found)}, as_json=as_json, render=lambda: cli_views.device_table(found, pseudonyms))


def _dicts(rows: Sequence[Any]) -> list[Mapping[str, Any]]:
    return [asdict(row) for row in rows]
