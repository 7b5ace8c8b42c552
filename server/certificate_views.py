"""How certificates and keys are drawn on a terminal; `server/certificate_cli.py` asks for it."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from server.keys import PublicKey
from server.rows import counted
from server.statement import Statement, Statistics
from server.verification import Report

MARKS = {True: ("✓", "bold green"), False: ("✗", "bold red"), None: ("–", "dim")}

PLACES = {"device": "on the device", "hospital": "at the hospital"}


def report_page(name: str, report: Report) -> RenderableType:
    """Draw every check with its mark, then the outcome in one sentence."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for finding in report.findings:
        mark, style = MARKS[finding.holds]
        words = Text(finding.words, style="dim" if finding.holds is None else "")
        table.add_row(Text(mark, style=style), finding.check, words)
    outcome = Text(report.sentence, style="bold green" if report.accepted else "bold red")
    parts: list[RenderableType] = [Text(f"Certificate {name}", style="bold"), Text(""), table, Text(""), outcome]
    if report.accepted:
        rest = "Signed by the hospital is not the same as true: what a signature cannot know is in docs/CERTIFICATE.md."
        parts.append(Text(rest, style="dim"))
    return Group(*parts)


def certificate_page(name: str, statement: Statement) -> RenderableType:
    """Draw what a certificate says."""
    told = statement.predicate
    asked, audit, gone = told.request, told.audit, told.erased
    everything = "everything, " if asked.scope == "patient" else ""
    facts = [
        ("patient", f"{told.subject}, as the ledger names the patient"),
        ("asked", f"{_when(asked.requested_at)}: forget {everything}{counted(asked.records, 'record')}"),
        ("deadline", f"{_when(asked.deadline)}, {'kept' if asked.kept else 'missed'}"),
        ("erased", f"{_when(gone.at)} {PLACES[gone.where]}: {_erased(gone.segments, gone.files, gone.bytes)}"),
        ("method", f"{told.method.name}, {'exact' if told.method.exact else 'approximate'}"),
        ("general model", told.lineage.general or "none"),
        ("model before", told.lineage.before or "none"),
        ("model now", told.lineage.after or "none"),
        *((subject.name, subject.digest.sha256) for subject in statement.subject),
        ("verdict", f"{audit.verdict}: {audit.words}"),
        ("audited by", "the device" if audit.mode == "device" else "the server, white-box"),
        *((f"bytes: {one.name}", "holds" if one.holds else "fails") for one in audit.bytes.checks),
        *_statistics("not unlearned", audit.before),
        *(row for one in audit.earlier for row in _statistics("unlearned, a look before", one)),
        *_statistics("unlearned", audit.after),
        *_statistics("what is kept", audit.retained),
        ("seeds", ", ".join(map(str, audit.seeds)) or "none"),
        ("code, data", f"{told.version.code}, {told.version.data or 'not known'}"),
        ("ledger head", f"{told.ledger.seq}:{told.ledger.hash}"),
        ("key", told.key),
        ("issued", f"{_when(told.issued_at)}, in run {told.run}; valid until {_when(told.valid_until)}"),
    ]
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for label, value in facts:
        grid.add_row(Text(label), Text(value))
    warning = Text("The signature is not checked here; `lethe certificate verify` does that.", style="yellow")
    return Group(Text(f"Certificate {name}", style="bold"), Text(""), grid, Text(""), warning)


def certificate_table(rows: Sequence[Mapping[str, Any]]) -> RenderableType:
    """Draw certificates, one a line."""
    if not rows:
        return Text("No certificate yet; `lethe run` issues one for every withdrawal that passes its audit.")
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for column in ("", "certificate", "issued", "valid until", "method", "outcome"):
        table.add_column(column, overflow="fold")
    for row in rows:
        mark, style = MARKS[row["accepted"]]
        said = (row.get("certificate") or {}).get("predicate")
        dates = (_when(said["issued_at"]), said["valid_until"][:10], said["method"]["name"]) if said else ("–",) * 3
        outcome = "accepted" if row["accepted"] else row["sentence"]
        table.add_row(Text(mark, style=style), *(Text(cell) for cell in (row["name"], *dates, outcome)))
    return table


def key_lines(known: Sequence[PublicKey], *, signs: bool) -> str:
    """Return the public keys as lines to copy; `signs` says whether the current one's private key is there."""
    uses = ["verifies" if not one.current else "signs" if signs else "lost" for one in known]
    lines = [f"{use:<8}  {one.fingerprint}  {one.path}" for use, one in zip(uses, known, strict=True)]
    missing = "No private key: nothing can be certified; `lethe keys rotate` makes one."
    return "\n".join(lines if signs else [*lines, missing])


def _statistics(name: str, told: Statistics | None) -> list[tuple[str, str]]:
    """Return the primary score of one comparison in words, and how many others there are."""
    if told is None:
        return []
    primary = [
        f"AUC {one.auc:.3f}, 90 % interval {one.low90:.3f} to {one.high90:.3f}, epsilon at least {one.epsilon:.2g}"
        for one in told.scores
        if one.primary
    ]
    power = f"{told.n} copies an arm, {told.segments} segments; an AUC of {told.detectable:.2f} is seen with 80 % power"
    return [(name, f"{told.verdict}: {'; '.join([*primary, power])}")]


def _erased(segments: int, files: int, size: int) -> str:
    return f"{counted(segments, 'segment')}, {counted(files, 'file')}, {size:,} bytes"


def _when(at: str) -> str:
    """Return a time for people: UTC, to the minute."""
    return at.replace("T", " ")[:16]
