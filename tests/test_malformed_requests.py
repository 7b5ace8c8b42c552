"""A device that is asked what it cannot understand refuses with a status, and its files stay as they are."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from local_grid import FIRST_NODE
from safetensors.numpy import save

from shared.audit_messages import AUDIT, VERIFY, AuditReply, AuditRequest, VerifyReply, VerifyRequest
from shared.fields import MOST_BYTES_OF_WORDS
from shared.messages import (
    PERSONALISE,
    PROBE,
    UNLEARN,
    PersonaliseReply,
    PersonaliseRequest,
    ProbeReply,
    ProbeRequest,
    UnlearnReply,
    UnlearnRequest,
    read,
    write,
)
from shared.model import digest
from shared.package import MODEL, PUBLIC, TEMPLATE
from shared.settings import Personalisation, Unlearning

PARTS = (("1",), ("exact",))
REQUESTS: dict[str, tuple[type, type, Any]] = {
    PERSONALISE: (
        PersonaliseRequest,
        PersonaliseReply,
        PersonaliseRequest("r", "a" * 64, "b" * 64, ("1",), Personalisation()),
    ),
    PROBE: (ProbeRequest, ProbeReply, ProbeRequest("r", 0.3, (0.0,))),
    AUDIT: (
        AuditRequest,
        AuditReply,
        AuditRequest("j-1", "records", *PARTS, Personalisation(), Unlearning(), 2, 0.05, 7),
    ),
    UNLEARN: (
        UnlearnRequest,
        UnlearnReply,
        UnlearnRequest("j-1", "patient", *PARTS, "exact", Personalisation(), Unlearning(), (0.0,), True),
    ),
    VERIFY: (VerifyRequest, VerifyReply, VerifyRequest("j-1", "records", ("1",), Personalisation(), False, True)),
}


def edited(request: Any, name: str, to: Any) -> RecordDict:
    return raw(json.dumps(json.loads(json.dumps(asdict(request))) | {name: to}).encode())


def raw(data: bytes) -> RecordDict:
    return RecordDict({"payload": ConfigRecord({"json": data})})


ANY: dict[str, tuple[Callable[[Any], RecordDict], str]] = {
    "nothing": (lambda _: RecordDict(), "it has no 'payload'"),
    "half": (
        lambda r: RecordDict({"payload": ConfigRecord({"json": bytes(write(r)["payload"]["json"][:-5])})}),
        "JSON",
    ),
    "one field more": (lambda r: edited(r, "shell", "rm"), "shell: Unexpected keyword"),
    "too much": (lambda r: edited(r, "run", "x" * MOST_BYTES_OF_WORDS), "bytes, expected at most"),
}
ABOUT = [
    (PERSONALISE, "records", ["../../1"], "cannot name a file"),
    (PERSONALISE, "general", "../general", "general: String should match"),
    (PERSONALISE, "settings", {"steps": "many"}, "settings.steps: Input should be"),
    (PROBE, "epsilons_sd", [float("nan")], "epsilons_sd.0: Input should be"),
    (PROBE, "held_out", 2.0, "held_out: Input should be"),
    (AUDIT, "copies", -1, "copies: Input should be"),
    (AUDIT, "copies", True, "copies: Input should be"),
    (AUDIT, "scope", "all", "scope: Input should be"),
    (AUDIT, "methods", ["wishing"], "wishing"),
    (UNLEARN, "job", "../../registry", "cannot name a file"),
    (UNLEARN, "records", "1", "records: Input should be"),
    (UNLEARN, "scope", "everybody", "scope: Input should be"),
    (VERIFY, "job", "", "cannot name a file"),
    (VERIFY, "white_box", "yes", "white_box: Input should be"),
]
CASES = [
    pytest.param(kind, make, named, id=f"{kind}-{name}") for kind in REQUESTS for name, (make, named) in ANY.items()
]
CASES += [
    pytest.param(kind, lambda r, name=name, to=to: edited(r, name, to), named, id=f"{kind}-{name}-{number}")
    for number, (kind, name, to, named) in enumerate(ABOUT)
]


def files(fleet) -> dict[str, str]:
    paths = [path for path in fleet.workspace.devices.rglob("*") if path.is_file()]
    return {path.as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


@pytest.mark.parametrize(("kind", "make", "named"), CASES)
def test_what_cannot_be_understood_is_refused_with_a_status_and_changes_nothing(fleet, kind, make, named):
    before = files(fleet)
    _, reply, request = REQUESTS[kind]
    message = Message(make(request), dst_node_id=FIRST_NODE, message_type=kind)
    (answer,) = fleet.grid.send_and_receive([message])
    told = read(reply, answer)
    assert (told.slot, told.status) == (0, "refused")
    assert named in told.reason
    assert files(fleet) == before


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), None])
def test_a_general_model_that_is_no_model_takes_no_sound_one_s_place(fleet, bad):
    before = files(fleet)
    weights = b"none" if bad is None else save({"head.weight": np.array([bad], dtype=np.float32)})
    request = PersonaliseRequest("r", digest(weights), "b" * 64, ("1",), Personalisation())
    parts = {MODEL: weights, TEMPLATE: b"t", PUBLIC: b"p"}
    message = Message(write(request, blobs=parts), dst_node_id=FIRST_NODE, message_type=PERSONALISE)
    (answer,) = fleet.grid.send_and_receive([message])
    told = read(PersonaliseReply, answer)
    assert told.status == "refused"
    assert "weights that came" in told.reason
    assert files(fleet) == before
