"""The words of a verdict, made of its numbers; what they may say at most is "not falsified at this power"."""

from collections.abc import Sequence
from typing import NamedTuple

from server.rule import LEAST_PATIENTS
from server.verdicts import NO_MODEL, STANDS_IN, TITLES, JobVerdict, MethodVerdict, Score, Statistics
from shared.inference import EQUIVALENT, LEVEL

SURE = 0.5  # a model that gives the true label more than this knew it


class _Units(NamedTuple):
    """What n counts, and for whom the figure holds."""

    one: str
    many: str


COPIES = _Units("copy", "copies an arm")
PATIENTS = _Units("patient", "patients")


def statistics_words(found: Statistics) -> str:
    """Return what the statistics of one patient's segments say."""
    primary, *others = found["scores"]
    segments = f"{found['segments']} {found['group']} segment{'s' if found['segments'] != 1 else ''}"
    compared = f"{found['n']} copies after {found['method']!r} against {found['n']} that never saw the {segments}"
    if found["method"] == "nothing":
        compared = f"{found['n']} copies that were not unlearned against {found['n']} that never saw the {segments}"
    head = f"{compared}; {described(primary)}."
    if found["identical"]:
        head += " All copies of both arms answered alike to the last digit; nobody tells them apart by these answers."
    return f"{head} {_conclusion(found, primary, _rejections(others), COPIES)}"


def method_words(found: MethodVerdict) -> str:
    """Return what is said of a method over many patients."""
    primary, *others = found["scores"]
    by_name = {score["name"]: score for score in others}
    few = found["n"] < LEAST_PATIENTS
    head = (
        f"{found['method']!r} on {found['n']} patients, {found['copies']} copies an arm each; mean over patients of "
        f"the {described(primary, few=few)}."
    )
    if found["method"] != "nothing":
        head = f"{head} {_traces(found)}"
    side = by_name["margin"]["auc"]
    return f"{head} {_conclusion(found, primary, _rejections(others), PATIENTS, side=side)}"


def job_words(judged: JobVerdict, *, unmeasured: str) -> str:
    """Return what is said of a job: the bytes, then the copies.

    Args:
        judged: the verdict.
        unmeasured: why no copies were compared, "" when they were, or nobody knows.
    """
    parts = [_bytes_words(judged), _after_words(judged, unmeasured=unmeasured)]
    before = judged["before"]
    if before is not None and before["verdict"] != "FAIL" and judged["method"] != "nothing":
        parts.append(_untraced(before))
    kept = judged["retained"]
    if kept is not None and kept["verdict"] == "FAIL":
        refutes = "" if judged["exact"] else ", which refutes the method"
        parts.append(
            f"The segments that the patient keeps answer differently{refutes}: {described(kept['scores'][0])}."
        )
    return " ".join(part for part in parts if part)


def described(score: Score, *, few: bool = False) -> str:
    """Return a score in words: title, AUC, interval; of few patients there is none."""
    interval = f"95 % interval {score['low95']:.2f} to {score['high95']:.2f}"
    return f"{TITLES[score['name']]}: AUC {score['auc']:.2f} ({'too few for an interval' if few else interval})"


def _conclusion(
    found: Statistics | MethodVerdict,
    primary: Score,
    rejections: Sequence[Score],
    units: _Units,
    side: float | None = None,
) -> str:
    n, side = found["n"], primary["auc"] if side is None else side
    few = units is PATIENTS and n < LEAST_PATIENTS
    if found["verdict"] == "FAIL":
        if primary["low95"] <= 0.5 <= primary["high95"]:
            return f"They are told apart by {_named(rejections, few=few)}."
        if side < 0.5:
            return "Forgetting overshoots: they know less than models that never saw the segments."
        return "A trace is left: they know more than models that never saw the segments."
    power = f"with {n} {units.many} an AUC of {found['detectable']:.2f} is the smallest told from .5 four times in five"
    if found["verdict"] == "PASS":
        return f"Not falsified at this power: the 90 % interval is within .5 ± {EQUIVALENT:.2f}, and {power}."
    if found["identical"]:
        return "Equal answers measure nothing; the bytes have to decide."
    why = f"That decides nothing by itself: {power}"
    if primary["epsilon"] > 0:
        why += f", and epsilon is at least {primary['epsilon']:.2f}"
    if rejections:
        why += f"; {_named(rejections, few=few)} differs"
    return f"{why}. About {found['needed']} {units.many} would decide." if found["needed"] else f"{why}."


def _rejections(others: Sequence[Score]) -> list[Score]:
    return [score for score in others if score["p_holm"] < LEVEL]


def _named(scores: Sequence[Score], *, few: bool) -> str:
    return " and ".join(f"{described(score, few=few)}, p = {score['p_holm']:.2g} after Holm" for score in scores)


def _traces(found: MethodVerdict) -> str:
    """Say of how many patients there was something to see at all."""
    share, n = found["traces"], found["n"]
    told = f"Of {round(share['value'] * n)} of {n} patients copies show a trace when nothing is unlearned"
    if share["low"] > LEVEL:
        return f"{told}; of the others it saw none, which does not say that there was none."
    why = ""
    if found["certainty"] > SURE:
        why = f"; the general model was already sure of these segments (probability {found['certainty']:.2f})"
    return f"{told}, no more than chance gives{why}. What these copies miss before they miss after, too."


def _untraced(before: Statistics) -> str:
    """Say why nothing was there to see; never that it was forgotten well."""
    told = (
        f"Copies that kept the segments could not be told from copies that never saw them either ({_brief(before)}; "
        f"{before['detectable']:.2f} is the smallest told from .5 four times in five). A weaker trace would be missed "
        "before and after"
    )
    if before["certainty"] > SURE:
        return (
            f"{told}; the general model was already sure of these segments (it gives the true label a probability of "
            f"{before['certainty']:.2f})."
        )
    return f"{told}; no model is sure of these segments."


def _brief(found: Statistics) -> str:
    return f"AUC {found['scores'][0]['auc']:.2f}, {found['n']} copies an arm"


def _after_words(judged: JobVerdict, *, unmeasured: str) -> str:
    after = judged["after"]
    if after is None:
        return f"No copies were compared{f': {unmeasured}' if unmeasured else ''}."
    if not judged["exact"]:
        return after["words"]
    if judged["verdict"] == "FAIL" and judged["bytes"]["holds"]:
        return f"Two looks with different copies refute it all the same. {after['words']}"
    if judged["verdict"] == "INCONCLUSIVE" and after["verdict"] == "FAIL":
        return f"One look refutes it, which chance does to one job in twenty; a second is due. {after['words']}"
    first = next((one for one in judged["earlier"] if one["verdict"] == "FAIL"), None)
    doubted = ""
    if first is not None:
        doubted = (
            f" A first look refuted it ({_brief(first)}), which chance does to one job in twenty; a second one with "
            "fresh and more copies does not."
        )
    return f"The copies do not contradict it.{doubted} {after['words']}"


def _bytes_words(judged: JobVerdict) -> str:
    wrong = [check for check in judged["bytes"]["checks"] if not check["holds"]]
    if wrong:
        return " ".join(
            f"Not as it should be: {_told(check['name'], check['expected'], check['seen'])}." for check in wrong
        )
    if any(check["name"] == NO_MODEL for check in judged["bytes"]["checks"]):
        return "No model is in use on the device, and the withdrawn records are gone."
    if judged["method"] == STANDS_IN:
        return "The general model, which no wearable's data reach, is in use in place of a personal one."
    if judged["exact"]:
        return "The model in use is, byte for byte, what it would have been without the withdrawn records."
    return "The withdrawn records are gone and the files are those that were acknowledged."


def _told(name: str, expected: str, seen: str) -> str:
    return f"{name} (expected {expected}, seen {seen})"
