"""`lethe data`: synthesise, check or fetch a data set in PTB-XL's layout.

The commands only connect `simulations/cohort.py`, `shared/ptbxl.py` and `simulations/fetch.py` with the terminal.
"""

from collections import Counter
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from server.rows import counted
from shared.errors import DataError
from shared.settings import SUPERCLASSES
from shared.terminal import progress, show

if TYPE_CHECKING:
    from rich.console import RenderableType

    from shared.ptbxl import Index, LeftOut

app = typer.Typer(no_args_is_help=True, help="Synthesise, check or fetch ECG data in PTB-XL's layout.")
SHOWN = 5  # records a reason on a terminal
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Hz = Annotated[int | None, typer.Option("--hz", help="500 or 100: only the records of this rate.")]


@app.command()
def synth(
    folder: Annotated[Path, typer.Argument(help="A new or an empty folder.")],
    patients: Annotated[int, typer.Option(min=1, help="How many patients; about two records each.")] = 300,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same bytes.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Write a synthetic cohort: 12 leads, 500 Hz, several records a patient, five superclasses."""
    from simulations.cohort import record_count, write_cohort

    with progress("Synthesising records", record_count(patients)) as done:
        write_cohort(folder, patients=patients, seed=seed, progress=done)
    result = {"folder": str(folder), "patients": patients, "records": record_count(patients), "seed": seed}
    show(result, as_json=as_json, render=lambda: _table(f"Synthetic cohort {folder}", result))


@app.command()
def check(
    folder: Annotated[Path, typer.Argument(help="A data set in PTB-XL's layout.")],
    hz: Hz = None,
    as_json: AsJson = False,
) -> None:
    """Verify the checksums and show what would be used, and what would be left out and why."""
    from shared import ptbxl

    index = ptbxl.index(folder, hz=hz)
    with progress("Verifying checksums", ptbxl.listed_files(folder, hz=hz)) as done:
        problems = ptbxl.verify_checksums(folder, hz=hz, progress=done)
    usable, unreadable = _read_all(index)
    _, several = ptbxl.for_task(usable, "single")
    result = {
        "folder": str(folder),
        "records": len(index.records) + len(index.left_out),
        "usable": len(usable),
        "patients": len({record.patient for record in usable}),
        "hz": index.records[0].hz if index.records else None,
        "superclasses": {name: sum(name in record.superclasses for record in usable) for name in SUPERCLASSES},
        "folds": {str(fold): count for fold, count in sorted(Counter(record.fold for record in usable).items())},
        "left_out": _by_reason([*index.left_out, *unreadable]),
        "left_out_of_task_single": _by_reason(several),
        "checksum_problems": problems,
    }
    show(result, as_json=as_json, render=lambda: _report(result))
    if problems:
        raise DataError(
            f"{counted(len(problems), 'problem')} with the checksums of {folder}, expected none: {problems[0]}; "
            "fetch the files again"
        )


@app.command()
def fetch(
    folder: Annotated[Path, typer.Argument(help="Where the data set goes; an earlier download is continued.")],
    hz: Hz = None,
    url: Annotated[str | None, typer.Option(help="Another server with the same files.")] = None,
    as_json: AsJson = False,
) -> None:
    """Download PTB-XL 1.0.3 from PhysioNet (CC BY 4.0), checking every file."""
    from simulations.fetch import PHYSIONET_URL
    from simulations.fetch import fetch as download

    source = url or PHYSIONET_URL
    downloaded = download(folder, base_url=source, hz=hz, progress=lambda files: progress("Downloading files", files))
    result = {"folder": str(folder), "source": source, "downloaded": downloaded}
    show(result, as_json=as_json, render=lambda: _table(f"PTB-XL in {folder}", result))


def _read_all(index: "Index") -> tuple[list[Any], list["LeftOut"]]:
    """Read every signal once and keep none."""
    from shared import ptbxl

    usable, left_out, digests = [], [], {}
    with progress("Reading signals", len(index.records)) as done:
        for number, record in enumerate(index.records, start=1):
            digests[record.id] = ptbxl.record_digest(index.folder, record)
            try:
                ptbxl.read_signal(index.folder, record)
                usable.append(record)
            except ptbxl.BadRecord as error:
                left_out.append(ptbxl.LeftOut(record.id, error.reason, str(error)))
            done(number)
    once, again = ptbxl.without_copies(usable, digests)
    return list(once), [*left_out, *again]


def _by_reason(left_out: Iterable["LeftOut"]) -> dict[str, dict[str, Any]]:
    """Return reason -> how many, and what was seen in which record."""
    reasons: dict[str, dict[str, Any]] = {}
    for one in left_out:
        entry = reasons.setdefault(one.reason, {"count": 0, "details": {}})
        entry["count"] += 1
        entry["details"][one.record] = one.detail
    return reasons


def _table(title: str, rows: dict[str, Any]) -> "RenderableType":
    from rich.table import Table
    from rich.text import Text  # a plain string would be read as markup

    table = Table(title=Text(title), show_header=False, title_justify="left")
    for name, value in rows.items():
        table.add_row(Text(name), Text(str(value)))
    return table


def _report(result: dict[str, Any]) -> "RenderableType":
    """Draw the table, and below it, a line each, what was seen in the first records that are left out."""
    from rich.console import Group
    from rich.text import Text

    def listed(values: dict[str, int]) -> str:
        return ", ".join(f"{name}: {count}" for name, count in values.items())

    rows = {
        "records": result["records"],
        "usable": f"{result['usable']}, from {counted(result['patients'], 'patient')}, at {result['hz']} Hz",
        "superclasses": listed(result["superclasses"]),
        "folds": listed(result["folds"]),
    }
    lines: list[str] = []
    for title, key in (("left out", "left_out"), ("left out of task single", "left_out_of_task_single")):
        for reason, entry in result[key].items():
            first = dict(islice(entry["details"].items(), SHOWN))
            more = ", …" if entry["count"] > len(first) else ""
            rows[f"{title}: {reason}"] = f"{entry['count']} (record {', '.join(first)}{more})"
            lines += ["", f"{title}: {reason}"]
            lines += [f"  {detail}" for detail in first.values()]
            lines += [f"  … {entry['count'] - len(first)} more; --json prints all"] if more else []
    problems = result["checksum_problems"]
    rows["checksums"] = "; ".join(problems[:5]) + f" … {len(problems)} in all" if problems else "all as listed"
    seen = [Text(line, no_wrap=True, overflow="ignore") for line in lines]
    return Group(_table(f"Data set {result['folder']}", rows), *seen)
