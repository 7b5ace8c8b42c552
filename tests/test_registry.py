"""The registry: what consent says, never done twice, and what devices have to do about it."""

import re
import threading

import pytest
import sqlalchemy as sa
from enrolled import digests, enrol, withdrawn
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.registry import DUE, Enrolment, Registry
from server.rows import FOLLOWING, HOSPITAL, LOOKED, STATES
from shared.errors import ConsentError, LetheError, UsageError


@pytest.fixture
def registry(tmp_path, place):
    with Registry.create(place(tmp_path)) as opened:
        enrol(opened, "7", role="wearable", records=digests("70", "71", "72"), slot=0)
        enrol(opened, "8", role="wearable", records=digests("80"), slot=1)
        enrol(opened, "9", role="corpus", records=digests("90", "91"))
        enrol(opened, "10", role="control", records=digests("100"))
        yield opened


# Enrolment


def test_every_patient_who_enrols_has_given_consent(registry):
    assert [(e.patient, e.kind, e.scope) for e in registry.events()] == [
        (patient, "given", "patient") for patient in ("7", "8", "9", "10")
    ]
    assert registry.events("7")[0].records == ("70", "71", "72")


def test_patients_and_records_come_back_by_role(registry):
    assert [p.id for p in registry.patients("wearable")] == ["7", "8"]
    assert [p.id for p in registry.patients("corpus")] == ["9"]
    assert len(registry.patients()) == 4
    assert [(r.patient, r.id) for r in registry.records(role="corpus")] == [("9", "90"), ("9", "91")]
    assert [r.sha256 for r in registry.records("8")] == list(digests("80").values())
    assert len(registry.records()) == 7


@pytest.mark.parametrize("role", ["corpus", "wearable", "control"])
def test_a_patient_is_enrolled_once(registry, role):
    with pytest.raises(ConsentError, match="patient 9 is enrolled already"):
        enrol(registry, "9", role=role, records=digests("99"))
    registry.withdraw("9")
    with pytest.raises(ConsentError, match="patient 9 is enrolled already"):
        enrol(registry, "9", role=role, records=digests("99"))
    assert len(registry.events("9")) == 2


def test_a_pseudonym_is_random_and_stays(registry, tmp_path, place):
    patient = registry.patient("7")
    assert re.fullmatch("p-[0-9a-f]{8}", patient.pseudonym)
    with Registry.create(place(tmp_path / "other")) as other:
        enrol(other, "7", role="wearable", records=digests("70", "71", "72"), slot=0)
        assert other.patient("7").pseudonym != patient.pseudonym
    registry.withdraw("7")
    assert registry.patient("7").pseudonym == patient.pseudonym


def test_a_slot_is_never_used_by_a_second_patient(registry):
    with pytest.raises(UsageError, match="slot 1 of patient 11 is taken"):
        enrol(registry, "11", role="wearable", records=digests("110"), slot=1)
    registry.withdraw("8")
    assert enrol(registry, "11", role="wearable", records=digests("110")).slot == 2


@pytest.mark.parametrize(
    ("role", "records", "slot", "says"),
    [
        ("nurse", digests("1"), None, "expected one of corpus, wearable, control"),
        ("corpus", {}, None, "no records"),
        ("corpus", digests("1"), 5, "wears no device"),
        ("wearable", digests("1"), -1, "below 0"),
    ],
)
def test_an_enrolment_that_makes_no_sense_is_refused(registry, role, records, slot, says):
    with pytest.raises(UsageError, match=says):
        enrol(registry, "11", role=role, records=records, slot=slot)
    assert len(registry.patients()) == 4


def test_many_patients_are_enrolled_all_or_none(registry):
    crowd = [Enrolment(str(n), "corpus", digests(str(n))) for n in (20, 21, 9)]
    with pytest.raises(ConsentError):
        registry.enrol_many(crowd)
    assert len(registry.patients()) == 4

    def disk_is_full(_: object) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        registry.enrol_many(crowd[:2], before_commit=disk_is_full)
    assert len(registry.patients()) == 4
    assert len(registry.events()) == 4


def test_a_whole_ptb_xl_is_enrolled_in_a_few_statements(tmp_path, place):
    """Not a few a patient: a round trip each would take minutes."""
    crowd, statements = [Enrolment(str(n), "corpus", digests(str(n))) for n in range(21_000)], []
    with Registry.create(place(tmp_path)) as registry:
        sa.event.listen(registry._engine, "before_cursor_execute", lambda *told: statements.append(told[2]))
        enrolled = registry.enrol_many(crowd)
        assert len({patient.pseudonym for patient in enrolled}) == 21_000
        assert len(registry.records(role="corpus")) == 21_000
        assert len(statements) < 100


def test_who_holds_a_recording_is_found_by_its_digest(registry):
    assert registry.holders(digests("91", "5").values()) == [("9", "91")]
    registry.withdraw("9")
    assert registry.holders(digests("91").values()) == [("9", "91")]


@pytest.mark.parametrize(
    ("asked", "says"),
    [("77", "did you mean 7?"), ("nobody", "lethe patients list"), ("", "lethe patients list")],
)
def test_an_unknown_patient_is_refused_with_a_way_out(registry, asked, says):
    for ask in (registry.patient, registry.withdraw, registry.records, registry.events):
        with pytest.raises(UsageError, match=re.escape(says)):
            ask(asked)


def test_a_pseudonym_in_place_of_an_id_is_explained(registry):
    with pytest.raises(UsageError, match="the patient's id is 7"):
        registry.patient(registry.patient("7").pseudonym)


# Withdrawal


def test_withdrawing_everything_makes_one_job_for_the_device(registry):
    (job,) = registry.withdraw("7")
    assert (job.patient, job.slot, job.scope, job.state) == ("7", 0, "patient", "REQUESTED")
    assert job.records == ("70", "71", "72")
    assert job.method is None
    assert registry.patient("7").status == "withdrawn"
    assert withdrawn(registry, "7") == ("70", "71", "72")
    assert registry.records("7") == []
    assert all(row.withdrawn for row in registry.records("7", consented_only=False))
    assert registry.jobs() == [job] == registry.jobs(DUE) == [registry.job(job.id)]
    assert registry.events("7")[-1].source == "operator"


def test_withdrawing_one_record_leaves_the_others(registry):
    (job,) = registry.withdraw("7", records=["71"], source="patient portal")
    assert (job.scope, job.records) == ("records", ("71",))
    assert registry.patient("7").status == "partly withdrawn"
    assert [row.id for row in registry.records("7")] == ["70", "72"]
    event = registry.events("7")[-1]
    assert (event.kind, event.scope, event.records) == ("withdrawn", "records", ("71",))
    assert event.source == "patient portal"


def test_withdrawing_twice_changes_nothing(registry):
    first = registry.withdraw("7", records=["71"])
    events = registry.events()
    assert registry.withdraw("7", records=["71"]) == first
    assert registry.withdraw("7", records=["71", "71"]) == first
    assert registry.events() == events
    whole = registry.withdraw("7")
    assert registry.withdraw("7") == whole == registry.jobs()
    assert registry.withdraw("7", records=["70"]) == [whole[-1]]
    assert len(registry.events("7")) == 3


def test_named_again_with_a_new_one_only_the_new_one_is_withdrawn(registry):
    (first,) = registry.withdraw("7", records=["71"])
    both = registry.withdraw("7", records=["71", "72"])
    assert [job.records for job in both] == [("71",), ("72",)]
    assert both[0] == first
    assert registry.events("7")[-1].records == ("72",)


def test_all_records_named_one_by_one_equal_everything(registry):
    registry.withdraw("7", records=["72"])
    registry.withdraw("7", records=["70"])
    last = registry.withdraw("7", records=["71"])[-1]
    assert (last.scope, last.records) == ("patient", ("70", "71", "72"))
    assert registry.patient("7").status == "withdrawn"
    assert registry.withdraw("8", records=["80"])[0].scope == "patient"


@pytest.mark.parametrize(("patient", "records"), [("9", ("90", "91")), ("10", ("100",))])
def test_without_a_device_the_job_is_the_hospital_s(registry, patient, records):
    (job,) = registry.withdraw(patient)
    assert (job.slot, job.scope, job.records, job.state) == (HOSPITAL, "patient", records, "REQUESTED")
    assert registry.patient(patient).status == "withdrawn"
    assert registry.records(patient) == []
    assert registry.jobs() == [job]


@pytest.mark.parametrize(("named", "says"), [(["71", "90", "90"], "no record 90"), ([], "no record was named")])
def test_an_unknown_record_is_refused_and_the_patients_are_listed(registry, named, says):
    with pytest.raises(UsageError, match=rf"{says}; the records are 70, 71, 72"):
        registry.withdraw("7", records=named)
    assert registry.records("7") == registry.records("7", consented_only=False)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(requests=st.lists(st.lists(st.sampled_from(["70", "71", "72", "73"]), min_size=1) | st.none(), max_size=6))
def test_any_order_of_withdrawals_ends_where_their_union_does(tmp_path_factory, place, requests):
    with Registry.create(place(tmp_path_factory.mktemp("law"))) as registry:  # another one each time
        enrol(registry, "7", role="wearable", records=digests("70", "71", "72", "73"), slot=0)
        for records in requests:
            registry.withdraw("7", records=records)
        union = {record for named in requests for record in named or ("70", "71", "72", "73")}
        assert set(withdrawn(registry, "7")) == union
        assert {row.id for row in registry.records("7")} == {"70", "71", "72", "73"} - union
        taken = [record for event in registry.events("7")[1:] for record in event.records]
        assert sorted(taken) == sorted(union)
        jobs = registry.jobs()
        assert sum(job.scope == "patient" for job in jobs) == (len(union) == 4)
        assert len(jobs) == len(registry.events("7")) - 1


# Jobs


def test_a_job_walks_its_states_and_every_step_is_kept(registry):
    (job,) = registry.withdraw("7")
    registry.advance(job.id, "DISPATCHED", detail={"method": "finetune", "run": "r1"})
    registry.advance(job.id, "FAILED", detail={"reason": "device 0 did not answer"})
    registry.advance(job.id, "DISPATCHED", detail={"method": "exact", "run": "r2"})
    done = registry.advance(job.id, "UNLEARNED", detail={"files": 3})
    assert (done.state, done.method) == ("UNLEARNED", "exact")
    assert done.detail == {
        "method": "exact",
        "run": "r2",
        "reason": "device 0 did not answer",
        "files": 3,
    }
    steps = registry.job_events(job.id)
    assert [step.state for step in steps] == ["REQUESTED", "DISPATCHED", "FAILED", "DISPATCHED", "UNLEARNED"]
    assert steps[1].detail == {"method": "finetune", "run": "r1"}
    assert registry.jobs(["UNLEARNED"]) == [done]
    registry.advance(job.id, "AUDITED")
    registry.advance(job.id, "CERTIFIED")
    assert registry.jobs(DUE) == []


def test_the_present_state_again_changes_nothing(registry):
    (job,) = registry.withdraw("7")
    sent = registry.advance(job.id, "DISPATCHED")
    assert registry.advance(job.id, "DISPATCHED", detail={"run": "again"}) == sent
    assert len(registry.job_events(job.id)) == 2


PATHS = {
    "REQUESTED": [],
    "DISPATCHED": ["DISPATCHED"],
    "UNLEARNED": ["DISPATCHED", "UNLEARNED"],
    "AUDITED": ["DISPATCHED", "UNLEARNED", "AUDITED"],
    "CERTIFIED": ["DISPATCHED", "UNLEARNED", "AUDITED", "CERTIFIED"],
    "FAILED": ["FAILED"],
    "CLOSED": ["FAILED", "CLOSED"],
}


@pytest.mark.parametrize(("state", "to"), [(a, b) for a in STATES for b in STATES if a != b and b not in FOLLOWING[a]])
def test_no_job_skips_a_step_or_goes_back(registry, state, to):
    (job,) = registry.withdraw("7")
    for step in PATHS[state]:
        if step == "CLOSED":
            registry.close_job(job.id, "test")
        else:
            registry.advance(job.id, step, detail={"reason": "test", LOOKED: {}})
    with pytest.raises(LetheError, match=f"is {state} and cannot become {to}"):
        registry.advance(job.id, to, detail={"reason": "test"})
    assert registry.job(job.id).state == state


def test_a_failure_needs_a_reason(registry):
    (job,) = registry.withdraw("7")
    with pytest.raises(LetheError, match="without a reason"):
        registry.advance(job.id, "FAILED")


def test_an_unknown_job_is_refused(registry):
    for ask in (registry.job, registry.job_events, lambda job: registry.advance(job, "DISPATCHED")):
        with pytest.raises(UsageError, match="no job 'j-0'"):
            ask("j-0")


def test_of_many_withdrawals_at_once_each_record_is_taken_back_by_one(registry):
    taken: list[list[str]] = []
    threads = [threading.Thread(target=registry.withdraw, args=["7"], kwargs={"taken": taken.append}) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken, key=len) == [*(5 * [[]]), ["70", "71", "72"]]
