"""One paragraph, generated from the numbers, on what the paper's figures show here and what they do not.

Pure: a result in, sentences out; every sentence has a form for each way the numbers may go. The tables are
`simulations/paper_tables.py`'s.
"""

from collections.abc import Mapping
from typing import Any

from simulations.paper_models import UNLEARNED
from simulations.paper_results import ANY, Estimate

FEWEST = 6  # patients of whom anything is said: all six on one side by chance are 3 %, and of fewer more than 5 %


def paragraph(result: Mapping[str, Any]) -> str:
    """Return what the figures do and do not show; a difference counts where its 95 % interval excludes 0."""
    sentences = [_probe(result), _membership(result), _extracted(result), _losses(result["contrasts"])]
    sentences += [_method(result["contrasts"], method) for method in UNLEARNED if method != "exact"]
    sentences.append(_cost(result["contrasts"]))
    n, seeds = result["patients"], result["seeds"]
    sentences.append(
        f"Where no other number is given it is of {counted(n, 'patient')} and {counted(seeds, 'seed')}. All are means "
        "over patients: where no difference is seen there may be one as large as the interval reaches."
    )
    return " ".join(sentence for sentence in sentences if sentence)


def side(found: Estimate) -> int | None:
    """Return on which side of 0 the whole interval lies, 0 where it holds 0; None where `FEWEST` are not reached.

    Resampled, a handful of patients give little more than their range: two always lie on one side of something.
    """
    if found["low"] is None or found["high"] is None or found["patients"] < FEWEST:
        return None
    return 1 if found["low"] > 0 else -1 if found["high"] < 0 else 0


def points(found: Estimate) -> str:
    """Return a difference of shares in percentage points with its interval: "+3.0 points (-1.2 to +7.1)"."""
    return f"{_spoken(found, 100, 1)} points{_interval(found, 100, 1)}"


def nats(found: Estimate) -> str:
    """Return a difference of losses with its interval: "-0.310 nats (-0.520 to -0.102)"."""
    return f"{_spoken(found, 1, 3)} nats{_interval(found, 1, 3)}"


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: "1 seed", "3 seeds"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _too_few(patients: int) -> str:
    return f"{counted(patients, 'patient')} {'is' if patients == 1 else 'are'} too few"


def _probe(result: Mapping[str, Any]) -> str:
    by_group = result["table"]["personal"]
    member, held, control = (by_group[group]["difference"] for group in ("member", "held_out", "control"))
    return (
        f"Under FGSM at ε = {result['epsilon']:g} SD the personal model's accuracy minus the general one's (equation "
        f"7) is {points(member)} on the segments it was trained on, {points(held)} on the same patients' held-out "
        f"segments, and {points(control)} on patients whom no model ever saw."
    )


def _membership(result: Mapping[str, Any]) -> str:
    """Say whether equation 7 tells members from controls, and from the patient's own unseen segments."""
    others, own = (result["contrasts"][name] for name in ("members - controls", "members - held out"))
    away, apart = side(others), side(own)
    if away is None or apart is None:
        return f"{_too_few(others['patients'])} to say whether that difference tells members from others."
    if away < 0:
        return (
            f"The never-used patients show more of it than the members (members less controls {points(others)}), so "
            "it is no sign of membership."
        )
    if away == 0:
        return (
            f"Members and never-used patients are not told apart by it (members less controls {points(others)}), so "
            "these figures do not show that it tells who was in the training data, nor that it cannot."
        )
    if apart < 0:
        return (
            f"Members show more of it than never-used patients (by {points(others)}), and less than segments of the "
            f"same patients that were never trained on ({points(own)}): it reacts to the patient, not to what the "
            "model was trained on."
        )
    if apart == 0:
        return (
            f"Members show more of it than never-used patients (by {points(others)}), and are not told from segments "
            f"of the same patients that were never trained on ({points(own)}): that it reacts to more than the "
            "patient is not shown."
        )
    return (
        f"Members show more of it than never-used patients (by {points(others)}) and than their own held-out segments "
        f"(by {points(own)}): here it does react to what the model was trained on."
    )


def _extracted(result: Mapping[str, Any]) -> str:
    """Say whether equation 8 finds members better than a guess does."""
    row = next((r for r in result["extractions"] if (r["model"], r["epsilon"]) == ("personal", ANY)), None)
    if row is None or row["precision"]["value"] is None:
        return "Equation 8 extracted no point at any strength."
    precision, recall, base = row["precision"], row["recall"], row["base"]
    number = sum(row["extracted"].values())
    said = (
        f"Of the {number:,} points that equation 8 extracts at some strength {_share(precision)} are members, and of "
        f"the members {_share(recall)} are extracted; "
    )
    guess = f"of all segments that were asked about {base:.0%} are members, so that this is "
    if result["patients"] < FEWEST:
        return f"{said}{_too_few(result['patients'])} to say whether this is better than a guess."
    if precision["low"] is None or precision["low"] <= base <= precision["high"]:
        return said + guess + "not told from a guess."
    return said + guess + ("better than a guess." if precision["low"] > base else "worse than a guess.")


def _losses(contrasts: Mapping[str, Estimate]) -> str:
    """Say what the distance between figure 6's patient and test losses is made of."""
    learnt = contrasts["learnt - generalised loss"]
    change = (
        f"the change of loss by personalisation on what was trained on, less that on the held-out, is {nats(learnt)}"
    )
    match side(learnt):
        case None:
            return ""
        case -1:
            return (
                "Personalisation did more for the loss on what it was trained on than for that on the same patients' "
                f"held-out segments ({change}): part of what figure 6 shows is what was learnt of these very segments."
            )
        case 0:
            return (
                "Figure 6 sets the patients' loss beside other people's. Whether it fell further on what was trained "
                f"on than on the same patients' held-out segments, these figures do not tell ({change})."
            )
    return (
        "Personalisation did less for the loss on what it was trained on than for that on the same patients' held-out "
        f"segments ({change}): figure 6 shows no trace of what was learnt of these very segments."
    )


def _method(contrasts: Mapping[str, Estimate], method: str) -> str:
    """Say how far a method's model is from the retrained one on the forget set."""
    found = contrasts[f"{method} - retrained loss"]
    if found["value"] is None:
        return f"There is no model unlearned by {UNLEARNED[method]}."
    who = f"After {UNLEARNED[method]} ({counted(found['patients'], 'patient')}) the loss on the forget set is"
    match side(found):
        case None:
            few = _too_few(found["patients"])
            return f"{who} {nats(found)} from the retrained model's; {few} to say on which side of it that is."
        case 0:
            return f"{who} not told from the retrained model's ({nats(found)}), which is not the same as equal to it."
        case -1:
            return f"{who} below the retrained model's ({nats(found)}): something of the patients is still there."
    return f"{who} above the retrained model's ({nats(found)}): more was lost than the patients' data."


def _cost(contrasts: Mapping[str, Estimate]) -> str:
    """Say what the personal and the unlearned models cost or bring other patients."""
    told, of = [], contrasts["personal - general accuracy"]["patients"]
    for model, name in (
        ("personal", "the personal model"),
        *(named for named in UNLEARNED.items() if named[0] != "exact"),
    ):
        found = contrasts[f"{model} - general accuracy"]
        if found["value"] is not None:
            few = "" if found["patients"] == of else f" ({counted(found['patients'], 'patient')})"
            told.append(f"{points(found)} with {name}{few}")
    return f"Test accuracy moves from the general model's by {_listed(told)}." if told else ""


def _spoken(found: Estimate, scale: float, digits: int) -> str:
    return "not measured" if found["value"] is None else f"{scale * found['value']:+.{digits}f}"


def _interval(found: Estimate, scale: float, digits: int) -> str:
    if found["low"] is None or found["high"] is None:
        return ""
    return f" ({scale * found['low']:+.{digits}f} to {scale * found['high']:+.{digits}f})"


def _share(found: Mapping[str, float | None]) -> str:
    value, low, high = (found[name] for name in ("value", "low", "high"))
    assert value is not None
    return f"{value:.0%}" + ("" if low is None or high is None else f" ({100 * low:.0f}-{high:.0%})")


def _listed(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
