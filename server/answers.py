"""Whether an answer fits its question: what a device may say of itself, checked before anybody relies on it.

The form of a message is `shared/messages.py`'s; copies' answers are checked where they are compared
(`server/comparison.py`). What a lie about oneself can gain all the same stands in SECURITY.md. Pure functions.
"""

from collections.abc import Collection, Mapping, Sequence

from server.rows import Job
from shared.audit_messages import VerifyReply
from shared.errors import DataError
from shared.fields import shown
from shared.messages import GroupMargins, PersonaliseReply, ProbeReply, UnlearnReply
from shared.settings import SEGMENTS_PER_RECORD
from shared.unlearning import EXACT, METHODS

GROUPS = ("forgotten", "held_out", "control")


def check_personal(reply: PersonaliseReply, *, general: str, records: int) -> None:
    """See that what is told of a personal model can be.

    Args:
        reply: of a device.
        general: digest of the general model that was to be started from.
        records: how many records it was to learn from.

    Raises:
        DataError: it cannot.
    """
    served = reply.personal if reply.accepted else general
    if reply.status == "ok" and not (reply.personal and reply.bundle):
        raise DataError("it names no model in use, or no ONNX file")
    if reply.status != "ok" and reply.accepted:
        raise DataError("it refuses, and has a personal model accepted")
    if reply.personal not in ("", served):
        raise DataError(f"its copy was turned down, and it serves {reply.personal[:12]}…, expected {general[:12]}…")
    if reply.records > records:
        raise DataError(f"it learnt from {reply.records} records, expected at most {records}")
    if reply.train_segments + reply.held_out_segments > SEGMENTS_PER_RECORD * records:
        raise DataError(
            f"it has {reply.train_segments} and {reply.held_out_segments} segments, "
            f"expected at most {SEGMENTS_PER_RECORD} a record"
        )
    if reply.status == "ok" and (reply.own_general is None) != (reply.own_personal is None):
        raise DataError("it has one of two accuracies on the segments held out, expected both or none")


def check_probe(reply: ProbeReply, *, strengths: int) -> None:
    """See that every group has a row a strength of attack, and as many segments everywhere.

    Raises:
        DataError: it has not.
    """
    if reply.status == "ok":
        for name, group in (("member", reply.member), ("held_out", reply.held_out), ("control", reply.control)):
            if group is None:
                raise DataError(f"it has no group {name}")
            _check_group(group, name, strengths=strengths)


def check_unlearned(reply: UnlearnReply, job: Job, *, strengths: int) -> None:
    """See that an acknowledgement is of this job and does not contradict itself.

    A device that was asked before repeats its first answer, without the groups of segments.

    Raises:
        DataError: it is another's, or does.
    """
    if reply.status != "ok":
        _check_job(reply.job, job.id, unread=reply.job == "")
        return
    _check_job(reply.job, job.id)
    if not reply.unlearned_at:
        raise DataError("it does not say when it was unlearned")
    if bool(reply.after) != bool(reply.bundle) or (reply.after and not reply.general):
        raise DataError(
            "it names a model without its ONNX file or the general model that it comes from, or these alone"
        )
    if reply.served not in ("", *METHODS):
        raise DataError(f"it serves what {shown(reply.served)} made, which is no method")
    if reply.served and not reply.after:
        raise DataError(f"it serves what {shown(reply.served)} made, and names no model")
    if reply.segments_erased and not reply.erased:
        raise DataError(f"it erased {reply.segments_erased} segments and no file")
    for one in reply.methods:
        if one.method not in METHODS or one.exact != (one.method in EXACT):
            raise DataError(f"it calls {shown(one.method)} {'exact' if one.exact else 'approximate'}")
        _check_same(one.before_groups, one.after_groups)
        for when in (one.before_groups, one.after_groups):
            for name, group in when.items():
                _check_group(group, name, strengths=strengths)
    if len({one.method for one in reply.methods}) < len(reply.methods):
        raise DataError("it measured a method twice")


def check_looked(reply: VerifyReply, job: str) -> None:
    """See that a look at the disk is of this job.

    Raises:
        DataError: it is another's.
    """
    _check_job(reply.job, job, unread=reply.job == "" and reply.status != "ok")


def _check_job(seen: str, expected: str, *, unread: bool = False) -> None:
    """A device that cannot read a request refuses it without the job's name."""
    if seen != expected and not unread:
        raise DataError(f"it is about job {shown(seen)}, expected {expected}")


def _check_same(before: Mapping[str, GroupMargins], after: Mapping[str, GroupMargins]) -> None:
    if set(before) != set(after) or not set(before) <= set(GROUPS):
        raise DataError(f"it has the groups {shown(sorted({*before, *after}))}, expected {', '.join(GROUPS)}")
    for name, group in before.items():
        if _lengths([*group.general_hits]) != _lengths([*after[name].general_hits]):
            raise DataError(f"group {name} has other segments after than before")


def _check_group(group: GroupMargins, name: str, *, strengths: int) -> None:
    parts = (group.general_hits, group.personal_hits, group.general_margins, group.personal_margins)
    lengths = {length for part in parts for length in _lengths(part)}
    if any(len(part) != strengths for part in parts) or len(lengths) > 1:
        seen = sorted({len(part) for part in parts})
        raise DataError(
            f"group {name} has rows of {shown(sorted(lengths))} segments under {shown(seen)} strengths, "
            f"expected as many segments everywhere under {strengths}"
        )


def _lengths(rows: Sequence[Collection[object]]) -> set[int]:
    return {len(row) for row in rows}
