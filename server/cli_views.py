"""How the operator's commands look on a terminal of 80 columns: rows of the registry in, rich renderables out."""

from collections.abc import Iterable, Mapping, Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from server.deadlines import Due
from server.ledger import Entry
from server.rows import (
    HOSPITAL,
    ConsentEvent,
    DeviceRow,
    Job,
    JobEvent,
    Patient,
    RecordRow,
    Role,
    counted,
)
from server.step_words import step_words

NO_JOB = "No job; a withdrawal makes one."
SOON_DAYS = 7  # a deadline that near is coloured
MOST_ROWS = 200  # of a table; all of PTB-XL is no table
UNLINKED = (
    "Forgotten: the salt of this patient's names in the ledger is destroyed. What happened is still there, "
    "and nobody can tell any more which entries it is."
)
BODY = 60  # characters of an entry's body in a table
STYLES = {
    "personal": "green",
    "personal, unlearned": "green",
    "general (rolled back)": "yellow",
    "general": "yellow",
    "stale": "yellow",
    "to unlearn": "yellow",
    "unlearning": "yellow",
    "unlearning failed": "bold red",
    "forgotten": "cyan",
    "active": "green",
    "partly withdrawn": "yellow",
    "withdrawn": "cyan",
    "REQUESTED": "yellow",
    "DISPATCHED": "yellow",
    "UNLEARNED": "green",
    "AUDITED": "green",
    "CERTIFIED": "bold green",
    "FAILED": "bold red",
    "CLOSED": "red",
}


def patient_table(patients: Sequence[Patient], models: Mapping[str, str], *, role: Role) -> RenderableType:
    """Draw the patients of one role; `models` says which model a wearable's device has."""
    worn = role == "wearable"
    table = _table(
        "patient", "pseudonym", "role", "records>", "withdrawn>", *(("slot>", "model") if worn else ("consent",))
    )
    for one in patients[:MOST_ROWS]:
        start = (one.id, one.pseudonym, one.role, str(one.records), str(one.withdrawn or "–"))
        end = (str(one.slot), _styled(models[one.id])) if worn else (_styled(one.status),)
        _add(table, *start, *end)
    return _with_rest(
        table,
        total=len(patients),
        none=f"No {role} is enrolled; `lethe init --home NEW` enrols a cohort in a new workspace.",
    )


def patient_page(
    patient: Patient,
    *,
    model: str,
    records: Sequence[RecordRow],
    events: Sequence[ConsentEvent],
    jobs: Sequence[Job],
    device: DeviceRow | None,
) -> RenderableType:
    """Draw all that the registry knows of one patient."""
    facts: list[tuple[str, str | Text]] = [
        ("pseudonym", patient.pseudonym),
        ("role", patient.role),
        ("enrolled", _when(patient.enrolled_at)),
        ("consent", _styled(patient.status)),
    ]
    if patient.slot is not None:
        facts += [("device", f"slot {patient.slot}"), ("model", _styled(model))]
    if device is not None:
        facts.append(("accuracy", f"{_share(device.own)} own, {_share(device.others)} others"))
    held = _table("record", "sha256", "consent")
    for record in records:
        consent = _styled("withdrawn" if record.withdrawn else "active")
        _add(held, record.id, f"{record.sha256[:16]}…", consent)
    history = _table("event>", "when", "consent", "for", "source")
    for event in events:
        _add(history, str(event.seq), _when(event.at), event.kind, _forget(event.scope, event.records), event.source)
    head = Text(f"Patient {patient.id}", style="bold")
    return _spaced(
        head, _facts(facts), held, history if events else Text(UNLINKED), *([job_table(jobs)] if jobs else [])
    )


def job_table(jobs: Sequence[Job]) -> RenderableType:
    """Draw jobs, one a line."""
    table = _table("job", "patient", "slot>", "forget", "state", "method", "requested")
    for job in jobs[:MOST_ROWS]:
        _add(table, *_job_cells(job), _when(job.requested_at))
    return _with_rest(table, total=len(jobs), none=NO_JOB)


def job_list(jobs: Sequence[Job], due: Mapping[str, Due]) -> RenderableType:
    """Draw jobs, one a line, with what is left of the time in which they are `due`, and a warning where none is."""
    table = _table("job", "patient", "slot>", "forget", "state", "method", "asked", "left")
    for job in jobs[:MOST_ROWS]:
        left = _left(due[job.id]) if job.id in due else Text("–")
        _add(table, *_job_cells(job), job.requested_at[:10], left)
    late = [one for one in due.values() if one.overdue]
    drawn = _with_rest(table, total=len(jobs), none=NO_JOB)
    return _spaced(drawn, _late(late)) if late else drawn


def check(due: Sequence[Due], days: int, *, closed: int) -> RenderableType:
    """Draw what is not certified yet, the nearest deadline first; how many were `closed` is told where nothing is."""
    if not due:
        but = f" but {closed}, closed without a certificate" if closed else ""
        return Text(f"Nothing is due: every withdrawal is certified{but}.")
    table = _table("job", "patient", "slot>", "forget", "state", "method", "deadline", "left")
    for one in due[:MOST_ROWS]:
        _add(table, *_job_cells(one.job), f"{one.deadline:%Y-%m-%d}", _left(one))
    late = [one for one in due if one.overdue]
    told = _late(late) if late else Text(f"In time: the deadline is {counted(days, 'day')} after the withdrawal.")
    return _spaced(_with_rest(table, total=len(due), none=""), told)


def _job_cells(job: Job) -> tuple[str | Text, ...]:
    return (
        job.id,
        job.patient,
        "–" if job.slot == HOSPITAL else str(job.slot),
        _forget(job.scope, job.records),
        _styled(job.state),
        job.method or "–",
    )


def _place(job: Job) -> str:
    return "the hospital, general model" if job.slot == HOSPITAL else f"slot {job.slot}"


def _left(one: Due) -> Text:
    """Say how much time is left, in whole days, or since when there is none."""
    if one.overdue:
        return Text(f"{(-one.left).days} d late", style="bold red")
    return Text(f"{one.left.days} d", style="yellow" if one.left.days < SOON_DAYS else "")


def _late(late: Sequence[Due]) -> Text:
    """Say that jobs are late, and how to see why the one is that is so the longest."""
    longest = min(late, key=lambda one: one.deadline).job.id
    run, tell = "`lethe run` takes up what is due", f"`lethe jobs show {longest}` tells why it is"
    return Text(f"{counted(len(late), 'job')} overdue: {run}, {tell}.", style="bold red")


def job_page(job: Job, steps: Iterable[JobEvent]) -> RenderableType:
    """Draw one job and every step it took."""
    facts: list[tuple[str, str | Text]] = [
        ("patient", job.patient),
        ("device", _place(job)),
        ("forget", f"{_forget(job.scope, job.records)}: {', '.join(job.records)}"),
        ("state", _styled(job.state)),
        ("method", job.method or "–"),
        *([("closed", str(job.detail["closed"]))] if "closed" in job.detail else []),
    ]
    history = _table("when", "state", "detail")
    steps = list(steps)
    for step in steps:
        _add(history, _when(step.at), _styled(step.state), step_words(step.detail))
    return _spaced(Text(f"Job {job.id}", style="bold"), _facts(facts), history if steps else Text(UNLINKED))


def device_table(devices: Sequence[DeviceRow], pseudonyms: Mapping[str, str]) -> RenderableType:
    """Draw what every device last told."""
    table = _table("slot>", "pseudonym", "general", "personal", "own>", "others>", "serves", "told")
    for one in devices[:MOST_ROWS]:
        digests = ((one.general or "–")[:7], (one.personal or "–")[:7])
        model = _styled("personal" if one.accepted else "general") if one.personal else "–"
        accuracy = (_share(one.own), _share(one.others))
        _add(table, str(one.slot), pseudonyms[one.patient], *digests, *accuracy, model, _when(one.updated_at))
    return _with_rest(table, total=len(devices), none="No device has told anything yet; `lethe run` asks them.")


def withdrawal(
    patient: Patient, *, changed: bool, event: ConsentEvent | None, jobs: Sequence[Job], next_step: str
) -> RenderableType:
    """Draw what a withdrawal wrote, and what happens next; without an event the patient is forgotten."""
    head = "Withdrawn already; nothing changed."
    facts: list[tuple[str, str | Text]] = [("patient", f"{patient.id}, pseudonym {patient.pseudonym}, {patient.role}")]
    if event is not None:
        if changed:
            what = "everything" if event.scope == "patient" else _forget(event.scope, event.records)
            head = f"Patient {patient.id} has withdrawn consent for {what}."
        facts += [
            ("consent event", f"{event.seq}, {_when(event.at, seconds=True)}, source {event.source}"),
            ("records", ", ".join(event.records)),
        ]
    for job in jobs:
        facts.append(("job", Text.assemble(f"{job.id}, {_place(job)}, ", _styled(job.state))))
    return _spaced(Text(head, style="bold"), _facts(facts), Text(next_step))


def given(
    patient: Patient, records: Sequence[str], *, events: Sequence[ConsentEvent], next_step: str
) -> RenderableType:
    """Draw that consent was given for records; without any, nothing was changed."""
    facts: list[tuple[str, str | Text]] = [("patient", f"{patient.id}, pseudonym {patient.pseudonym}, {patient.role}")]
    if not records:
        return _spaced(Text("Consent stands already; nothing changed.", style="bold"), _facts(facts))
    last = events[-1]
    facts += [
        ("consent event", f"{last.seq}, {_when(last.at, seconds=True)}, source {last.source}"),
        ("records", ", ".join(records)),
        ("consent", _styled(patient.status)),
    ]
    head = f"Patient {patient.id} has given consent for {counted(len(records), 'record')}."
    return _spaced(Text(head, style="bold"), _facts(facts), Text(next_step))


def ledger_table(entries: Sequence[Entry]) -> RenderableType:
    """Draw the last entries of the ledger, as they are: nobody is named."""
    table = _table("seq>", "when", "kind", "subject", "hash", "body")
    for one in entries[-MOST_ROWS:]:
        body = one.body if len(one.body) <= BODY else f"{one.body[:BODY]}…"
        _add(table, str(one.seq), _when(one.at), one.kind, one.subject[:7] or "–", one.hash[:7], body)
    if len(entries) <= MOST_ROWS:
        return table if entries else Text("The ledger is empty.")
    return _spaced(Text(f"{len(entries) - MOST_ROWS:,} earlier ones; --json prints all", style="dim"), table)


def _spaced(first: RenderableType, *parts: RenderableType) -> Group:
    """Put an empty line between the parts of a page."""
    return Group(first, *(one for part in parts for one in (Text(""), part)))


def _table(*columns: str) -> Table:
    """Return an empty table; a column whose name ends in > is for numbers."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for column in columns:
        table.add_column(column.rstrip(">"), justify="right" if column.endswith(">") else "left", overflow="fold")
    return table


def _add(table: Table, *cells: str | Text) -> None:
    """Add a row as it is written: an id with brackets is no markup."""
    table.add_row(*(cell if isinstance(cell, Text) else Text(cell) for cell in cells))


def _facts(facts: Iterable[tuple[str, str | Text]]) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in facts:
        _add(grid, name, value)
    return grid


def _with_rest(table: Table, *, total: int, none: str) -> RenderableType:
    if not total:
        return Text(none)
    if total <= MOST_ROWS:
        return table
    return _spaced(table, Text(f"… and {total - MOST_ROWS:,} more; --json prints all", style="dim"))


def _styled(word: str) -> Text:
    return Text(word, style=STYLES.get(word, ""))


def _forget(scope: str, records: Sequence[str]) -> str:
    return "everything" if scope == "patient" else counted(len(records), "record")


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _when(at: str, *, seconds: bool = False) -> str:
    """Return a time for people: UTC, to the minute or the second; of what is forgotten only the day is known."""
    if "T00:00:00.000" in at:
        return at[:10]
    return at.replace("T", " ")[: 19 if seconds else 16]
