"""A certificate: issued for PASS only, naming nobody, and refused when a single byte of it is another."""

import base64
import copy
import json
import re
import subprocess
import sys
from dataclasses import replace
from datetime import timedelta
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from securesystemslib.dsse import Envelope

from server import evidence, keys
from server.auditor import judge_job, look
from server.certificate import audit_of, issue
from server.ledger import following
from server.recount import BYTES_ALONE, contradictions
from server.registry import Enrolment, Registry
from server.statement import BUNDLE as BUNDLE_NAME
from server.statement import MODEL as MODEL_NAME
from server.statement import Audit
from server.verdict_words import job_words, statistics_words
from server.verdicts import COPIES, GENERAL, NO_MODEL, STANDS_IN
from server.verification import verify
from shared.audit_messages import AuditReply, Readings
from shared.errors import AuditError, DataError, UsageError, WorkspaceError
from shared.inference import auc_interval, auc_p, rate
from shared.settings import Settings
from tests.certified import (
    BUNDLE,
    MODEL,
    NOW,
    PATIENT,
    RECORDS,
    REMADE,
    Hospital,
    acknowledgement,
    approximate,
    check,
    checks,
    digest,
    job,
    looked,
    statistics,
    verdict,
    verified,
)

EMPTY = digest(b"")  # of no bytes
FILES = {MODEL_NAME: digest(MODEL), BUNDLE_NAME: digest(BUNDLE)}
ORDER = 2**252 + 27742317777372353535851937790883648493  # of Ed25519's group


@pytest.fixture(scope="module")
def hospital(tmp_path_factory) -> Hospital:
    return Hospital.found(tmp_path_factory.mktemp("hospital") / "home")


@pytest.fixture(scope="module")
def data(hospital) -> bytes:
    return hospital.issue().read_bytes()


def failed(report) -> set[str]:
    return {finding.check for finding in report.findings if finding.holds is False}


def refused(data: bytes, public: bytes, **options) -> bool:
    try:
        return not verify(data, [public], **{"now": NOW, **options}).accepted
    except DataError:
        return True


def told(data: bytes) -> dict:
    return json.loads(base64.b64decode(json.loads(data)["payload"]))


def forged(hospital: Hospital, data: bytes, change) -> bytes:
    """Sign a changed statement with the hospital's own key, as a hospital might that wants to cheat."""
    content = told(data)
    change(content)
    signer = keys.signer(hospital.workspace.keys)
    envelope = Envelope(json.dumps(content, sort_keys=True, separators=(",", ":")).encode(), evidence.PAYLOAD_TYPE, {})
    envelope.sign(signer)
    return evidence.write(envelope)


def test_what_is_issued_is_accepted_with_the_public_key_alone(hospital, data):
    report = verify(data, [hospital.public], now=NOW, files=FILES)
    assert report.accepted
    assert report.sentence.startswith("Accepted")
    assert {f.check: f.holds for f in report.findings} == {
        **dict.fromkeys(("form", "signature", "statement", "verdict", "evidence", "figures", "lineage", "dates"), True),
        **dict.fromkeys(("validity", MODEL_NAME, BUNDLE_NAME), True),
        "ledger": None,
    }


def test_it_says_what_was_done(data):
    content = told(data)
    assert content["_type"] == "https://in-toto.io/Statement/v1"
    assert content["predicateType"] == "urn:lethe:unlearning-certificate:v1"
    assert {one["name"]: one["digest"]["sha256"] for one in content["subject"]} == {
        "served-model": digest(MODEL),
        "served-bundle.onnx": digest(BUNDLE),
    }
    said = content["predicate"]
    assert said["request"] == {
        "requested_at": "2026-03-01T09:00:00.000+00:00",
        "deadline": "2026-03-31T09:00:00.000+00:00",
        "kept": True,
        "scope": "records",
        "records": 2,
    }
    assert said["erased"] == {
        "where": "device",
        "at": "2026-03-10T11:58:00.000+00:00",
        "files": 2,
        "bytes": 1234,
        "segments": 20,
    }
    assert said["lineage"] == {"general": "a" * 64, "before": "b" * 64, "after": digest(MODEL)}
    assert said["ledger"] == {"seq": 41, "hash": "c" * 64}
    assert said["version"]["data"] == "e" * 64
    assert said["subject"] == "d" * 64
    assert said["audit"]["mode"] == "device"
    assert type(said["audit"]["after"]["n"]) is int
    assert b'"n":160,' in base64.b64decode(json.loads(data)["payload"])


def test_it_names_neither_patient_nor_record_nor_job_nor_path(hospital, data):
    text = base64.b64decode(json.loads(data)["payload"]).decode()
    names = [PATIENT, *RECORDS, *(record.split("-")[1] for record in RECORDS), job().id, str(hospital.workspace.home)]
    assert [name for name in [*names, "0.123456789"] if name in text] == []  # the last is what one copy said


def test_what_a_device_says_of_its_refusal_does_not_get_in(hospital):
    path = hospital.issue(verdict(looks=[], words=f"refused: /data/{RECORDS[0]} is full"))
    assert "/data" not in json.dumps(told(path.read_bytes()))
    assert verify(path.read_bytes(), [hospital.public], now=NOW).accepted


def test_the_key_that_signs_is_noted_before_the_head_is_taken(hospital):
    hospital.issue()
    assert hospital.noted[-1] == keys.fingerprint(hospital.public)


def test_no_byte_of_the_file_can_be_changed(hospital, data):
    for place in range(len(data)):
        byte = data[place] ^ 1 << place % 8
        assert refused(data[:place] + bytes([byte]) + data[place + 1 :], hospital.public), place


def test_no_byte_can_be_lost_or_added(hospital, data):
    for place in range(0, len(data), 7):
        assert refused(data[:place] + data[place + 1 :], hospital.public)
        assert refused(data[:place] + data[place : place + 1] + data[place:], hospital.public)
    for more in (b"\n", b" ", b"\0", b"{}"):
        assert refused(data + more, hospital.public)


@pytest.mark.parametrize("length", [0, 1, 10, 1000, -1, -2, -200])
def test_a_truncated_file_is_no_certificate(hospital, data, length):
    with pytest.raises(DataError):
        verify(data[:length], [hospital.public], now=NOW)


@pytest.mark.parametrize(
    "content",
    [
        b"null",
        b"[]",
        b"7",
        b"{}",
        b'{"payload":1,"payloadType":"x","signatures":[]}',
        b'{"payload":"","payloadType":"x","signatures":[{}]}',
        b'{"payload":"","payloadType":"x","signatures":[7]}',
        b'{"payload":"","payloadType":"application/vnd.in-toto+json","signatures":[]}',
        b'{"payload":"","payloadType":7,"signatures":[]}',
        b"[" * 100_000,
        b"\xff\xfe",
        b" " * 2_000_000,
        '{"payload": "\ud800"}'.encode("utf-8", "surrogatepass"),
        *(
            b'{"payload":"","payloadType":"application/vnd.in-toto+json","signatures":[{"keyid":%s,"sig":""}]}' % keyid
            for keyid in (b"5", b"null", b'"\\ud800"', b'"\\r\\u001b[2KAccepted: ok"', b'""')
        ),
    ],
)
def test_what_is_no_certificate_is_named_so(hospital, content):
    with pytest.raises(DataError, match="expected"):
        verify(content, [hospital.public], now=NOW)


def test_the_same_envelope_written_otherwise_is_refused(hospital, data):
    envelope = json.loads(data)
    signature = envelope["signatures"][0]
    raw = bytearray(base64.b64decode(signature["sig"]))
    raw[32:] = (int.from_bytes(raw[32:], "little") + ORDER).to_bytes(32, "little")
    variants = [
        {**envelope, "more": 1},
        {**envelope, "signatures": [{**signature, "note": "unsigned"}]},
        {**envelope, "signatures": [signature, {**signature, "keyid": "0" * 64}]},
        {**envelope, "signatures": [{**signature, "keyid": "0" * 64}]},
        {**envelope, "signatures": [{**signature, "sig": base64.b64encode(raw).decode()}]},
        {**envelope, "payloadType": "application/json"},
    ]
    for variant in variants:
        assert refused(json.dumps(variant, sort_keys=True, separators=(",", ":")).encode() + b"\n", hospital.public)
    assert refused(json.dumps(envelope, indent=2).encode(), hospital.public)
    assert not refused(json.dumps(envelope, sort_keys=True, separators=(",", ":")).encode() + b"\n", hospital.public)


def test_another_key_verifies_nothing(data, tmp_path):
    other = Hospital.found(tmp_path / "other")
    report = verify(data, [other.public], now=NOW, files=FILES)
    assert failed(report) == {"signature"}
    assert report.certificate is None
    assert "Accepted" not in report.sentence


def test_a_pass_that_somebody_else_signed_is_refused(hospital, tmp_path):
    other = Hospital.found(tmp_path / "other")
    envelope = json.loads(other.issue().read_bytes())
    assert refused(evidence.write(Envelope.from_dict(json.loads(json.dumps(envelope)))), hospital.public)
    envelope["signatures"][0]["keyid"] = keys.fingerprint(hospital.public)
    report = verify(evidence.write(Envelope.from_dict(envelope)), [hospital.public], now=NOW)
    assert failed(report) == {"signature"}


def test_a_key_must_be_given_and_be_a_public_one(data):
    with pytest.raises(UsageError, match="no public key"):
        verify(data, [], now=NOW)
    with pytest.raises(DataError, match="no public key in PEM"):
        verify(data, [b"ssh-ed25519 AAAA"], now=NOW)


def test_after_a_rotation_old_certificates_verify_with_the_key_that_is_kept(tmp_path):
    hospital = Hospital.found(tmp_path / "home")
    before = hospital.issue().read_bytes()
    keys.rotate(hospital.workspace.keys)
    after = hospital.issue().read_bytes()
    new, old = (key.path.read_bytes() for key in keys.known(hospital.workspace.keys))
    for data, good, bad in ((before, old, new), (after, new, old)):
        assert verify(data, [good], now=NOW).accepted
        assert verify(data, [bad, good], now=NOW).accepted
        assert failed(verify(data, [bad], now=NOW)) == {"signature"}


@pytest.mark.parametrize(
    ("days", "says"),
    [(3650, "expired"), (36500, "expired"), (-1, "clock"), (3649.99, None), (-0.003, None)],
)
def test_it_holds_from_its_issue_to_its_end(hospital, data, days, says):
    report = verify(data, [hospital.public], now=NOW + timedelta(days=days))
    assert report.accepted == (says is None)
    assert says is None or says in report.sentence


@pytest.mark.parametrize("name", [MODEL_NAME, BUNDLE_NAME])
def test_a_file_with_one_bit_changed_is_not_the_certified_one(hospital, data, name):
    whole = {MODEL_NAME: MODEL, BUNDLE_NAME: BUNDLE}[name]
    for byte in range(len(whole)):
        changed = bytearray(whole)
        changed[byte] ^= 1 << byte % 8
        report = verify(data, [hospital.public], now=NOW, files={**FILES, name: digest(bytes(changed))})
        assert failed(report) == {name}


def test_bundle_and_model_cannot_be_swapped(hospital, data):
    report = verify(data, [hospital.public], now=NOW, files={MODEL_NAME: digest(BUNDLE), BUNDLE_NAME: digest(MODEL)})
    assert failed(report) == {MODEL_NAME, BUNDLE_NAME}


def test_the_ledger_must_still_have_the_entry_that_was_its_head(tmp_path):
    hospital, entries = Hospital.found(tmp_path / "home"), []
    for number in range(4):
        last = entries[-1] if entries else None
        entries.append(following(last, at=f"2026-03-0{number + 1}", kind="run", subject="", body={"n": number}))
    hospital.head = (entries[2].seq, entries[2].hash)
    data = hospital.issue().read_bytes()
    body = {"detail": {"certificate": {"sha256": digest(data)}}}
    entries.append(following(entries[-1], at="2026-03-05", kind="certificate", subject="", body=body))
    later = following(entries[-1], at="2026-03-06", kind="run", subject="", body={})
    holds = {"whole": entries, "longer": [*entries, later]}
    breaks = {
        "cut off before its issue was entered": entries[:4],
        "cut off before it": entries[:2],
        "one changed": [entries[0], replace(entries[1], body='{"n":9}'), *entries[2:]],
        "empty": [],
    }
    for ledger in holds.values():
        assert verify(data, [hospital.public], now=NOW, ledger=ledger).accepted
    for ledger in breaks.values():
        assert failed(verify(data, [hospital.public], now=NOW, ledger=ledger)) == {"ledger"}


def _set(*path, to):
    def change(content):
        for part in path[:-1]:
            content = content[part]
        content[path[-1]] = to

    return change


def doubled(rows):
    rows.append(rows[0])


def twice(audit):
    """A second look after a first one that refuted nothing."""
    audit["earlier"], audit["seeds"] = [audit["after"]], [7, 8]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (_set("predicate", "audit", "verdict", to="FAIL"), "verdict"),
        (_set("predicate", "audit", "verdict", to="INCONCLUSIVE"), "verdict"),
        (_set("predicate", "audit", "bytes", "checks", 0, "holds", to=False), "evidence"),
        (_set("predicate", "audit", "bytes", "holds", to=False), "evidence"),
        (_set("predicate", "audit", "bytes", "checks", to=[]), "evidence"),
        *(
            (_set("predicate", "audit", "bytes", "checks", 0, key, to="f" * 64), "evidence")
            for key in ("seen", "expected")
        ),
        (lambda content: content["predicate"]["audit"]["bytes"]["checks"].pop(), "evidence"),
        (lambda content: doubled(content["predicate"]["audit"]["bytes"]["checks"]), "evidence"),
        (_set("predicate", "audit", "mode", to="white-box"), "evidence"),
        (_set("predicate", "audit", "after", "verdict", to="FAIL"), "figures"),
        (_set("predicate", "audit", "after", "method", to="finetune"), "figures"),
        (_set("predicate", "audit", "after", to=None), "figures"),
        (_set("predicate", "audit", "before", to=None), "figures"),
        (_set("predicate", "audit", "words", to="All is well."), "figures"),
        (_set("predicate", "audit", "copies", to=1000), "figures"),
        (_set("predicate", "audit", "seeds", to=[7, 8]), "figures"),
        (lambda content: twice(content["predicate"]["audit"]), "figures"),
        (_set("predicate", "method", "exact", to=False), "figures"),
        (_set("predicate", "method", "name", to="general model"), "evidence"),
        (_set("predicate", "request", "scope", to="patient"), "evidence"),
        (_set("predicate", "audit", "after", "scores", 0, "low95", to=0.6), "figures"),
        (_set("predicate", "audit", "seeds", to=[]), "figures"),
        (_set("predicate", "request", "kept", to=False), "dates"),
        (_set("predicate", "valid_until", to="2026-03-09T00:00:00+00:00"), "dates"),
        (_set("predicate", "lineage", "after", to="f" * 64), "lineage"),
        (_set("subject", 1, "digest", "sha256", to="f" * 64), "lineage"),
        (_set("predicate", "key", to="f" * 64), "statement"),
    ],
)
def test_a_signature_does_not_make_a_contradiction_true(hospital, data, change, named):
    report = verify(forged(hospital, data, change), [hospital.public], now=NOW)
    assert not report.accepted
    assert named in failed(report)


def renamed(name, *, exact=True):
    """Another method's name wherever the method is named, so that no figure contradicts it."""

    def change(content):
        told = content["predicate"]
        told["method"] = {"name": name, "exact": exact}
        for part in ("after", "retained"):
            found = told["audit"][part]
            found |= {"method": name, "words": found["words"].replace("'exact'", repr(name))}
        told["audit"]["words"] = told["audit"]["words"].replace("'exact'", repr(name))

    return change


def moved_to_the_hospital(content):
    """A wearable's withdrawal that calls itself the hospital's, for which fewer bytes are compared."""
    told = content["predicate"]
    told["erased"]["where"] = "hospital"
    names = ("model as acknowledged", "withdrawn records", "lineage of the general model")
    kept = [one for one in told["audit"]["bytes"]["checks"] if one["name"] in names]
    told["audit"]["bytes"]["checks"] = [*kept, check(COPIES, "none")]


def without_copies(content):
    content["predicate"]["audit"] |= {"before": None, "after": None, "retained": None, "seeds": [], "copies": 0}
    content["predicate"]["audit"]["words"] = BYTES_ALONE


def of_the_hospital(content, *, segments=0, bundle=EMPTY, general=None):
    """What the hospital says of its general model, made again; and what it cannot say. `general` "" is no model."""
    moved_to_the_hospital(content)
    without_copies(content)
    told = content["predicate"]
    told["erased"]["segments"] = segments
    told["lineage"]["general"] = general or told["lineage"]["after"]
    if general == "":
        told["lineage"] |= {"general": "", "after": ""}
        told["audit"]["bytes"]["checks"][0] = check("model as acknowledged", "none")
        content["subject"][1]["digest"]["sha256"] = EMPTY
    content["subject"][0]["digest"]["sha256"] = bundle


def test_what_the_hospital_can_say_of_its_general_model_is_accepted(hospital, data):
    assert not refused(forged(hospital, data, of_the_hospital), hospital.public)


def lose(number, content):
    del content["predicate"]["audit"]["bytes"]["checks"][number]


def of_everything(content):
    """A full withdrawal after which another model than the general one is in use."""
    told = content["predicate"]
    told["request"]["scope"] = "patient"
    told["audit"]["bytes"]["checks"][-2:] = [check(GENERAL, told["lineage"]["general"])]


def of_everything_with_what_is_kept(content):
    """A full withdrawal, after which nothing is kept that could be compared."""
    of_everything(content)
    told = content["predicate"]
    told["lineage"]["general"] = told["lineage"]["after"]
    told["audit"]["bytes"]["checks"][-1] = check(GENERAL, told["lineage"]["after"])


def without_a_model(content, *, bundle=True):
    """Exact unlearning after which no model is in use, without copies; with a bundle or without."""
    without_copies(content)
    told, names = content["predicate"], ("model as acknowledged", "lineage of the general model")
    told["lineage"]["after"] = ""
    content["subject"][1]["digest"]["sha256"] = EMPTY
    kept = [one for one in told["audit"]["bytes"]["checks"][:5] if one["name"] not in names]
    told["audit"]["bytes"]["checks"] = [*kept, check(names[0], "none"), check(names[1], "no withdrawn record")]
    told["audit"]["bytes"]["checks"].append(check(NO_MODEL, "none"))
    if not bundle:
        without_a_bundle(content)


def without_a_bundle(content):
    content["subject"][0]["digest"]["sha256"] = EMPTY
    checked = content["predicate"]["audit"]["bytes"]["checks"]
    checked[:] = [check(one["name"], "none") if one["name"].startswith("ONNX") else one for one in checked]


def standing_in(content, *, copies=True):
    """The general model in a method's place, with copies of a method, or without."""
    told = content["predicate"]
    renamed(STANDS_IN)(content)
    told["lineage"]["general"] = told["lineage"]["after"]
    told["audit"]["bytes"]["checks"][-2:] = [check(GENERAL, told["lineage"]["after"])]
    if not copies:
        without_copies(content)


def test_the_general_model_in_a_methods_place_is_accepted_without_copies(hospital, data):
    assert not refused(forged(hospital, data, partial(standing_in, copies=False)), hospital.public)


def extra(content):
    content["predicate"]["audit"]["bytes"]["checks"].append(check("backups wiped, approved by the regulator", "yes"))


@pytest.mark.parametrize(
    ("change", "named", "says"),
    [
        (renamed("finetune"), "evidence", "'finetune' is not exact, and it says otherwise"),
        (renamed("100 % GDPR-safe"), "evidence", "no device unlearns by '100 % GDPR-safe'"),
        (renamed("sisa"), "evidence", "no device unlearns by 'sisa'"),
        *(
            (partial(lose, number), "evidence", f"there is no check of '{one['name']}'")
            for number, one in enumerate(checks(*REMADE)["checks"])
        ),
        (of_everything, "evidence", "the model in use is not the general one"),
        *(
            (_set("predicate", "erased", "at", to=f"2026-{at}:00.000+00:00"), "dates", "erased before it was requested")
            for at in ("03-01T08:54", "03-10T12:06")
        ),
        (of_everything_with_what_is_kept, "evidence", "keeps nothing, and there are figures of what is kept"),
        (without_a_model, "evidence", "or the file without its model"),
        (partial(without_a_model, bundle=False), "evidence", "'exact' made the model in use, and none is"),
        (without_a_bundle, "evidence", "a model is in use without its ONNX file"),
        (standing_in, "evidence", "the general model stands in for a copy that no method made"),
        (_set("predicate", "erased", "files", to=0), "evidence", "20 segments and 1234 bytes were erased, and no file"),
        (_set("predicate", "lineage", "general", to=""), "evidence", "comes from no general model"),
        (partial(of_the_hospital, general=""), "evidence", "and there is none"),
        (_set("subject", 0, "digest", "sha256", to=digest(MODEL)), "evidence", "or of its ONNX file"),
        (_set("predicate", "audit", "before", "segments", to=5), "figures", "compared on other segments"),
        (_set("predicate", "audit", "before", "certainty", to=0.5), "figures", "or with other copies"),
        (extra, "evidence", "nobody checks 'backups wiped, approved by the regulator'"),
        (moved_to_the_hospital, "evidence", "a hospital makes its general model anew and no bundle"),
        (partial(of_the_hospital, segments=20), "evidence", "has no segments of a wearable"),
        (partial(of_the_hospital, bundle="f" * 64), "evidence", "the model or the bundle is another"),
        (partial(of_the_hospital, general="a" * 64), "evidence", "the model or the bundle is another"),
        (
            lambda content: content["predicate"]["request"].update(
                deadline="2020-01-01T00:00:00.000+00:00", kept=False
            ),
            "dates",
            "the deadline is before the request",
        ),
        (lambda content: content["subject"].reverse(), "statement", "its subject is served-model and served-bundle"),
        (_set("subject", 1, "name", to="served-bundle.onnx"), "statement", "expected served-bundle.onnx and served-m"),
    ],
)
def test_what_no_withdrawal_is_cannot_be_signed_into_one(hospital, data, change, named, says):
    report = verify(forged(hospital, data, change), [hospital.public], now=NOW)
    assert named in failed(report)
    assert says in report.sentence


@pytest.mark.parametrize(
    "change",
    [
        _set("predicate", "patient", to="15709"),
        _set("predicate", "subject", to="15709"),
        _set("predicate", "request", "records", to=2.5),
        _set("predicate", "request", "records", to="2"),
        _set("predicate", "issued_at", to="2026-03-10T12:00:00"),
        _set("predicate", "issued_at", to="yesterday"),
        _set("predicate", "valid_until", to="9999-12-31T00:00:00+00:00"),
        _set("predicate", "request", "requested_at", to="0001-01-01T00:00:00+00:00"),
        _set("predicate", "erased", "files", to=10**30),
        _set("predicate", "audit", "after", "n", to=10**15),
        *(_set("predicate", "run", to=f"run{sign}1") for sign in "\x1b\r\n\x9b\u202e\u2066\u200b"),
        _set("predicate", "audit", "after", "scores", 0, "auc", to=1.5),
        _set("predicate", "audit", "after", "scores", 0, "auc", to=None),
        _set("predicate", "audit", "after", "n", to=160.0),
        _set("predicateType", to="https://slsa.dev/provenance/v1"),
        _set("_type", to="https://in-toto.io/Statement/v0.1"),
        _set("subject", to=[]),
        lambda content: content["predicate"].pop("ledger"),
        _set("predicate", "ledger", "seq", to=0),
    ],
)
def test_a_signed_statement_of_another_form_is_no_certificate(hospital, data, change):
    with pytest.raises(DataError, match="what was signed is no"):
        verify(forged(hospital, data, change), [hospital.public], now=NOW)


def readings(margins):
    """What copies say of segments, by their margins (copies, segments)."""
    parts = (margins, np.logaddexp(0, -margins), margins - 1, margins - 0.1)
    return Readings(*(tuple(map(tuple, part.tolist())) for part in parts))


def alone(auc, n=160):
    """The figures that follow from another AUC alone; those of the other scores would follow by Holm."""
    ends = [end for level in (0.9, 0.95) for end in auc_interval(auc, n, confidence=level)]
    p = auc_p(auc, n)
    return dict(zip(("low90", "high90", "low95", "high95"), ends, strict=True)) | {"auc": auc, "p": p, "p_holm": p}


def rescored(name, **values):
    """Fine-tuning's figures with one score's changed."""
    scores = statistics("finetune")["scores"]
    return {"scores": [one | (values if one["name"] == name else {}) for one in scores]}


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"verdict": "INCONCLUSIVE"}, "come to PASS, and it says INCONCLUSIVE"),
        (rescored("margin", low90=0.39, low95=0.38), "margin: interval or p-value is not its AUC's"),
        (rescored("margin", auc=0.61), "margin: interval or p-value is not its AUC's"),
        (rescored("margin", epsilon=0.1), "come to INCONCLUSIVE, and it says PASS"),
        (rescored("margin", epsilon=9.0), "epsilon is 9, and 160 copies show 3.0"),
        (rescored("margin", tpr_at_5=rate(150, 160)), "does not go with 94% at 8 false positives"),
        (rescored("loss", tpr_at_1=rate(60, 160), tpr_at_5=rate(20, 160)), "loss: the rate at 1 % false positives is"),
        (rescored("margin", **alone(0.51235)), "margin: no 160 copies an arm have an AUC of 0.51235"),
        (rescored("rmia", p=0.001), "rmia: interval or p-value"),
        (rescored("rmia", p_holm=0.04), "rmia: p after Holm is 0.04, counted again"),
        (rescored("ulira", primary=True), "primary margin"),
        ({"scores": []}, "the scores are none, expected"),
        ({"scores": statistics("finetune")["scores"][:-1]}, "expected margin, ulira, rmia, loss"),
        ({"n": 80}, "interval or p-value is not its AUC's"),
        ({"detectable": 0.51}, "160 copies have another power"),
        ({"group": "control"}, "on control segments, expected 'finetune' on forgotten ones"),
        ({"words": "All is well."}, "the words are not those of the figures"),
    ],
)
def test_an_approximate_method_is_certified_by_its_statistics_only(hospital, values, says):
    assert verify(hospital.issue(approximate()).read_bytes(), [hospital.public], now=NOW).accepted
    with pytest.raises(AuditError, match=re.escape(says)):
        hospital.issue(approximate(**values))


def test_no_first_look_that_refuted_an_approximate_method_is_passed_over(hospital):
    first = looked("finetune", 40)["before"] | {"method": "finetune"}  # which refutes it
    told = approximate() | {"earlier": [first | {"words": statistics_words(first)}], "seeds": [7, 8]}
    with pytest.raises(AuditError, match=r"the evidence comes to FAIL, and the verdict is PASS.*one look refutes"):
        hospital.issue(told)


@settings(max_examples=60, deadline=None)
@given(
    copies=st.integers(2, 70),
    digits=st.sampled_from([0, 1, 15]),
    shift=st.sampled_from([0.0, 0.3, -1.0, 9.0]),
    constant=st.sampled_from([(), ("never",), ("exact",), ("never", "exact")]),
    seed=st.integers(0, 999),
)
def test_nothing_that_an_auditor_finds_contradicts_itself(copies, digits, shift, constant, seed):
    """Whatever the copies said: ties, arms of one model, traces. Else an honest withdrawal would not be certified."""
    rng = np.random.default_rng(seed)

    def arm(name: str) -> dict[str, Readings]:
        sd = 0.0 if name in constant else 1.0
        groups = {"forgotten": 3, "retained": 2, "control": 12}
        return {
            group: readings(rng.normal(shift * (name == "exact"), sd, (copies, n)).round(digits))
            for group, n in groups.items()
        }

    reply = AuditReply("j", 3, "ok", arms={name: arm(name) for name in ("never", "nothing", "exact")})
    found = judge_job([look(reply, "exact", exact=True, seed=seed)], checks(*REMADE), method="exact", exact=True)
    audit = audit_of(found, Settings())
    assert contradictions(audit, method="exact", exact=True) == []


def test_an_approximate_method_that_moves_what_is_kept_is_not_certified(hospital):
    kept = {**looked("finetune")["before"], "method": "finetune", "group": "retained"}  # figures that come to FAIL
    kept["words"] = statistics_words(kept)
    told = verdict("finetune", retained=kept)
    told["words"] = job_words(told, unmeasured="")
    with pytest.raises(AuditError, match="the evidence comes to FAIL, and the verdict is PASS"):
        hospital.issue(told)


def leaves(value, path=()):
    """Every number in a JSON value, with the way to it."""
    if isinstance(value, dict | list):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(part, (*path, key))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield path, value


def test_no_figure_of_a_comparison_can_be_another(data):
    """But a bound on epsilon that stays possible; the certainty is `before`'s too."""
    audit = told(data)["predicate"]["audit"] | {"before": None, "retained": None}  # they are counted in the same way
    seen = [path for path, _ in leaves(audit["after"]) if path[-1] not in {"certainty", "epsilon"}]
    assert len(seen) > 60
    for path in seen:
        changed = copy.deepcopy(audit)
        part = changed["after"]
        for key in path[:-1]:
            part = part[key]
        value = part[path[-1]]
        part[path[-1]] = value + 1 if isinstance(value, int) else value + (0.01 if value < 0.5 else -0.01)
        found = contradictions(Audit.model_validate(changed), method="exact", exact=True)
        assert [words for words in found if words.startswith("after: ")], path


def contradicted(data, **changed):
    """What is wrong with an audit of which parts were changed, and the words made again."""
    audit = told(data)["predicate"]["audit"] | changed
    for part in ("after", "retained"):
        audit[part] = audit[part] | {"words": statistics_words(audit[part])}
    audit["words"] = job_words({**audit, "method": "exact", "exact": True}, unmeasured="")
    return contradictions(Audit.model_validate(audit), method="exact", exact=True)


def test_equal_answers_have_an_auc_of_a_half(data):
    after = told(data)["predicate"]["audit"]["after"]
    assert after["scores"][0]["auc"] != 0.5
    assert contradicted(data) == []
    for name in ("margin", "ulira", "loss"):
        scores = [
            one | ({} if one["name"] == name else alone(0.5, 80 if one["name"] == "ulira" else 160))
            for one in after["scores"]
        ]
        halves = after | {"identical": True, "verdict": "INCONCLUSIVE", "needed": None, "scores": scores}
        assert "after: all answers are alike, and an AUC is not .5" in contradicted(data, after=halves)
    alike = after | {"identical": True, "verdict": "INCONCLUSIVE", "needed": None}
    assert contradicted(data, after=alike) == ["after: all answers are alike, and an AUC is not .5"]


def test_a_second_look_needs_a_first_one_that_refuted(data):
    (wrong,) = contradicted(data, earlier=[earlier_look()], seeds=[7, 8])
    assert wrong.startswith("a second look without a first that refuted")


def earlier_look():
    """A look with a quarter of the copies, that refuted nothing."""
    found = looked("exact", 40)["after"]
    return {name: value for name, value in found.items() if name not in ("unlearned", "never")}


def test_a_payload_written_otherwise_is_refused_though_it_is_signed(hospital, data):
    payload = json.dumps(told(data), sort_keys=True, indent=1).encode()
    envelope = Envelope(payload, evidence.PAYLOAD_TYPE, {})
    envelope.sign(keys.signer(hospital.workspace.keys))
    with pytest.raises(DataError, match="not written as Lethe writes it"):
        verify(evidence.write(envelope), [hospital.public], now=NOW)


@pytest.mark.parametrize("outcome", ["FAIL", "INCONCLUSIVE"])
def test_only_pass_is_certified(tmp_path, outcome):
    hospital = Hospital.found(tmp_path / "home")
    with pytest.raises(AuditError, match=f"the verdict is {outcome}"):
        hospital.issue(verdict(verdict=outcome))
    assert list(hospital.workspace.certificates.iterdir()) == []


@pytest.mark.parametrize(
    "values",
    [
        {"verified": None},
        {"verified": verified(status="refused")},
        {"verified": verified(served="f" * 64)},
        {"verified": verified(bundle="f" * 64)},
        {"verified": verified(slot=4)},
        {"acknowledgement": acknowledgement(job="job-2")},
        {"acknowledgement": acknowledgement(status="refused")},
        {"now": NOW - timedelta(days=30)},
        {"told": verdict(after=statistics(certainty=float("nan")))},
        {"told": verdict(after=statistics(detectable=0.9))},
        {"told": verdict(after=statistics(words="\x1b[2J"))},
        {"told": verdict(bytes={"holds": True, "checks": []})},
    ],
)
def test_answers_that_contradict_are_not_certified(tmp_path, values):
    hospital = Hospital.found(tmp_path / "home")
    with pytest.raises(AuditError, match=r"job-1f2e (is not|cannot be) certified"):
        hospital.issue(**values)
    assert list(hospital.workspace.certificates.iterdir()) == []


def test_without_a_key_nothing_is_issued_and_it_says_how_to_make_one(tmp_path):
    hospital = Hospital.found(tmp_path / "home")
    (hospital.workspace.keys / "signing.pem").unlink()
    with pytest.raises(WorkspaceError, match=r"no signing key at .*`lethe keys rotate` makes a new one"):
        hospital.issue()
    keys.rotate(hospital.workspace.keys)
    assert verify(hospital.issue().read_bytes(), [hospital.public], now=NOW).accepted


def test_a_missed_deadline_is_certified_as_missed(hospital):
    late = NOW + timedelta(days=100)
    report = verify(hospital.issue(now=late).read_bytes(), [hospital.public], now=late)
    assert report.accepted
    assert not report.certificate.predicate.request.kept
    assert any("missed" in finding.words for finding in report.findings)


def test_where_no_model_is_served_the_certificate_says_so(hospital):
    lineage, none = check("lineage of the general model", "no withdrawn record"), check("model in use", "none")
    path = hospital.issue(
        verdict(STANDS_IN, bytes=checks(lineage, none, model="none", bundle="none")),
        job=job(scope="patient"),
        acknowledgement=replace(acknowledgement(), after="", bundle=""),
        verified=verified(served="", bundle=""),
    )
    report = verify(path.read_bytes(), [hospital.public], now=NOW)
    assert report.accepted
    assert any("none is served" in finding.words for finding in report.findings)
    assert refused(path.read_bytes(), hospital.public, files={MODEL_NAME: digest(MODEL)})


def test_with_a_registry_the_patient_is_named_as_in_the_ledger_and_after_that_by_nobody(tmp_path):
    hospital = Hospital.found(tmp_path / "home")
    with Registry.create(
        hospital.workspace.registry_path, clock=lambda: (NOW - timedelta(hours=1)).isoformat()
    ) as held:
        held.enrol_many([Enrolment(PATIENT, "wearable", dict.fromkeys(RECORDS, "0" * 64), slot=3)])
        (due,) = held.withdraw(PATIENT)
        for state in ("DISPATCHED", "UNLEARNED", "AUDITED"):
            held.advance(due.id, state)
        answers = {
            "acknowledgement": replace(acknowledgement(), job=due.id, general=digest(MODEL)),
            "verified": replace(verified(), job=due.id),
        }
        compared = check("lineage of the general model", "no withdrawn record"), check(GENERAL, digest(MODEL))
        found = verdict(bytes=checks(*compared), retained=None)  # nothing is kept
        given = (due, found, *answers.values(), hospital.settings)
        data = issue(hospital.workspace, held, *given, run="r", now=NOW).read_bytes()
        said = told(data)["predicate"]
        assert said["subject"] in {entry.subject for entry in held.ledger() if entry.kind == "consent"}
        assert said["request"]["scope"] == "patient"
        held.advance(due.id, "CERTIFIED", detail={"certificate": digest(data)})
        assert verify(data, [hospital.public], now=NOW, ledger=held.ledger()).accepted
        with pytest.raises(AuditError, match="cannot be certified as it is told: subject"):
            issue(hospital.workspace, held, *given, run="r", now=NOW)


def test_verifying_needs_neither_torch_nor_a_database():
    heavy = {"torch", "sqlalchemy", "flwr", "onnxruntime"}
    code = f"import sys, server.verification; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_private_key_is_in_its_file_and_nowhere_else(tmp_path):
    hospital = Hospital.found(tmp_path / "home")
    hospital.issue()
    secret = (hospital.workspace.keys / "signing.pem").read_text().splitlines()[1]
    raw = base64.b64decode(secret)[-32:]
    found = [path.name for path in tmp_path.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]
    assert found == ["signing.pem"]
    forms = [raw, raw.hex().encode(), base64.b64encode(raw)]
    for path in tmp_path.rglob("*"):
        if path.is_file() and path.name != "signing.pem":
            assert not any(form in path.read_bytes() for form in forms)
