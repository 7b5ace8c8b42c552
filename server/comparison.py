"""From a device's answer to comparable scores: what is missing, misshapen or not a number is refused by name."""

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy.special import expit

from server.verdicts import Score
from shared.audit_messages import AuditReply, AuditRequest, Readings
from shared.errors import AuditError
from shared.fields import MOST_TEXT
from shared.inference import (
    BINOMIAL,
    MANN_WHITNEY,
    Floats,
    auc,
    auc_interval,
    auc_p,
    epsilon_bound,
    holm,
    tpr_at,
)
from shared.membership import SCORES, Arm, Readout, Scored
from shared.settings import LEAST_CONTROLS
from shared.unlearning import EXACT

NEVER = "never"
NOTHING = "nothing"
CONTROL = "control"
PRIMARY = "margin"  # fixed before the data
MOST = 1e6  # in magnitude, of a reading: beyond, squares and exponentials are no numbers any more
ALIKE = 1e-3  # between readings: seeds make more of a difference, the order in which a batch is summed makes less


def check_reply(reply: AuditReply, request: AuditRequest, *, slot: int, kept: bool) -> None:
    """See that an answer is a device's own, to this question, and lacks nothing that was asked for.

    Args:
        reply: of a device.
        request: what it was asked.
        slot: the device that was asked.
        kept: whether the patient keeps records, of which the copies must speak too.

    Raises:
        AuditError: it is another's, something is missing or is no number, or copies repeat others.
    """
    if reply.job != request.job:
        raise AuditError(f"an audit answer is for job {reply.job!r}, expected {request.job!r}; it is not used")
    if reply.slot != slot:
        raise AuditError(
            f"the audit answer of job {reply.job} is from device {reply.slot}, expected {slot}; it is not used"
        )
    if reply.status != "ok":
        return
    arms = dict.fromkeys((NEVER, NOTHING, *request.methods))
    if request.scope == "patient" and any(has(reply, arm, "retained") for arm in arms):
        raise AuditError(
            f"job {reply.job}, device {slot}: it tells of segments that the patient keeps, and the patient keeps none; "
            "nothing is judged"
        )
    # What is kept, and not on the device yet, as after consent that was given again, no copy can be made of.
    kept = kept and not all(_is_empty(reply, arm, "retained") for arm in arms)
    groups = ("forgotten", "retained", CONTROL) if kept else ("forgotten", CONTROL)
    answers = {}
    for arm in arms:
        readouts = {group: _readout(reply, arm, group) for group in groups}
        for group, readout in readouts.items():
            copies, segments = readout.margins.shape
            if copies != request.copies:
                raise AuditError(
                    f"job {reply.job}, device {slot}, arm {arm!r}: {copies} copies, expected the {request.copies} "
                    "that were asked for; nothing is judged"
                )
            if group == CONTROL and segments < LEAST_CONTROLS:
                raise AuditError(
                    f"job {reply.job}, device {slot}: {segments} control segments, expected {LEAST_CONTROLS} or more; "
                    "a device that has fewer compares no copies"
                )
        answers[arm] = _whole_answers(readouts.values())
    _refuse_repeats(answers, where=f"job {reply.job}, device {slot}")


def _whole_answers(readouts: Iterable[Readout]) -> list[tuple[float, ...]]:
    """Return all that each copy of an arm said, so that answers can be told apart."""
    parts = [getattr(readout, name) for readout in readouts for name in Readings.__dataclass_fields__]
    return [tuple(row) for row in np.concatenate(parts, axis=1).tolist()]


def _refuse_repeats(answers: Mapping[str, Sequence[tuple[float, ...]]], *, where: str) -> None:
    """See that copies are copies of their own: each has its seed, and two seeds do not answer alike to the last digit.

    One answer may come again and again, in an arm and in two: the general model's, to which the gate rolls copies
    back, what a method without chance makes of that, or the only one there is, where the recipe leaves nothing to
    chance. And a method that is not exact works on the copies of "nothing", and may leave one as it was.

    Args:
        answers: arm -> what each copy said.
        where: job and device, for the error.

    Raises:
        AuditError: more than one answer is repeated.
    """
    seed = "expected one at most, for no two copies have the same seed; nothing is judged"
    for arm, rows in answers.items():
        often = {row for row, count in Counter(rows).items() if count > 1}
        if not _is_one(often):
            raise AuditError(f"{where}, arm {arm!r}: {len(often)} different answers come more than once, {seed}")
    for (one, rows), (other, others) in combinations(answers.items(), 2):
        shared = set(rows) & set(others)
        if not {one, other} & {NEVER, *EXACT}:
            shared -= {row for row, same in zip(rows, others, strict=True) if row == same}
        if not _is_one(shared):
            raise AuditError(f"{where}: {len(shared)} answers of arm {one!r} are those of arm {other!r}, {seed}")


def _is_one(answers: Collection[tuple[float, ...]]) -> bool:
    """Return whether answers are one and the same, but for sums that were taken in another order."""
    return len(answers) < 2 or float(np.ptp(np.array(list(answers)), axis=0).max()) < ALIKE


def _is_empty(reply: AuditReply, arm: str, group: str) -> bool:
    """Return whether a group is there and has no segment."""
    readings = reply.arms.get(arm, {}).get(group)
    return readings is not None and len(readings.margins) > 1 and not any(readings.margins)


def has(reply: AuditReply, method: str, group: str) -> bool:
    """Return whether a group was measured; a full withdrawal retains nothing."""
    readings = [reply.arms.get(arm, {}).get(group) for arm in (method, NEVER)]
    return any(one is not None and any(len(row) for row in one.margins) for one in readings)


@dataclass(frozen=True)
class Comparison:
    """The arms of one question about one patient, copies in random order.

    Attributes:
        tried: the method's copies. never: copies that never saw the segments.
        n: copies an arm.
    """

    tried: Arm
    never: Arm
    n: int

    @classmethod
    def of(cls, reply: AuditReply, method: str, *, group: str, seed: int) -> "Comparison":
        """Return the arm of `method` beside "never" on a group of segments.

        Args:
            reply: of a device, status "ok".
            method: an arm's name.
            group: "forgotten", "retained" or "control".
            seed: of the order of copies; halves of them are taken later.

        Raises:
            AuditError: a missing arm or group, no segments, margins that are no numbers, shapes that do not agree,
                fewer than two copies an arm.
        """
        if reply.status != "ok":
            raise AuditError(f"the device refused the audit of job {reply.job}: {reply.reason or 'no reason given'}")
        arms = [
            {name: _readout(reply, arm, name) for name in dict.fromkeys((group, CONTROL))} for arm in (method, NEVER)
        ]
        shapes = [{name: readout.margins.shape for name, readout in arm.items()} for arm in arms]
        if shapes[0] != shapes[1] or len({shape[0] for shape in shapes[0].values()}) > 1:
            raise AuditError(
                f"the arms of job {reply.job} differ: {method!r} has {_told(shapes[0])}, "
                f"{NEVER!r} has {_told(shapes[1])}; expected as many copies and segments in both"
            )
        rng = np.random.default_rng(seed)
        tried, never = (_shuffled(arm[group], arm[CONTROL], rng) for arm in arms)
        return cls(tried, never, len(never.segments.margins))

    @property
    def identical(self) -> bool:
        """Return whether all copies of both arms answered alike to the last digit."""
        both = np.concatenate([self.tried.segments.margins, self.never.segments.margins])
        return bool((both == both[0]).all())

    @property
    def constant(self) -> bool:
        """Return whether all copies of one arm answered alike, as they do where an arm is a single model."""
        return any(bool((arm.segments.margins == arm.segments.margins[0]).all()) for arm in (self.tried, self.never))

    @property
    def certainty(self) -> float:
        """Return the median probability that the copies which never saw the segments give their true labels."""
        return float(np.median(expit(self.never.segments.margins)))

    @property
    def variance(self) -> float:
        """Return the variance of the primary AUC under the null, times n."""
        return BINOMIAL if self.constant else MANN_WHITNEY

    def primary(self) -> Score:
        """Return the primary score with its figures."""
        return self._figures(PRIMARY, SCORES[PRIMARY](self.tried, self.never))

    def scored(self) -> dict[str, Scored]:
        """Return every score of both arms."""
        return {name: score(self.tried, self.never) for name, score in SCORES.items()}

    def scores(self) -> list[Score]:
        """Return all scores with their figures, the primary one first; the unit is a copy."""
        found = [self._figures(name, scored) for name, scored in self.scored().items()]
        found.sort(key=lambda score: not score["primary"])
        for score, adjusted in zip(found[1:], holm([score["p"] for score in found[1:]]), strict=True):
            score["p_holm"] = adjusted
        return found

    def _figures(self, name: str, scored: Scored) -> Score:
        tried, never = scored.tried, scored.never
        value = auc_of(scored)
        n = self.n // 2 if scored.directed else self.n  # halves that agree by construction count once
        constant = _constant(tried) or _constant(never)
        low90, high90 = auc_interval(value, n, confidence=0.90, constant=constant)
        low95, high95 = auc_interval(value, n, confidence=0.95, constant=constant)
        p = auc_p(value, n, constant=constant)
        return {
            "name": name,
            "primary": name == PRIMARY,
            "auc": value,
            "low90": low90,
            "high90": high90,
            "low95": low95,
            "high95": high95,
            "p": p,
            "p_holm": p,
            "tpr_at_1": tpr_at(tried, never, fpr=0.01),
            "tpr_at_5": tpr_at(tried, never, fpr=0.05),
            "epsilon": epsilon_bound(tried, never, both=not scored.directed),
        }


def auc_of(scored: Scored) -> float:
    """Return the AUC of a score; of a crossed one the mean of both halves', weighted by their copies."""
    if not scored.crossed:
        return auc(scored.tried, scored.never)
    middle, n = len(scored.never) // 2, len(scored.never)
    first = auc(scored.tried[:middle], scored.never[:middle])
    return (middle * first + (n - middle) * auc(scored.tried[middle:], scored.never[middle:])) / n


def _constant(values: Floats) -> bool:
    return bool((values == values[0]).all())


def _readout(reply: AuditReply, arm: str, group: str) -> Readout:
    """Return one group of one arm as arrays (K, N), or say what is wrong with it."""
    where = f"job {reply.job}, device {reply.slot}, arm {arm!r}, group {group!r}"
    readings = reply.arms.get(arm, {}).get(group)
    if readings is None:
        held = json.dumps({name: sorted(groups) for name, groups in reply.arms.items()})
        raise AuditError(f"the audit answer has no {where}; it has {held[:MOST_TEXT]}; audit again")
    shapes = {name: _shape(getattr(readings, name), f"{name} of {where}") for name in Readings.__dataclass_fields__}
    copies, segments = shapes["margins"]
    if copies < 2 or segments < 1:
        raise AuditError(
            f"{where}: {copies} copies on {segments} segments, expected 2 copies and a segment at least; "
            "raise audit.copies, or look why there are no segments"
        )
    if len(set(shapes.values())) > 1:
        raise AuditError(f"{where}: the readings have different shapes, {_told(shapes)}; expected one shape")
    readout = Readout.of(readings)
    for name in shapes:
        least = 0.0 if name == "entropy" else -MOST
        values = getattr(readout, name)
        if bad := int((~((least <= values) & (values <= MOST))).sum()):
            raise AuditError(
                f"{where}: {bad} of {copies * segments} {name} are no numbers from {least:g} to {MOST:g}; "
                "nothing is judged"
            )
    return readout


def _shape(rows: tuple[tuple[float, ...], ...], where: str) -> tuple[int, int]:
    lengths = {len(row) for row in rows}
    if len(lengths) > 1:
        raise AuditError(f"{where}: rows of {sorted(lengths)} segments, expected as many for every copy")
    return len(rows), lengths.pop() if lengths else 0


def _told(shapes: Mapping[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{name} {' x '.join(map(str, shape))}" for name, shape in shapes.items())


def _shuffled(segments: Readout, control: Readout, rng: np.random.Generator) -> Arm:
    order = rng.permutation(len(segments.margins))

    def part(readout: Readout) -> Readout:
        return Readout(*(getattr(readout, name)[order] for name in Readout.__dataclass_fields__))

    return Arm(part(segments), part(control))
