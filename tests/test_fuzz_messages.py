"""What comes in place of a message, a signed statement or a setting: taken, or refused with an error of ours."""

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from certified import NOW, Hospital
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from fuzzing import altered, broken, fuzz, json_values, little_memory
from hypothesis import given
from hypothesis import strategies as st
from payloads import PAYLOADS
from securesystemslib.dsse import Envelope
from test_lying_devices import GENERAL, KINDS, SETTINGS, _audit_request, honest, job_of
from test_malformed_requests import REQUESTS

from client import bundle, envelope
from client.standing import Device, standing
from server import evidence, keys
from server.answers import check_looked, check_personal, check_probe, check_unlearned
from server.auditor import look
from server.comparison import check_reply
from server.results import describe_personal, describe_probe, describe_withdrawal
from server.run import Withdrawal
from server.verification import verify
from server.workspace_settings import of_workspace
from shared.audit_messages import AUDIT, VERIFY, AuditReply, VerifyReply
from shared.errors import BundleError, LetheError
from shared.messages import PERSONALISE, PROBE, UNLEARN, PersonaliseReply, ProbeReply, UnlearnReply, Whoami, read, write
from shared.revocation import KIND as REVOCATION
from shared.revocation import Revocation
from shared.settings import Settings, numbers
from shared.unlearning import parse_methods
from simulations.scenarios import scenario, with_assignments

ANSWERS = {
    PersonaliseReply: PERSONALISE,
    ProbeReply: PROBE,
    AuditReply: AUDIT,
    UnlearnReply: UNLEARN,
    VerifyReply: VERIFY,
}
VALID = {type(one): one for one in (Whoami("r"), *(request for _, _, request in REQUESTS.values()))}
VALID |= {type(honest(kind, 0)): honest(kind, 0) for kind in KINDS}


@pytest.fixture(autouse=True)
def _limits() -> Iterator[None]:
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1
    with little_memory():
        yield


def sent(data: bytes) -> Message:
    return Message(RecordDict({"payload": ConfigRecord({"json": data})}), dst_node_id=1, message_type="query.test")


def refused_or(kind: type, data: bytes) -> Any:
    """What is read, None where it is refused; anything else is a bug."""
    said = ""
    try:
        return read(kind, sent(data))
    except LetheError as error:
        said = str(error)
    assert said.isprintable()
    assert len(said) < 2000
    return None


@pytest.mark.parametrize("kind", VALID, ids=lambda kind: kind.__name__)
def test_a_message_is_read_or_refused(kind):
    true = bytes(write(VALID[kind])["payload"]["json"])
    other = (altered(json.loads(true)) | json_values).map(lambda told: json.dumps(told).encode())

    @fuzz
    @given(other | broken(true) | st.binary(max_size=99))
    def check(text: bytes) -> None:
        found = refused_or(kind, text)
        if found is not None:
            assert isinstance(found, kind)
            assert read(kind, sent(bytes(write(found)["payload"]["json"]))) == found

    check()


def test_every_message_is_fuzzed():
    assert set(VALID) == set(PAYLOADS)


@pytest.mark.parametrize("kind", ANSWERS, ids=lambda kind: kind.__name__)
def test_what_is_made_of_an_answer_is_told_or_refused(kind):
    true = json.loads(json.dumps(asdict(honest(ANSWERS[kind], 0))))

    @fuzz
    @given(altered(true))
    def check(told: Any) -> None:
        found = refused_or(kind, json.dumps(told).encode())
        if found is not None:
            with suppress(LetheError):
                json.dumps(_made_of(found), allow_nan=False)

    check()


def _made_of(reply: Any) -> Any:
    """What a run makes of an answer that it has checked."""
    job = job_of(0)
    if isinstance(reply, PersonaliseReply):
        check_personal(reply, general=GENERAL, records=2)
        return describe_personal({0: reply}, {0: "p-0"}, GENERAL)
    if isinstance(reply, ProbeReply):
        check_probe(reply, strengths=2)
        return describe_probe({0: reply}, SETTINGS)
    if isinstance(reply, AuditReply):
        check_reply(reply, _audit_request(job), slot=0, kept=True)
        return look(reply, "exact", exact=True, seed=7) if reply.status == "ok" else reply.reason
    if isinstance(reply, UnlearnReply):
        check_unlearned(reply, job, strengths=2)
        return describe_withdrawal(Withdrawal(job, reply), "p-0", SETTINGS)
    check_looked(reply, job.id)
    return asdict(reply)


# Signed statements

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
ABOUT = bundle.About("a" * 64, 9, "b" * 64, "b" * 64, 16, "single", "c" * 64)
MANIFEST = bundle.issue(ABOUT, key=KEY, today=date(2026, 1, 1), valid_days=90)
SAID = json.loads(json.dumps(asdict(bundle.Manifest(**asdict(ABOUT), issued="2026-01-01", valid_until="2026-04-01"))))
LIST = Revocation(0, frozenset({"1", "2"}), 3).content()


@pytest.fixture
def device(tmp_path: Path) -> Device:
    """A wearable's folder with its key, the hospital's (the same one here), and a general model in use."""
    folder = tmp_path / "device"
    folder.mkdir()
    public = KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    for name in (envelope.PUBLIC, envelope.HOSPITAL):
        (folder / name).write_bytes(public)
    (folder / "state.json").write_text(json.dumps({"general": "b" * 64, "bundle": "a" * 64, "records": ["1"]}))
    return Device(folder=folder, slot=0, revocations=tmp_path / "0.revoked.json")


def _broken_or_signed(valid: bytes, content: Any, kind: str) -> st.SearchStrategy[bytes]:
    """The file with bytes changed, or another content under the right key."""

    def signed(told: Any) -> bytes:
        with suppress(ValueError):  # NaN cannot be signed
            return envelope.sign(told, kind=kind, key=KEY)
        return b""

    return broken(valid) | altered(content).map(signed) | json_values.map(signed) | st.binary(max_size=99)


def test_a_manifest_is_believed_or_refused(device):
    @fuzz
    @given(_broken_or_signed(MANIFEST, SAID, bundle.KIND))
    def check(data: bytes) -> None:
        (device.folder / bundle.MANIFEST).write_bytes(data)
        with suppress(BundleError):
            assert bundle.read(device.folder, public=device.folder, today=date(2026, 2, 1)).bundle
        with suppress(LetheError):
            standing(device, today=date(2026, 2, 1))

    check()


def test_a_list_of_withdrawn_records_is_believed_or_nothing_of_the_patient_runs(device):
    personal = replace(ABOUT, model="c" * 64)
    (device.folder / bundle.MANIFEST).write_bytes(
        bundle.issue(personal, key=KEY, today=date(2026, 1, 1), valid_days=90)
    )

    @fuzz
    @given(_broken_or_signed(envelope.sign(LIST, kind=REVOCATION, key=KEY), LIST, REVOCATION))
    def check(data: bytes) -> None:
        device.revocations.write_bytes(data)
        with suppress(LetheError):
            assert standing(device, today=date(2026, 2, 1)).kind == "personal"

    check()


def test_a_device_s_state_is_used_or_refused(device):
    (device.folder / bundle.MANIFEST).write_bytes(
        bundle.issue(replace(ABOUT, model="c" * 64), key=KEY, today=date(2026, 1, 1), valid_days=90)
    )
    device.revocations.write_bytes(envelope.sign(LIST, kind=REVOCATION, key=KEY))
    valid = (device.folder / "state.json").read_bytes()

    @fuzz
    @given(broken(valid) | altered(json.loads(valid)).map(lambda told: json.dumps(told).encode()))
    def check(data: bytes) -> None:
        (device.folder / "state.json").write_bytes(data)
        with suppress(LetheError):
            standing(device, today=date(2026, 2, 1))

    check()


@pytest.fixture(scope="module")
def issued(tmp_path_factory) -> tuple[bytes, bytes, Any]:
    """A certificate, the public key, and what signs."""
    hospital = Hospital.found(tmp_path_factory.mktemp("certified") / "home")
    return hospital.issue().read_bytes(), hospital.public, keys.signer(hospital.workspace.keys)


def test_a_certificate_is_judged_or_refused(issued):
    data, public, signer = issued
    said = json.loads(evidence.read(data).payload)

    def signed(told: Any) -> bytes:
        try:
            payload = json.dumps(told, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
        except ValueError:
            return b""
        sealed = Envelope(payload, evidence.PAYLOAD_TYPE, {})
        sealed.sign(signer)
        return evidence.write(sealed)

    @fuzz
    @given(broken(data), altered(said).map(signed) | json_values.map(signed) | st.binary(max_size=99))
    def check(changed: bytes, other: bytes) -> None:
        with suppress(LetheError):
            assert verify(changed, [public], now=NOW).accepted == (changed == data)
        with suppress(LetheError):
            assert verify(other, [public], now=NOW).sentence

    check()


# Settings

FLAT = Settings().flat()


NAMES = st.sampled_from([*FLAT, "general", "general.", ".width", "home", ""])
ASSIGNED = st.tuples(NAMES, st.text(max_size=12) | json_values.map(repr)).map("=".join)


@fuzz
@given(st.lists(ASSIGNED | st.text(max_size=20), max_size=3))
def test_what_set_is_given_is_a_setting_or_refused(given_texts):
    with suppress(LetheError):
        settings = with_assignments(Settings(), given_texts)
        assert {type(value) for value in settings.flat().values()} <= {bool, int, float, str}


def test_a_settings_file_is_read_or_refused(tmp_path):
    lines = "".join(f"{json.dumps(key)} = {json.dumps(value)}\n" for key, value in FLAT.items())
    nested = "[general]\nwidth = 16\n[audit]\ncopies = 3\n"

    @fuzz
    @given(broken(lines.encode()) | broken(nested.encode()) | st.binary(max_size=80))
    def check(data: bytes) -> None:
        (tmp_path / "settings.toml").write_bytes(data)
        for reads in (lambda: scenario(str(tmp_path / "settings.toml")), lambda: of_workspace(tmp_path)):
            with suppress(LetheError):
                assert isinstance(reads(), Settings)

    check()


@fuzz
@given(st.text(max_size=30))
def test_lists_in_settings_are_read_or_refused(text):
    for reads in (numbers, parse_methods):
        with suppress(LetheError):
            assert reads(text)
