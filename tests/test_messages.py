"""What travels: every payload comes back as it was sent, and nothing else is taken for one."""

import dataclasses
import json
from typing import get_type_hints

import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from hypothesis import given
from hypothesis import strategies as st

from shared import audit_messages, messages
from shared.audit_messages import AuditReply, AuditRequest, Readings, VerifyReply, VerifyRequest
from shared.errors import DataError
from shared.messages import (
    Accuracies,
    ErasedFile,
    GroupMargins,
    Identity,
    MethodOutcome,
    PersonaliseReply,
    PersonaliseRequest,
    ProbeReply,
    ProbeRequest,
    UnlearnReply,
    UnlearnRequest,
    Whoami,
    blobs,
    read,
    write,
)
from shared.settings import Personalisation, Unlearning

text = st.text(max_size=20)
numbers = st.floats(allow_nan=False, allow_infinity=False)
hits = st.lists(st.lists(st.integers(0, 1), max_size=3).map(tuple), max_size=3).map(tuple)
margins = st.lists(st.lists(numbers, max_size=3).map(tuple), max_size=3).map(tuple)
groups = st.builds(GroupMargins, hits, hits, margins, margins)
outcomes = st.builds(
    MethodOutcome,
    method=text,
    exact=st.booleans(),
    after=text,
    seconds=numbers,
    own=st.builds(Accuracies, st.integers(), numbers, st.none(), numbers),
    others=st.builds(Accuracies, st.integers(), numbers, numbers, numbers),
    before_groups=st.dictionaries(text, groups, max_size=2),
    after_groups=st.dictionaries(text, groups, max_size=2),
)
readings = st.builds(Readings, margins, margins, margins, margins)
PAYLOADS = {
    Whoami: st.builds(Whoami, text),
    Identity: st.builds(Identity, st.integers(), text, text, text, text),
    PersonaliseRequest: st.builds(
        PersonaliseRequest, text, text, text, st.lists(text).map(tuple), st.just(Personalisation(steps=3))
    ),
    PersonaliseReply: st.builds(
        PersonaliseReply,
        slot=st.integers(),
        status=st.sampled_from(["ok", "refused"]),
        own_general=st.none() | numbers,
        left_out=st.none() | st.dictionaries(text, st.integers(), max_size=3),
        split=st.sampled_from(["record", "time", "none"]),
    ),
    ProbeRequest: st.builds(ProbeRequest, text, numbers, st.lists(numbers).map(tuple)),
    ProbeReply: st.builds(ProbeReply, st.integers(), st.just("ok"), text, groups, st.none(), groups),
    UnlearnRequest: st.builds(
        UnlearnRequest,
        job=text,
        scope=st.sampled_from(["patient", "records"]),
        records=st.lists(text).map(tuple),
        methods=st.lists(text).map(tuple),
        serve=text,
        personalisation=st.just(Personalisation()),
        unlearning=st.just(Unlearning()),
        epsilons_sd=st.lists(numbers).map(tuple),
        retrain=st.booleans(),
    ),
    UnlearnReply: st.builds(
        UnlearnReply,
        job=text,
        slot=st.integers(),
        status=st.just("ok"),
        erased=st.lists(st.builds(ErasedFile, text, st.integers()), max_size=3).map(tuple),
        methods=st.lists(outcomes, max_size=2).map(tuple),
    ),
    AuditRequest: st.builds(
        AuditRequest,
        job=text,
        scope=st.sampled_from(["patient", "records"]),
        records=st.lists(text).map(tuple),
        methods=st.lists(text).map(tuple),
        personalisation=st.just(Personalisation()),
        unlearning=st.just(Unlearning()),
        copies=st.integers(),
        epsilon_sd=numbers,
        seed=st.integers(0, 2**63 - 1),
    ),
    AuditReply: st.builds(
        AuditReply,
        job=text,
        slot=st.integers(),
        status=st.sampled_from(["ok", "refused"]),
        arms=st.dictionaries(text, st.dictionaries(text, readings, max_size=2), max_size=2),
        seconds=numbers,
    ),
    VerifyRequest: st.builds(
        VerifyRequest,
        job=text,
        scope=st.sampled_from(["patient", "records"]),
        records=st.lists(text).map(tuple),
        personalisation=st.just(Personalisation()),
        exact=st.booleans(),
        white_box=st.booleans(),
    ),
    VerifyReply: st.builds(
        VerifyReply,
        job=text,
        slot=st.integers(),
        status=st.sampled_from(["ok", "refused"]),
        records=st.lists(text).map(tuple),
        leftovers=st.lists(text).map(tuple),
        seconds=numbers,
    ),
}


@pytest.fixture(autouse=True)
def _task():
    """A message asks Flower which task it belongs to."""
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1


def sent(content: RecordDict) -> Message:
    return Message(content, dst_node_id=1, message_type="query.test")


def test_every_payload_is_in_the_table():
    found = [*vars(messages).values(), *vars(audit_messages).values()]
    ours = [value for value in found if dataclasses.is_dataclass(value)]
    parts = {GroupMargins, MethodOutcome, ErasedFile, Accuracies, Readings, Personalisation, Unlearning}
    assert set(ours) - parts == set(PAYLOADS)


@pytest.mark.parametrize("kind", PAYLOADS, ids=lambda kind: kind.__name__)
def test_a_payload_comes_back_as_it_was_sent(kind):
    @given(PAYLOADS[kind])
    def check(payload):
        assert read(kind, sent(write(payload))) == payload

    check()


def payload(value: object) -> RecordDict:
    return RecordDict({"payload": ConfigRecord({"json": json.dumps(value).encode()})})


GOOD = {"slot": 1, "pseudonym": "p", "package": "", "personal": "", "code": "c"}


@pytest.mark.parametrize(
    "bad",
    [
        {**GOOD, "slot": "1"},
        {**GOOD, "slot": 1.5},
        {**GOOD, "slot": True},
        {**GOOD, "slot": None},
        {**GOOD, "code": 3},
        {key: value for key, value in GOOD.items() if key != "code"},
        [],
        None,
        "text",
        {},
    ],
)
def test_a_payload_of_other_types_is_refused(bad):
    assert read(Identity, sent(payload(GOOD))).slot == 1
    with pytest.raises(DataError, match=r"query\.test is not a Identity"):
        read(Identity, sent(payload(bad)))


@pytest.mark.parametrize("kind", PAYLOADS, ids=lambda kind: kind.__name__)
def test_a_message_without_a_payload_is_refused(kind):
    for content in (RecordDict(), RecordDict({"payload": ConfigRecord({})}), payload("?")):
        with pytest.raises(DataError):
            read(kind, sent(content))
    with pytest.raises(DataError, match="expected bytes"):
        read(kind, sent(RecordDict({"payload": ConfigRecord({"json": "{}"})})))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_readings_that_are_no_numbers_are_refused(value):
    rows = ((0.5, value),)
    reply = AuditReply("j", 0, "ok", arms={"never": {"forgotten": Readings(rows, rows, rows, rows)}})
    with pytest.raises(DataError, match=r"query\.test is not a AuditReply"):
        read(AuditReply, sent(write(reply)))


def test_a_status_or_scope_that_does_not_exist_is_refused():
    for kind, value in (
        (ProbeReply, {"slot": 1, "status": "fine"}),
        (UnlearnReply, {"job": "j", "slot": 1, "status": ""}),
    ):
        with pytest.raises(DataError):
            read(kind, sent(payload(value)))


@given(st.dictionaries(st.text(min_size=1, max_size=9), st.binary(max_size=50), max_size=3))
def test_bytes_travel_beside_a_payload_untouched(parts):
    message = sent(write(Whoami("run"), blobs=parts))
    assert blobs(message) == parts
    assert read(Whoami, message) == Whoami("run")


def test_no_answer_has_room_for_a_waveform():
    """Answers hold text, numbers and margins; only requests carry settings, and only the server sends bytes."""
    for kind in (Identity, PersonaliseReply, ProbeReply, UnlearnReply, AuditReply, VerifyReply):
        assert not any(hint is bytes for hint in get_type_hints(kind).values())
