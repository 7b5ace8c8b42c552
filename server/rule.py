"""The rule by which figures become PASS, FAIL or INCONCLUSIVE; auditor and verifier share it.

Here nothing is measured: scores go in, a word comes out.
"""

from collections.abc import Sequence

from server.verdicts import Score, Verdict
from shared.inference import EQUIVALENT, LEVEL, needed

LEAST_COPIES = 8  # fewer an arm decide nothing: the normal approximation of Mann-Whitney's test is too keen below
LEAST_PATIENTS = 8  # fewer decide nothing of a method, and their bootstrap is too narrow to be told
CONFIRMATION = 4  # times the copies, for the second look at an exact method that the first one refutes


def decide(scores: Sequence[Score], n: int, *, identical: bool, exact: bool) -> Verdict:
    """Return what the scores of n copies an arm come to, the primary one first.

    Copies that are all `identical` are one model asked n times, and one model is no sample: they decide nothing.

    FAIL: the 95 % interval of the primary AUC excludes .5, on either side; so chance alone refutes a twentieth. PASS:
    its 90 % interval lies within .5 +- .10, the lower bound on epsilon is 0, and, unless the method is exact, no
    secondary score rejects after Holm. Those can withhold a PASS and make no FAIL, which would be two twentieths.
    """
    primary, *others = scores
    if n < LEAST_COPIES or identical:
        return "INCONCLUSIVE"
    if not primary["low95"] <= 0.5 <= primary["high95"]:
        return "FAIL"
    near = primary["low90"] >= 0.5 - EQUIVALENT and primary["high90"] <= 0.5 + EQUIVALENT
    quiet = exact or all(score["p_holm"] >= LEVEL for score in others)
    return "PASS" if near and quiet and primary["epsilon"] == 0 else "INCONCLUSIVE"


def leaves_open(verdict: Verdict, method: str, *, identical: bool, exact: bool) -> bool:
    """Return whether more copies would decide something: not of an exact method, of which bytes decide.

    Nor of "nothing", which nobody asks to pass, nor of equal answers, of which no number of copies is a sample.
    """
    return verdict == "INCONCLUSIVE" and not (identical or exact or method == "nothing")


def enough(primary: Score, n: int, *, variance: float) -> int:
    """Return how many copies an arm would decide what n left open; more than n."""
    copies = max(LEAST_COPIES, needed(primary["auc"], variance=variance))
    return copies if copies > n else CONFIRMATION * n  # near .5, but for epsilon's bound or a secondary score


def of_job(after: Sequence[Verdict], retained: Verdict | None, *, holds: bool, answered: bool, exact: bool) -> Verdict:
    """Return the verdict of a job.

    Args:
        after: what each look at the method's copies said of the forgotten segments, the first one first.
        retained: what the last look said of the segments that the patient keeps; None where nothing is kept. It
            refutes an approximate method, which must not expose the rest. Of an exact one the bytes speak.
        holds: whether all checks of bytes do.
        answered: whether the device said what is on its disk.
        exact: whether the method is.
    """
    if not holds:
        return "FAIL" if answered else "INCONCLUSIVE"
    if not exact:
        return "FAIL" if "FAIL" in (*after, retained) else after[-1] if after else "INCONCLUSIVE"
    if not after or after[-1] != "FAIL":
        return "PASS"
    return "FAIL" if len(after) > 1 else "INCONCLUSIVE"  # one look is refuted by chance in a twentieth of jobs
