"""What the page says about one withdrawal: its standing, its timeline, and what its picture shows, in words.

The words are made of the verdict's numbers; the verdict itself is the auditor's. No verdict is read more kindly here
than it was given.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, NamedTuple

from server.strips import Strip, arms, picture
from server.verdicts import STANDS_IN
from server.wording import clock, day, duration, time_of

Claim = Literal["bytes", "remade", "approximate", "differs", "pending", "unmade"]
Row = Mapping[str, Any]


class Standing(NamedTuple):
    """Where a withdrawal stands: `kind` colours it, `short` is for a table, `title` for its own section."""

    kind: Literal["good", "warn", "bad"]
    short: str
    title: str


class Step(NamedTuple):
    """One point of a timeline; `at` is an ISO time, "" when it has not come or is not told."""

    name: str
    at: str
    note: str
    done: bool


def claim(withdrawal: Row) -> Claim:
    """Return what the digests and the method say about the model served after a withdrawal.

    `bytes`: it equals the general model, which no wearable's data reach. `remade`: an exact method made it
    again from the general model without the withdrawn records. `approximate`: the old copy was changed.
    `differs`: an exact method for a whole patient, and still not the general model's bytes. `pending`: the
    device has not answered. `unmade`: it never made a model, so there was nothing to unlearn.
    """
    if not withdrawal["unlearned_at"]:
        return "pending"
    served = served_method(withdrawal)
    if served is None:  # nothing was measured: there was no model, or the general one stands in until it is remade
        return "bytes" if withdrawal["after"] and withdrawal["after"] == withdrawal["general"] else "unmade"
    whole = withdrawal["scope"] == "patient"
    if served["after"] == withdrawal["general"] and (withdrawal["equals_general"] or not whole):
        return "bytes"
    if not served["exact"]:
        return "approximate"
    return "differs" if whole else "remade"


def served_method(withdrawal: Row) -> Row | None:
    """Return the row of the method whose model is served now, None when there is no model."""
    return next((row for row in withdrawal["methods"] if row["method"] == withdrawal["served"]), None)


def standing(withdrawal: Row) -> Standing:
    """Return where a withdrawal stands, never better than its verdict and its certificate say."""
    verdict = withdrawal["verdict"]
    if not withdrawal["unlearned_at"]:
        return Standing("warn", "not yet unlearned", "Not yet unlearned")
    if verdict is None:
        return Standing("warn", "not audited", "Not audited")
    if verdict["verdict"] == "FAIL":
        return Standing("bad", "FAIL", "Failed the audit")
    if verdict["verdict"] == "INCONCLUSIVE":
        return Standing("warn", "INCONCLUSIVE", "Inconclusive")
    how = "exact" if verdict["exact"] else "not falsified at this power"
    how = STANDS_IN if verdict["method"] == STANDS_IN else how
    if withdrawal["certificate"] is None:
        return Standing("warn", f"PASS, {how}; no certificate", f"Passed ({how}), not yet certified")
    return Standing("good", f"PASS, {how}", f"Passed and certified: {how}")


def plainly(withdrawal: Row) -> str:
    """Return the verdict for a reader who is no statistician; the auditor's own words stand in the appendix.

    Made of the same numbers, and no stronger than they are.
    """
    verdict = withdrawal["verdict"]
    wrong = [check["name"] for check in verdict["bytes"]["checks"] if not check["holds"]]
    if wrong:
        told = f"What is on the device is not what should be there ({', '.join(wrong)})."
    elif not verdict["exact"]:
        told = "The withdrawn records are gone from the device, and the model that learnt from them was changed."
    elif verdict["method"] == STANDS_IN or withdrawal["scope"] == "patient":
        told = (
            "The device runs the general model, byte for byte: the file that it had before it met this patient."
            if withdrawal["after"]
            else "The device runs no model at all, and the records are gone from it."
        )
    else:
        told = "The device runs, byte for byte, the file that it would have if it had never had these records."
    return f"{told} {_of_copies(verdict)}{_what_now(verdict)}"


def _of_copies(verdict: Row) -> str:
    """Say what the comparison of copies adds, in one sentence or two."""
    after, n = verdict["after"], verdict["copies"]
    if after is None:
        return "No copies were compared, so the bytes alone decide." if verdict["exact"] else "No copies were compared."
    compared = f"{n} copies that were made with the records and then unlearned"
    if after["verdict"] == "FAIL":
        twice = ", twice," if verdict["earlier"] else ""
        return f"But {compared} can{twice} be told from {n} that never had them, in more than chance explains."
    doubt = " A first look said otherwise, as one in twenty does by chance." if verdict["earlier"] else ""
    if verdict["exact"]:
        return (
            f"As a cross-check {compared} were compared with {n} that never had them: nothing speaks against it.{doubt}"
        )
    seen = f"In the audit {compared} could not be told from {n} that never had them"
    if verdict["retained"] is not None and verdict["retained"]["verdict"] == "FAIL":
        return f"{seen}, but on the records that the patient keeps they can, in more than chance explains."
    if verdict["verdict"] == "PASS":
        return f"{seen}. Not falsified at this power: a difference smaller than that is not ruled out."
    more = f"; about {after['needed']:,} copies an arm would decide" if after["needed"] else ""
    return f"{seen}, and {n} are too few to rule a difference out{more}."


def _what_now(verdict: Row) -> str:
    if verdict["verdict"] == "PASS":
        return ""
    if verdict["exact"] and verdict["bytes"]["holds"]:  # `rows.is_final`
        return (
            " So there is no certificate; the data are gone, so no run can compare others, and the operator closes it."
        )
    return " So there is no certificate, and the next run takes it up again."


def timeline(withdrawal: Row, *, now: str) -> list[Step]:
    """Return the six points of a withdrawal: asked, told, unlearned, audited, certified, deadline.

    Args:
        withdrawal: as in `result.json`.
        now: when the run was made, for a deadline that has or has not passed.
    """
    told = {step["state"]: step["at"] for step in withdrawal["steps"]}  # the last one of each state
    asked, answered = withdrawal["requested_at"], withdrawal["unlearned_at"] or ""
    verdict, certificate = withdrawal["verdict"], withdrawal["certificate"]
    audited = "" if verdict is None else told.get("AUDITED", "")
    certified = told.get("CERTIFIED", "") if certificate else ""
    return [
        Step("Asked", asked, "", done=True),
        Step("Told to the device", told.get("DISPATCHED", ""), "", done=bool(answered) or "DISPATCHED" in told),
        Step("Unlearned", answered, _after(asked, answered), done=bool(answered)),
        Step("Audited", audited, "" if verdict is None else verdict["verdict"], done=verdict is not None),
        Step("Certified", certified, _after(asked, certified), done=certificate is not None),
        _deadline(withdrawal["deadline"], certified, done=certificate is not None, now=now),
    ]


def _after(asked: str, at: str) -> str:
    if not at:
        return ""
    seconds = (time_of(at) - time_of(asked)).total_seconds()
    return f"{duration(max(seconds, 0.0))} after it was asked"


def _deadline(deadline: str | None, certified: str, *, done: bool, now: str) -> Step:
    """Return the last point: kept, running or missed."""
    if not deadline:
        return Step("Deadline", "", "none was told", done=False)
    until: datetime = time_of(deadline)
    if done:
        kept = not certified or time_of(certified) <= until
        return Step("Deadline", deadline, "kept" if kept else "missed", done=kept)
    if time_of(now) > until:
        return Step("Deadline", deadline, "missed", done=False)
    return Step("Deadline", deadline, f"{(until - time_of(now)).days} days left when this page was made", done=False)


def evidence(name: str, verdict: Row | None) -> dict[str, Any] | None:
    """Return the picture of a verdict and the sentences below it; None where no copies were compared."""
    strips: list[Strip] = arms(verdict) if verdict else []
    if not verdict or not strips:
        return None
    drawn = picture(name, strips)
    return {"svg": drawn.svg, "says": reading(verdict), "segments": (verdict["after"] or verdict["before"])["segments"]}


def reading(verdict: Row) -> list[str]:
    """Return what the picture shows, an item an arm; where no trace could be seen, it says so."""
    said = []
    if verdict["before"] is not None:
        said.append(_before(verdict["before"]))
    if verdict["after"] is not None:
        said.append(_after_unlearning(verdict["after"]))
    if verdict["retained"] is not None:
        kept = primary(verdict["retained"])
        change = "stand out" if verdict["retained"]["verdict"] == "FAIL" else "do not stand out"
        said.append(f"The records that the patient keeps {change} after unlearning ({_hundred(kept)}).")
    return said


def _before(found: Row) -> str:
    score = primary(found)
    if _apart(score):
        way = "surer" if score["auc"] > 0.5 else "less sure"
        return (
            f"The records had left a trace: copies made with them are {way} of them than copies that never had "
            f"them ({_hundred(score)})."
        )
    sure = ""
    if found["certainty"] is not None and found["certainty"] > 0.5:
        sure = (
            " Models that never had the records were already sure of them: they give the true label "
            f"a probability of {found['certainty']:.2f}."
        )
    return (
        f"No trace could be seen even before unlearning ({_hundred(score)}), so the picture cannot show that one was "
        f"removed. That is no success of the method.{sure}"
    )


def _after_unlearning(found: Row) -> str:
    score, n = primary(found), found["n"]
    if found["identical"]:
        return "After unlearning, every copy answers exactly as a copy that never had the records."
    if _apart(score):
        way = "still surer" if score["auc"] > 0.5 else "less sure"
        return f"After unlearning, copies are {way} than copies that never had the records ({_hundred(score)})."
    if found["verdict"] == "FAIL":
        return (
            f"After unlearning, the copies are as sure as copies that never had the records ({_hundred(score)}), and "
            "another score tells them apart all the same: it is in the appendix."
        )
    return (
        f"After unlearning, {n} copies could not be told from {n} that never had the records ({_hundred(score)}). "
        "That is the absence of a finding, not proof of absence."
    )


def primary(found: Row) -> Row:
    """Return the score that was fixed before the data as the one that counts."""
    score: Row = next(score for score in found["scores"] if score["primary"])
    return score


def _apart(score: Row) -> bool:
    """Return whether the 95 % interval leaves out chance."""
    return not score["low95"] <= 0.5 <= score["high95"]


def _hundred(score: Row) -> str:
    """Return an AUC as what it is: of 100 pairs, in how many the copy in question is the surer one."""
    auc, low, high = (round(100 * score[key]) for key in ("auc", "low95", "high95"))
    return f"the surer one in {auc} of 100 pairs; 50 is chance; 95 % interval {low} to {high}"


def seconds_taken(withdrawal: Row) -> float | None:
    """Return the seconds from the request to the device's acknowledgement."""
    if not withdrawal["unlearned_at"]:
        return None
    return (time_of(withdrawal["unlearned_at"]) - time_of(withdrawal["requested_at"])).total_seconds()


def compared(verdict: Row | None) -> Sequence[tuple[str, Row]]:
    """Return the comparisons of a verdict that were made, each with what it compares."""
    if verdict is None:
        return []
    method = verdict["method"]
    named = {
        "before": "Before: made with the records, not unlearned",
        "after": f"After: made with the records, then unlearned by {method}",
        "retained": f"The records that are kept, after {method}",
    }
    looks = [(f"A look before: unlearned by {method}", one) for one in verdict["earlier"]]
    return [*looks, *((name, verdict[key]) for key, name in named.items() if verdict[key] is not None)]


def at(step: Step) -> tuple[str, str]:
    """Return the day and the time of a step, both "" when it has none."""
    return (day(step.at), clock(step.at)) if step.at else ("", "")
