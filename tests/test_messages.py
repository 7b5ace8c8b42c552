"""What travels: every payload comes back as it was sent, and nothing else is taken for one."""

import dataclasses
import json
from typing import get_type_hints

import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from hypothesis import given
from hypothesis import strategies as st
from payloads import PAYLOADS

from shared import audit_messages, messages
from shared.audit_messages import AuditReply, Readings, VerifyReply
from shared.errors import DataError
from shared.messages import (
    Accuracies,
    ErasedFile,
    GroupMargins,
    Identity,
    MethodOutcome,
    PersonaliseReply,
    ProbeReply,
    UnlearnReply,
    Whoami,
    blobs,
    read,
    write,
)
from shared.settings import Personalisation, Unlearning


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
