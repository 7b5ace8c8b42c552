"""What an auditor says: verdicts as plain JSON, and their words, which are made of their numbers.

The strongest thing said of an approximate method is "not falsified at this power". `server/auditor.py` decides.
"""

from typing import Literal, TypedDict

from shared.inference import Rate

Verdict = Literal["PASS", "FAIL", "INCONCLUSIVE"]

SLICED = "sisa"  # exact too: the hospital trains its general model again from the last slice before the records
STANDS_IN = "general model"  # in a method's place, where a device serves the general model for want of a method

# Names of the checks of bytes. In each, what was expected is also what was seen, or it does not hold.
ANSWER = "answer of the device"
SERVED = "model as acknowledged"
BUNDLED = "ONNX file as acknowledged"
RECORDS = "withdrawn records"
LEFTOVERS = "leftover files"
OTHERS = "models of the other devices"
WEIGHTS = "weights as the server sees them"
LINEAGE = "lineage of the general model"
GENERAL = "the general model's bytes"
START = "general model it starts from"
FRESH = "the bytes of a fresh copy"
NO_MODEL = "model in use"
COPIES = "devices with a model that descends from an older general one"

TITLES = {
    "margin": "mean margin",
    "ulira": "likelihood ratio (U-LiRA)",
    "rmia": "relative probability (RMIA)",
    "loss": "loss threshold",
    "entropy": "modified entropy",
    "fgsm": "FGSM discrepancy",
    "noise": "noise discrepancy",
}


class Score(TypedDict):
    """One score of two arms: above .5 the tried copies look more as if they had seen the segments.

    Attributes:
        primary: whether it was fixed before the data as the one that the verdict rests on.
        p: two-sided, against an AUC of .5; of `ulira` over patients one-sided, because it learns the direction.
        p_holm: p adjusted for the number of secondary scores (Holm); the primary's own p.
        tpr_at_1, tpr_at_5: true positive rate at 1 % and 5 % false positives; None where n is too small to tell.
        epsilon: lower bound, 95 % confidence, threshold and bound from different halves.
    """

    name: str
    primary: bool
    auc: float
    low90: float
    high90: float
    low95: float
    high95: float
    p: float
    p_holm: float
    tpr_at_1: Rate | None
    tpr_at_5: Rate | None
    epsilon: float


class Statistics(TypedDict):
    """One method on one patient's segments; the unit is a copy.

    Attributes:
        n: copies an arm.
        identical: whether all copies of both arms answered alike to the last digit.
        certainty: median probability that copies which never saw the segments give their true labels.
        unlearned, never: mean margin over the segments, one number a copy, of either arm.
        detectable: smallest AUC told from .5 with 80 % power at this n.
        needed: copies an arm that would decide, None where they decide nothing (`server.rule.leaves_open`).
    """

    method: str
    group: str
    unit: Literal["copy"]
    n: int
    segments: int
    identical: bool
    certainty: float
    unlearned: list[float]
    never: list[float]
    scores: list[Score]
    detectable: float
    needed: int | None
    verdict: Verdict
    words: str


class Check(TypedDict):
    """One thing about the bytes on a device: what was expected, what was seen."""

    name: str
    expected: str
    seen: str
    holds: bool


class Bytes(TypedDict):
    """What the files on a device, its acknowledgement and the lineage say."""

    holds: bool
    checks: list[Check]


class Look(TypedDict):
    """What one audit of a job found.

    Attributes:
        seed: of the copies.
        before: the copies that were not unlearned, against those that never saw the segments.
        after: the copies of the method to be served, against the same.
        retained: the method's copies on what the patient keeps; None where nothing is kept.
    """

    seed: int
    before: Statistics
    after: Statistics
    retained: Statistics | None


class JobVerdict(TypedDict):
    """The verdict of one job.

    Attributes:
        before, after, retained: what the last look found; None where no copies were compared.
        earlier: what the looks before that found of the method's copies.
        seeds: of the copies, the first look's first.
        copies: an arm, in the last look; 0 when none were compared.
    """

    verdict: Verdict
    words: str
    method: str
    exact: bool
    before: Statistics | None
    after: Statistics | None
    retained: Statistics | None
    earlier: list[Statistics]
    bytes: Bytes
    seeds: list[int]
    copies: int


class MethodVerdict(TypedDict):
    """One method over many patients; the unit is a patient.

    Attributes:
        n: patients.
        copies: an arm and patient, the fewest.
        identical: whether, patient by patient, all copies of both arms answered alike.
        refuted: patients whose own primary score excludes .5.
        traces: patients of whom copies that were not unlearned show a trace.
        certainty: median over patients of the probability that copies which never saw the segments give their labels.
        scores: means over patients of each patient's AUC; the primary is `ulira`, which learns the direction.
        needed: patients that would decide, None when it is decided, or when no number would.
    """

    method: str
    group: str
    unit: Literal["patient"]
    n: int
    copies: int
    identical: bool
    refuted: Rate
    traces: Rate
    certainty: float
    scores: list[Score]
    detectable: float
    needed: int | None
    verdict: Verdict
    words: str
