"""What copies said of a withdrawal outlives every crash, and an answer that could not be used is never forgotten."""

from dataclasses import replace

import pytest
from flwr.app import Message, RecordDict
from local_grid import FIRST_NODE
from test_auditing import answering, now, sent

from client.auditing import audit
from server import evidence, phases
from shared.audit_messages import AuditReply, AuditRequest
from shared.messages import read, write
from shared.unlearning import METHODS


@pytest.fixture
def job(fleet):
    """A wearer of several records withdraws the oldest."""
    patient = fleet.with_several_records()
    return fleet.registry.withdraw(patient.id, records=fleet.records(patient)[:1])[0]


def honest(fleet, job, message) -> AuditReply:
    return audit(fleet.store(fleet.wearer(job.slot)), read(AuditRequest, message), slot=job.slot)


def without_nothing(reply):
    return write(replace(reply, arms={arm: found for arm, found in reply.arms.items() if arm != "nothing"}))


BAD = {
    "an arm is missing": (without_nothing, "nothing"),
    "of another device": (lambda reply: write(replace(reply, slot=reply.slot + 1)), "speaks for device"),
    "of another job": (lambda reply: write(replace(reply, job="j-other")), "is for job 'j-other'"),
    "no answer at all": (lambda _: RecordDict(), "is not a AuditReply"),
    "a copy less": (
        lambda reply: write(
            replace(
                reply,
                arms={
                    arm: {
                        group: type(one)(*(getattr(one, name)[:1] for name in one.__dataclass_fields__))
                        for group, one in found.items()
                    }
                    for arm, found in reply.arms.items()
                },
            )
        ),
        "copies",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_answer_erases_and_is_no_pass_also_when_no_copy_can_be_made_any_more(fleet, job, case):
    change, said = BAD[case]

    def answer(message: Message) -> Message:
        return Message(change(honest(fleet, job, message)), reply_to=message)

    fleet.grid.apps[FIRST_NODE + job.slot] = answering("audit", answer)
    fleet.run()
    assert not set(job.records) & set(fleet.store(fleet.wearer(job.slot)).record_ids())
    assert now(fleet, job).state == "FAILED"
    assert said in now(fleet, job).detail["reason"]
    fleet.grid.apps.clear()  # from now on the device is honest, and refuses: the segments are gone
    fleet.run()
    assert now(fleet, job).state == "FAILED"
    assert said in now(fleet, job).detail["reason"]
    assert list(fleet.workspace.certificates.glob("*")) == []


@pytest.mark.parametrize("silent_before", [False, True])
def test_what_the_copies_said_is_kept_before_the_device_erases(fleet, job, monkeypatch, silent_before):
    if silent_before:  # the job is dispatched without an audit, and the device comes back
        fleet.answer_s = 0.3
        fleet.grid.silent.add(FIRST_NODE + job.slot)
        fleet.run()
        fleet.grid.silent.clear()
        fleet.answer_s = 60.0
        assert now(fleet, job).state == "DISPATCHED"

    def die(*_, **__):
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(phases, "unlearn", die)
        with pytest.raises(RuntimeError):
            fleet.run()
    asked = len(sent(fleet, "query.audit"))
    run = fleet.run()
    verdict = run.withdrawals[job.id].verdict
    assert (now(fleet, job).state, verdict["copies"]) == ("CERTIFIED", 2)
    assert len(sent(fleet, "query.audit")) == asked


def test_a_general_model_that_stands_in_is_certified_as_that_and_not_as_exact(fleet, job, monkeypatch):
    def fails(_):
        raise RuntimeError("no memory")

    monkeypatch.setitem(METHODS, "exact", fails)
    run = fleet.run()
    one = run.withdrawals[job.id]
    assert (one.reply.served, one.reply.after) == ("", one.reply.general)
    assert (one.verdict["method"], one.verdict["verdict"], one.verdict["after"]) == ("general model", "PASS", None)
    envelope = evidence.read((fleet.workspace.certificates / one.certificate["file"]).read_bytes())
    told = evidence.read_payload(envelope.payload).predicate
    assert (told.method.name, told.audit.after) == ("general model", None)
