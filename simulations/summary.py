"""The summary of a run on the terminal, drawn from its `result.json`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from server.rows import counted
from server.wording import made_without, public_endings

Row = Mapping[str, Any]
COLUMNS = {"directory": "devices", "audit again": "audit"}  # what a phase is called in the table of seconds


def render(result: Row) -> RenderableType:
    """Return accuracies, the probe's difference, the withdrawals and the seconds of each phase."""
    parts: list[RenderableType] = [Text(), _accuracy(result), Text(), _difference(result)]
    if result["withdrawals"]:
        parts += [Text(), _withdrawals(result["withdrawals"])]
    parts += [Text(), _times(result)]
    return Group(*parts)


def _table(title: str, *columns: str, note: str = "") -> Table:
    table = Table(title=title, title_style="bold", title_justify="left", caption=note or None, box=box.SIMPLE_HEAD)
    table.caption_style, table.caption_justify = "dim", "left"
    table.pad_edge = False
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right", no_wrap=True)
    return table


def _accuracy(result: Row) -> Table:
    """General, personal, unlearned; own held-out and others."""
    devices = result["personal"]
    measured = [row for row in devices if row["own_general"] is not None]
    taken = sum(row["accepted"] for row in devices)
    budget = result["settings"]["personalisation.budget"]
    dearer = sum(row["others_general"] - row["others_personal"] > budget for row in devices if row["others_general"])
    note = "means; others are never-used control patients;\n"
    note += f"{taken} of {len(devices)} copies passed the gate, {dearer} of them\n"
    note += f"cost the controls more than its {100 * budget:g} points"
    table = _table("Accuracy", "", "own held-out", "others", note=note)
    for name in ("general", "personal"):
        who = f"{len(devices)} wearables" if name == "general" else ""
        table.add_row(_label(who, name), _mean(measured, f"own_{name}"), _mean(devices, f"others_{name}"))
    for index, method in enumerate(_methods(result)):
        rows = _of_method(result, method)
        own, others = [row["own"] for row in rows if row["own"]["n"]], [row["others"] for row in rows]
        if index == 0:
            table.add_section()
            for name in ("general", "personal"):
                who = f"{len(rows)} withdrew" if name == "general" else ""
                table.add_row(_label(who, name), _mean(own, name), _mean(others, name))
        table.add_row(_label("", f"unlearned, {method}"), _mean(own, "unlearned"), _mean(others, "unlearned"))
    return table


def _difference(result: Row) -> Table:
    """The paper's probe: personal minus general accuracy under FGSM, equation 7."""
    epsilons = result["probe"]["epsilons_sd"]
    title = "The paper's probe: personal minus general accuracy under FGSM, in points"
    note = "by epsilon in SDs of a lead; no model ever saw the controls: what they show too is not membership"
    table = _table(title, "", "N", *(f"{epsilon:g}" for epsilon in epsilons), note=note)
    for name, label in (("member", "member"), ("held_out", "own held-out"), ("control", "control")):
        group = result["probe"]["groups"][name]
        table.add_row(f"{label} segments", str(group["segments"]), *map(_points, group["difference"]))
    for index, method in enumerate(_methods(result)):
        parts = [row["difference"]["forgotten"] for row in _of_method(result, method)]
        parts = [part for part in parts if part["segments"]]
        count = str(sum(part["segments"] for part in parts))
        if index == 0:
            table.add_section()
            before = [_weighted(parts, "before", at) for at in range(len(epsilons))]
            table.add_row("forgotten, before", count, *map(_points, before))
        after = [_weighted(parts, "after", at) for at in range(len(epsilons))]
        table.add_row(f"forgotten, {method}", count, *map(_points, after))
    return table


def _withdrawals(rows: Sequence[Row]) -> Table:
    note = "erased files, whole digests and the verdicts' words are in the report"
    table = _table("Withdrawals", "patient", "withdrew", "segments", "before > now", "served", "verdict", note=note)
    table.padding = (0, 1, 0, 0)  # with the longest verdict, too, it fits a terminal of 80 columns
    for row in rows:
        named = f"record {row['named'][0]}" if len(row["named"]) == 1 else counted(row["records"], "record")
        scope = "everything" if row["scope"] == "patient" else named
        now = "general" if row["after"] and row["equals_general"] else row["after"][:7] or "none"
        verdict = row["verdict"]["verdict"] if row["verdict"] else "none yet"
        before = "general" if row["before"] and row["before"] == row["general"] else row["before"][:7]
        served = row["served"] or ("general" if row["after"] else "none")  # it stands in: as wide as a method
        segments = str(row["erased"]["segments"])
        table.add_row(row["pseudonym"], scope, segments, f"{before or 'none'} > {now}", served, verdict)
    return table


def _times(result: Row) -> Table:
    seconds: dict[str, float] = {}
    for phase in result["phases"]:
        name = COLUMNS.get(phase["name"], phase["name"])
        seconds[name] = seconds.get(name, 0.0) + phase["seconds"]
    seconds |= {"Flower": result["overhead_seconds"] or 0.0, "total": result["seconds"]}
    table = _table("Seconds", *seconds)
    table.padding = (0, 1, 0, 0)  # nine phases fit a terminal of 80 columns
    table.columns[0].justify = "right"
    table.add_row(*(f"{spent:.1f}" for spent in seconds.values()))
    return table


def closing(result: Row) -> str:
    """Return what stands below the tables: the general model, what is still due, what was left out, the report."""
    general = result["general"]
    record = general["metrics"]["record"]
    lines = [f"general model {general['digest']}"]
    if record["accuracy"] is not None:
        lines.append(f"  accuracy {record['accuracy']:.3f} on {record['n']} records of unseen patients")
        lines.append(f"  (always the most frequent class: {general['majority']:.3f})")
    lines += [f"  {told}" for told in (*made_without(general), *_of_the_public(result))]
    lines += _eight_bits(result)
    lines += [line for row in result["withdrawals"] for line in _ending(row, Path(result["report"]))]
    lines += [f"made no personal model in this run: {row['pseudonym']}: {row['reason']}" for row in result["silent"]]
    lines += [
        f"refused: the answer of {row['pseudonym']} to {row['asked']}: {row['reason']}" for row in result["refused"]
    ]
    left_out = ", ".join(f"{count} {reason}" for reason, count in result["data"]["left_out"].items()) or "none"
    return "\n".join([*lines, f"records left out: {left_out}", f"report: {result['report']}"])


def _eight_bits(result: Row) -> list[str]:
    """Return how many wearables run eight bits, and why the others do not; nothing where none was asked to."""
    if not result["settings"].get("personalisation.int8"):
        return []
    rows = result["personal"]
    kept = [row for row in rows if not row["int8"]]
    reasons = [f"  {row['pseudonym']} runs the ONNX file: {row['int8_reason']}" for row in kept]
    return [f"eight bits on {len(rows) - len(kept)} of {len(rows)} wearables", *reasons]


def _of_the_public(result: Row) -> list[str]:
    """Return the ends of corpus and control patients' withdrawals, with the whole path of a certificate."""
    certificates = Path(result["report"]).parent.parent.parent / "certificates"
    rows = result.get("public_withdrawals", [])
    return public_endings(
        [row | {"certificate": row["certificate"] and certificates / row["certificate"]} for row in rows]
    )


def refused(result: Row) -> list[str]:
    """Return the jobs whose verdict is FAIL, with the pseudonyms."""
    failed = [row for row in result["withdrawals"] if row["verdict"] and row["verdict"]["verdict"] == "FAIL"]
    return [f"{row['job']} of {row['pseudonym']}" for row in failed]


def _ending(row: Row, report: Path) -> list[str]:
    """Return what is told of the end of a withdrawal: where its certificate is, or why there is none."""
    who = f"{row['job']} of {row['pseudonym']}"
    if row.get("final"):  # results of before have none
        return [f"not certified, for good: {who}: {row['reason']}; `lethe jobs close {row['job']}` ends it"]
    if not row["unlearned_at"]:
        return [f"still due: {who}: {row['reason']}; the next run tries again"]
    if not row["certificate"]:
        return [f"not certified: {who}: {row['reason']}; the next run tries again"]
    home = report.parent.parent.parent
    notes = [f"note: {who}: {row['reason']}"] if row["reason"] else []
    return [f"certificate of {row['pseudonym']}: {home / 'certificates' / row['certificate']['file']}", *notes]


def _label(who: str, model: str) -> str:
    return f"{who:<13}{model}"


def _of_method(result: Row, method: str) -> list[Row]:
    return [each for row in result["withdrawals"] for each in row["methods"] if each["method"] == method]


def _methods(result: Row) -> list[str]:
    return list(dict.fromkeys(m["method"] for w in result["withdrawals"] for m in w["methods"]))


def _mean(rows: Sequence[Row], name: str) -> str:
    values = [row[name] for row in rows if row[name] is not None]
    return f"{sum(values) / len(values):.3f}" if values else "n/a"


def _weighted(parts: Sequence[Row], when: str, index: int) -> float | None:
    total = sum(part["segments"] for part in parts)
    return sum(part[when][index] * part["segments"] for part in parts) / total if total else None


def _points(value: float | None) -> str:
    if value is None:
        return "n/a"
    return f"{100 * value:+.1f}" if abs(value) < 0.9995 else f"{100 * value:+.0f}"  # as wide as any other
