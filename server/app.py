"""The hospital's Flower ServerApp: reads the work that is due from the registry and runs the phases.

What a phase does stands in `server/phases.py`; what is made of the answers, in `server/results.py`. Withdrawals
(`server/withdrawals.py`) come first: a device that must forget is told so before anything else happens.
"""

import time
import traceback
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from server import corpus_jobs, phases, results, roll_call
from server.corpus import open_corpus
from server.forgotten import unname
from server.general import PUBLIC_ROLES, Trained, is_stale, train_while_consented
from server.history_check import refuse_contradicted
from server.personalising import personalise
from server.pictures import withhold
from server.progress import Progress
from server.registry import Registry
from server.rows import DUE, HOSPITAL
from server.run import Run
from server.withdrawals import awaits, unlearn
from server.workspace import Workspace
from shared.errors import DataError, LetheError, RunError, UsageError, code_of, plainly
from shared.fields import safe_name
from shared.files import sweep
from shared.messages import WHOAMI
from shared.package import load_general
from shared.settings import Settings
from shared.version import code_version

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run what is due in the workspace that the run configuration names."""
    values = dict(context.run_config)
    home, name, nodes = Path(str(values.pop("home"))), str(values.pop("run")), int(values.pop("devices"))
    if not home.is_absolute():
        raise UsageError(f'home is {str(home)!r}, expected the absolute path of a workspace: home="/path/to/it"')
    workspace = Workspace.open(home)
    name = _run_name(name) or f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{context.run_id & 0xFFFF:04x}"
    progress = Progress(workspace.flower / f"{name}.json")
    try:
        settings = Settings().with_values(values)
        with workspace.lock(f"run {name}"), Registry.open(workspace.registry_path) as registry:
            execute(Run(name, grid, workspace, registry, settings, progress, nodes=nodes))
    except LetheError as error:
        progress.end(error=str(error), exit_code=error.exit_code, traceback=traceback.format_exc())
        raise
    except OSError as error:
        progress.end(error=plainly(error), exit_code=code_of(error), traceback=traceback.format_exc())
        raise
    except Exception as error:
        told = f"a bug in Lethe, in the server's part: {type(error).__name__}: {error}"
        progress.end(error=told, exit_code=1, traceback=traceback.format_exc())
        raise
    progress.end()


def _run_name(name: str) -> str:
    """Return the name that a run was given, "" for none; a folder and files are called after it."""
    try:
        return name and safe_name(name)
    except ValueError as error:
        raise UsageError(f"run is {error}") from None


def execute(run: Run) -> None:
    """Do what is due: forget, train, personalise, probe, rehearse withdrawals if asked to, report."""
    began, since = datetime.now(UTC), time.monotonic()
    refuse_contradicted(run.registry)
    run.registry.start_run(run.name, run.settings.flat())
    try:
        sweep(run.workspace.home, spare=run.workspace.devices)  # a device sweeps its own
        withhold(run.workspace.reports, run.registry)
        unname(run.workspace.reports, run.registry)
        meet(run)
        unlearn(run)
        trained = refresh(run)
        probe(run)
        rehearse(run)
        unlearn(run)  # also what was withdrawn by others while the run went on
        finish(run, trained, began, since=since)
    except BaseException as error:
        run.registry.finish_run(run.name, "failed", {"error": str(error)})
        raise
    run.registry.finish_run(run.name, "finished", {})


def meet(run: Run) -> None:
    """Learn which device is behind which node; a patient who has enrolled since the start waits for the next run."""
    slots = [patient.slot for patient in run.registry.patients("wearable") if patient.slot is not None]
    if not slots:
        raise RunError("no patient with a wearable is enrolled; add one with `lethe patients add`")
    expected = min(max(slots) + 1, run.nodes) if run.nodes else max(slots) + 1
    with run.progress.phase("directory"):
        run.devices = roll_call.directory(
            run.grid,
            run=run.name,
            expected=expected,
            code=code_version(),
            answer_s=run.answer_s,
            registered=run.workspace.deployed,
            refuse=run.refuse,
        )
    for slot in set(run.devices) - set(slots):
        run.refuse(slot, WHOAMI, DataError(f"it says it is device {slot}, and no patient wears one of this number"))
        del run.devices[slot]
    _see_who_returned(run)


def _see_who_returned(run: Run) -> None:
    """Find the devices that have something although all that their patients ever gave is certified as forgotten."""
    general = {model.digest for model in run.registry.models() if model.kind == "general"}
    due = {job.slot for job in run.registry.jobs(DUE)}
    for patient in run.registry.patients("wearable"):
        if patient.status != "withdrawn" or patient.slot in due or patient.slot not in run.devices:
            continue
        _, identity = run.devices[patient.slot]
        if identity.recordings or identity.personal not in {"", *general}:
            run.returned.add(patient.slot)
            seen = f"it has {identity.recordings} recordings, and its model is {identity.personal[:12] or 'none'}"
            told = f"all of its patient is forgotten, and {seen}: an older state was put back; it is told to erase that"
            run.refuse(patient.slot, WHOAMI, DataError(told))


def refresh(run: Run) -> Trained:
    """Bring the general model and every personal one up to date with consent.

    Both take a while, and patients may withdraw meanwhile. A model that a corpus patient is in is made again; a
    device whose patient withdrew is asked to forget before it is asked for a model, because it then still has what it
    is to give account of. Who withdrew while models were made is forgotten at once, before anything is measured.
    """
    while True:
        withdrawals = run.registry.withdrawals(PUBLIC_ROLES)
        trained = _train(run, withdrawals)
        unlearn(run, only_new=True)
        if trained is None or is_stale(run.workspace, run.registry, run.settings):  # while others were unlearnt
            continue
        corpus_jobs.acknowledge(run, trained)
        passed_over = personalise(run, trained, withdrawals)
        unlearn(run, only_new=True)
        if not passed_over and not is_stale(run.workspace, run.registry, run.settings):
            return trained


def _train(run: Run, withdrawals: int) -> Trained | None:
    """Train the general model, or return None where somebody's records in it were withdrawn meanwhile.

    Args:
        run: whose settings and registry.
        withdrawals: how often public records had been withdrawn before the choice of records.
    """
    corpus_jobs.dispatch(run)
    with run.progress.phase("general") as tell:
        return train_while_consented(run.workspace, run.registry, run.settings, tell=tell, withdrawals=withdrawals)


def probe(run: Run) -> None:
    """Run the paper's probe on every device with a personal model whose patient does not wait to be forgotten."""
    slots = [slot for slot, reply in run.personal.items() if reply.status == "ok"]
    owners = {patient.slot: patient.id for patient in run.registry.patients("wearable")}

    def allowed(slot: int) -> bool:
        return not awaits(run, owners[slot])

    with run.progress.phase("probe") as tell:
        run.probes = phases.probe(
            run.grid,
            run.devices,
            slots,
            allowed,
            run.settings,
            run=run.name,
            answer_s=run.answer_s,
            tell=tell,
            refuse=run.refuse,
        )


def rehearse(run: Run) -> None:
    """Let patients withdraw in mid-run, as a demonstration: in turn for one record and entirely.

    Accepted copies go first, then those of many records, so that something is left when one record goes.
    """
    ready = [p for p in run.registry.patients("wearable") if p.status == "active" and p.slot in _made(run)]
    ready.sort(key=lambda patient: (patient.slot not in _made(run, accepted=True), -patient.records, patient.slot))
    several = [patient for patient in ready if patient.records > 1]
    for turn in range(min(run.settings.unlearning.rehearsals, len(ready))):
        in_part = turn % 2 == 0 and bool(several)
        patient = several[0] if in_part else ready[0]
        ready.remove(patient)
        several = [other for other in several if other != patient]
        records = [run.registry.records(patient.id)[0].id] if in_part else None
        run.registry.withdraw(patient.id, records=records, source="rehearsal")


def _made(run: Run, *, accepted: bool = False) -> set[int]:
    """Return the slots that made a personal model in this run."""
    return {slot for slot, reply in run.personal.items() if reply.status == "ok" and (reply.accepted or not accepted)}


def finish(run: Run, trained: Trained, began: datetime, *, since: float) -> None:
    """Write the result; `lethe report` makes the page from it.

    Args:
        run: which has ended but for this.
        trained: the general model.
        began: when the run did.
        since: the same on the clock that nobody sets (`time.monotonic`).
    """
    with run.progress.phase("result"):
        model, public = load_general(run.workspace.models / trained.digest)
        pseudonyms = {p.slot: p.pseudonym for p in run.registry.patients("wearable") if p.slot is not None}
        corpus = open_corpus(run.workspace, run.registry, run.settings)
        done = run.withdrawals.values()
        for one in done:
            one.steps = one.steps or tuple((step.state, step.at) for step in run.registry.job_events(one.job.id))
        due = [job for job in run.registry.jobs(DUE) if job.id not in run.withdrawals and job.slot != HOSPITAL]
        endings = corpus_jobs.close(run, trained)
        result: dict[str, Any] = {
            "run": run.name,
            "created": began.isoformat(timespec="seconds"),
            "code_version": code_version(),
            "settings": run.settings.flat(),
            "data": results.describe_data(run.workspace, run.registry, corpus, run.personal.values(), run.settings),
            "split": results.describe_split(run.registry),
            "general": results.describe_general(run.registry, trained),
            "personal": results.describe_personal(run.personal, pseudonyms, trained.digest),
            "probe": results.describe_probe(run.probes, run.settings),
            "withdrawals": [
                *(results.describe_withdrawal(one, pseudonyms[one.job.slot], run.settings) for one in done),
                *(results.describe_due(job, pseudonyms[job.slot], run.settings) for job in due),
            ],
            "public_withdrawals": corpus_jobs.describe(endings, run),
            "silent": results.describe_silent(run.registry.patients("wearable"), run.personal, began=began),
            "refused": results.describe_refused(run.refusals, pseudonyms),
            "phases": run.progress.phases,
            "seconds": time.monotonic() - since,
            "overhead_seconds": None,
        }
        figures = results.figures(model, public.control, corpus, run.settings)
        results.save(run.workspace.reports / run.name, result, figures)
