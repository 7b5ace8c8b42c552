"""The audit of a withdrawal: what a device trains and tells, and what the server makes of it."""

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
from fleet import Fleet, holding
from flwr.app import Message, RecordDict
from flwr.clientapp import ClientApp
from local_grid import FIRST_NODE
from safetensors.numpy import save

import client.app
from client.auditing import audit, verify
from client.store import Store
from server import auditor, certifying, keys
from server.certificate import path_of
from server.looks import _seed
from server.rows import Job, Patient
from shared.audit_messages import AuditReply, AuditRequest, VerifyReply, VerifyRequest
from shared.messages import Identity, read, write
from shared.model import digest
from shared.version import code_version

HANDLERS = ("whoami", "personalise", "probe", "audit", "unlearn", "verify")


def contents(fleet: Fleet, patient: Patient) -> dict[str, str]:
    folder = fleet.folder(patient)
    return {
        path.relative_to(folder).as_posix(): digest(path.read_bytes()) for path in folder.rglob("*") if path.is_file()
    }


def audit_of(fleet: Fleet, *records: str, copies=2, methods=("finetune", "exact")) -> AuditRequest:
    settings = fleet.settings
    scope = "records" if records else "patient"
    made = (settings.personalisation, settings.unlearning)
    return AuditRequest("j-1", scope, records, methods, *made, copies=copies, epsilon_sd=0.05, seed=0)


def verify_of(fleet: Fleet, *records: str, exact=True) -> VerifyRequest:
    scope = "records" if records else "patient"
    return VerifyRequest("j-1", scope, records, fleet.settings.personalisation, exact=exact, white_box=False)


def sent(fleet: Fleet, kind: str) -> list[Message]:
    return [message for message in fleet.grid.sent if message.metadata.message_type == kind]


def asked(message: Message) -> dict:
    return json.loads(message.content.config_records["payload"]["json"])


def answering(kind: str, answer) -> ClientApp:
    """The device's app, but for one message type."""
    app = ClientApp()
    for action in HANDLERS:
        category = "train" if action in ("personalise", "unlearn") else "query"
        own = getattr(client.app, action)
        getattr(app, category)(action)((lambda message, _: answer(message)) if action == kind else own)
    return app


@pytest.fixture
def job(fleet) -> Job:
    """A wearer of several records withdraws the oldest."""
    patient = fleet.with_several_records()
    (job,) = fleet.registry.withdraw(patient.id, records=fleet.records(patient)[:1])
    return job


def now(fleet: Fleet, job: Job) -> Job:
    return fleet.registry.job(job.id)


# A device


@pytest.mark.parametrize("whole", [True, False])
def test_copies_leave_nothing_on_the_disk(fleet, whole):
    patient = fleet.with_several_records()
    before = contents(fleet, patient)
    reply = audit(fleet.store(patient), audit_of(fleet, *fleet.records(patient)[: 0 if whole else 1]), slot=0)
    assert (reply.status, list(reply.arms)) == ("ok", ["never", "nothing", "finetune", "exact"])
    assert {name for groups in reply.arms.values() for name in groups} == {"forgotten", "retained", "control"}
    assert bool(reply.arms["never"]["retained"].margins[0]) == (not whole)
    assert contents(fleet, patient) == before


def test_an_audit_without_copies_or_without_anything_to_forget_is_refused(fleet, tmp_path):
    patient = fleet.with_several_records()
    oldest, newest = fleet.records(patient)[0], fleet.store(patient).recordings()[-1].id
    store = fleet.store(patient)
    assert "audit.copies" in audit(store, audit_of(fleet, oldest, copies=0), slot=0).reason
    assert "no segment" in audit(store, audit_of(fleet, newest), slot=0).reason  # it was held out
    assert "no segment" in audit(store, audit_of(fleet, "999999"), slot=0).reason
    assert "no personal model" in audit(Store(tmp_path / "new"), audit_of(fleet), slot=0).reason


def test_a_device_tells_what_is_on_its_disk_and_what_a_fresh_copy_would_be(fleet):
    patient = fleet.with_several_records()
    store, before = fleet.store(patient), contents(fleet, patient)
    reply = verify(store, verify_of(fleet, "999999"), slot=0)
    assert (reply.served, reply.bundle, reply.general) == (store.state.model, store.state.bundle, store.state.general)
    assert (reply.fresh, reply.records, reply.leftovers) == (reply.served, store.record_ids(), ())
    assert verify(store, verify_of(fleet, "999999", exact=False), slot=0).fresh == ""
    assert contents(fleet, patient) == before


def test_what_should_be_gone_is_named_wherever_it_lies(fleet, job):
    fleet.run()
    patient = fleet.wearer(job.slot)
    store = fleet.store(patient)
    assert verify(store, verify_of(fleet, *job.records), slot=0).leftovers == ()
    (kept,) = (json.loads(path.read_text()) for path in (store.folder / "answers").glob("*.json"))
    assert kept["before"] not in ("", store.state.model)
    (store.folder / "notes.txt").write_text("a copy of what was there")
    (store.folder / "recordings" / "old").mkdir()
    (store.folder / "recordings" / "old" / "1.npz").write_bytes(b"1")
    left = verify(store, verify_of(fleet, *job.records, *store.record_ids()[:1]), slot=0).leftovers
    assert left == tuple(sorted(["notes.txt", "recordings/old/1.npz", f"recordings/{store.record_ids()[0]}.npz"]))


def test_an_old_model_is_found_under_another_s_name(fleet, job):
    old = fleet.store(fleet.wearer(job.slot)).model_path.read_bytes()
    fleet.run()
    store = fleet.store(fleet.wearer(job.slot))
    (store.general_folder(store.state.general) / "public.safetensors").write_bytes(old)
    assert verify(store, verify_of(fleet, *job.records, exact=False), slot=0).leftovers == (
        f"general/{store.state.general}/public.safetensors",
    )


# A run


def test_a_withdrawal_ends_with_a_verdict_and_a_certificate(fleet, job):
    run = fleet.run()
    assert now(fleet, job).state == "CERTIFIED"
    ((_, one),) = run.withdrawals.items()
    assert (one.verdict["verdict"], one.verdict["method"], one.verdict["copies"]) == ("PASS", "exact", 2)
    names = [check["name"] for check in one.verdict["bytes"]["checks"]]
    assert {certifying.OTHERS, "the bytes of a fresh copy"} <= set(names)
    path = path_of(fleet.workspace, fleet.registry, job)
    assert one.certificate == {"file": path.name, "sha256": digest(path.read_bytes())}
    result = json.loads((fleet.workspace.reports / run.name / "result.json").read_text())
    (row,) = result["withdrawals"]
    assert (row["state"], row["verdict"], row["certificate"]) == ("CERTIFIED", one.verdict, one.certificate)
    assert row["deadline"][:10] > row["requested_at"][:10]
    steps = [step["state"] for step in row["steps"]]
    assert steps == ["REQUESTED", "DISPATCHED", "UNLEARNED", "AUDITED", "CERTIFIED"]
    fleet.run()
    assert len(sent(fleet, "query.audit")) == len(sent(fleet, "query.verify")) == 1


@pytest.mark.usefixtures("job")
@pytest.mark.parametrize(("withdrawn", "at_once"), [(1, 6), (2, 3)])
def test_the_devices_that_make_copies_share_the_cores(fleet, monkeypatch, withdrawn, at_once):
    monkeypatch.setattr("server.asking.WAVE", 6)
    for patient in fleet.wearers()[1:withdrawn]:
        fleet.registry.withdraw(patient.id)
    fleet.run()
    assert [asked(message)["at_once"] for message in sent(fleet, "query.audit")] == [at_once] * withdrawn


@pytest.mark.usefixtures("job")
def test_margins_of_segments_are_in_no_file_of_the_server(fleet):
    fleet.run()
    (reply,) = (m for m in fleet.grid.received if m.metadata.message_type == "query.audit")
    margin = str(read(AuditReply, reply).arms["never"]["retained"].margins[0][0]).encode()
    for folder in ("reports", "flower", "certificates", "devices"):
        assert holding(fleet.workspace.home / folder, [margin]) == []


def test_a_leftover_fails_the_job_until_it_is_gone(fleet, job):
    stray = fleet.folder(fleet.wearer(job.slot)) / "old.bin"
    stray.write_bytes(b"old")
    run = fleet.run()
    failed = now(fleet, job)
    assert failed.state == "FAILED"
    assert not path_of(fleet.workspace, fleet.registry, job).exists()
    assert run.withdrawals[job.id].verdict["verdict"] == "FAIL"
    assert "leftover" in failed.detail["reason"]
    stray.unlink()
    run = fleet.run()
    assert now(fleet, job).state == "CERTIFIED"
    assert run.withdrawals[job.id].verdict["after"] is not None  # from the first look, while there were segments


def test_a_method_that_does_not_pass_climbs_to_exact(fleet, job, monkeypatch):
    monkeypatch.setattr("server.looks.choose", lambda *_, **__: "finetune")
    run = fleet.run()  # with two copies an arm nothing approximate passes, and at the run's end it is tried again
    assert [asked(message)["serve"] for message in sent(fleet, "train.unlearn")] == ["finetune", "exact"]
    assert now(fleet, job).state == "CERTIFIED"
    one = run.withdrawals[job.id]
    assert (one.verdict["method"], one.verdict["exact"], one.verdict["verdict"]) == ("exact", True, "PASS")
    assert one.reply.served == "exact"
    state = fleet.store(fleet.wearer(job.slot)).state
    assert ":" not in state.recipe
    assert state.model == one.reply.after


def test_the_audit_chooses_the_method_before_the_device_is_asked(fleet, job, monkeypatch):
    monkeypatch.setattr("server.looks.choose", lambda *_, **__: "finetune")
    fleet.answer_s = 0.5
    fleet.grid.silent.add(FIRST_NODE + job.slot)
    fleet.registry.advance(job.id, "DISPATCHED", detail={"method": "exact"})  # by an earlier run
    fleet.grid.silent.clear()
    fleet.answer_s = 60.0
    fleet.run()
    assert [asked(message)["serve"] for message in sent(fleet, "train.unlearn")] == ["exact"]


def test_an_exact_method_that_is_refuted_is_looked_at_again_with_more_copies(fleet, job, monkeypatch):
    monkeypatch.setattr("server.looks.wants_confirmation", lambda found, **_: len(found) == 1)
    run = fleet.run()
    # Eight copies refute by chance in a twentieth of the runs, and then the job is tried once more.
    first, second, *_ = (asked(message) for message in sent(fleet, "query.audit"))
    assert (first["copies"], second["copies"]) == (2, 8)
    assert (first["methods"], second["methods"]) == (["finetune", "exact"], ["exact"])
    assert first["seed"] != second["seed"]
    assert run.withdrawals[job.id].verdict["seeds"] == [first["seed"], second["seed"]]
    assert run.withdrawals[job.id].verdict["copies"] == 8


def test_what_two_looks_refuted_is_not_certified_later_for_want_of_segments(fleet, job, monkeypatch):
    """The copies are made believe to differ; the device erases, and no later run can look again."""
    decide = auditor.decide
    with monkeypatch.context() as patch:
        patch.setattr(
            auditor, "decide", lambda *given, exact, **more: "FAIL" if exact else decide(*given, exact=exact, **more)
        )
        run = fleet.run()
    assert run.withdrawals[job.id].verdict["verdict"] == "FAIL"
    assert run.withdrawals[job.id].verdict["bytes"]["holds"]
    for _ in range(2):
        assert now(fleet, job).state == "FAILED"
        verdict = now(fleet, job).detail["verdict"]
        assert (verdict["verdict"], len(verdict["seeds"])) == ("FAIL", 2)
        assert job.id not in fleet.run().withdrawals  # nothing that it could find would change the verdict
    assert fleet.store(fleet.wearer(job.slot)).answer(job.id) is not None


def test_another_device_that_changed_meanwhile_keeps_the_certificate_back(fleet, job):
    other = next(patient for patient in fleet.wearers() if patient.slot != job.slot)
    told = []

    def whoami(message: Message) -> Message:
        told.append(message)
        state = fleet.store(other).state
        identity = Identity(other.slot, "p", fleet.store(other).package, f"{len(told):064x}", code_version())
        assert state.model
        return Message(write(identity), reply_to=message)

    fleet.grid.apps[FIRST_NODE + other.slot] = answering("whoami", whoami)
    run = fleet.run()
    assert now(fleet, job).state == "FAILED"
    (check,) = (c for c in run.withdrawals[job.id].verdict["bytes"]["checks"] if c["name"] == certifying.OTHERS)
    assert (check["seen"], check["holds"]) == (f"device {other.slot} changed", False)


@pytest.mark.parametrize("white_box", [False, True])
def test_weights_travel_in_white_box_runs_alone_and_reach_no_disk(fleet, job, white_box):
    run = fleet.run(fleet.settings.with_values({"audit.white_box": white_box}))
    model = fleet.store(fleet.wearer(job.slot)).model_path.read_bytes()
    (reply,) = (m for m in fleet.grid.received if m.metadata.message_type == "query.verify")
    assert ("blobs" in reply.content.config_records) == white_box
    for folder in ("models", "reports", "flower", "certificates", "cache"):
        assert holding(fleet.workspace.home / folder, [model]) == []
    seen = [check["name"] for check in run.withdrawals[job.id].verdict["bytes"]["checks"]]
    assert ("weights as the server sees them" in seen) == white_box


def test_weights_that_are_not_what_the_device_says_are_no_pass(fleet, job):
    others = save({"head.bias": np.zeros(5, np.float32)})

    def lie(message: Message) -> Message:
        request = read(VerifyRequest, message)
        honest = verify(fleet.store(fleet.wearer(job.slot)), request, slot=job.slot)
        return Message(write(honest, blobs={"model.safetensors": others}), reply_to=message)

    fleet.grid.apps[FIRST_NODE + job.slot] = answering("verify", lie)
    fleet.run(fleet.settings.with_values({"audit.white_box": True}))
    assert now(fleet, job).state == "FAILED"


# What breaks off


@pytest.mark.parametrize("where", ["server.withdrawals.certifying.close", "server.certifying.certificate.issue"])
def test_a_run_that_dies_before_the_certificate_is_taken_up_by_the_next(fleet, job, monkeypatch, where):
    def die(*_, **__):
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(where, die)
        with pytest.raises(RuntimeError):
            fleet.run()
    assert now(fleet, job).state == ("UNLEARNED" if "close" in where else "AUDITED")
    before = contents(fleet, fleet.wearer(job.slot))
    run = fleet.run()
    assert now(fleet, job).state == "CERTIFIED"
    assert run.withdrawals[job.id].verdict["verdict"] == "PASS"
    assert contents(fleet, fleet.wearer(job.slot)) == before


def test_without_a_key_nothing_is_certified_and_the_run_goes_on(fleet, job):
    key = fleet.workspace.keys / keys.PRIVATE
    kept = key.read_bytes()
    key.unlink()
    run = fleet.run()
    assert (now(fleet, job).state, fleet.registry.runs()[-1].status) == ("AUDITED", "finished")
    assert "no signing key" in run.withdrawals[job.id].note
    key.write_bytes(kept)
    key.chmod(0o600)
    fleet.run()
    assert now(fleet, job).state == "CERTIFIED"


def test_one_device_s_absurd_margins_hold_up_nobody_s_erasure(fleet, job):
    other = next(patient for patient in fleet.wearers() if patient.slot != job.slot)
    (second,) = fleet.registry.withdraw(other.id)

    def answer(message: Message) -> Message:
        reply = audit(fleet.store(fleet.wearer(job.slot)), read(AuditRequest, message), slot=job.slot)
        forgotten = reply.arms["exact"]["forgotten"]
        absurd = replace(forgotten, margins=tuple((1e200, *row[1:]) for row in forgotten.margins))
        arms = {**reply.arms, "exact": {**reply.arms["exact"], "forgotten": absurd}}
        return Message(write(replace(reply, arms=arms)), reply_to=message)

    fleet.grid.apps[FIRST_NODE + job.slot] = answering("audit", answer)
    fleet.run()
    assert now(fleet, second).state == "CERTIFIED"
    assert fleet.store(other).record_ids() == ()
    assert not set(job.records) & set(fleet.store(fleet.wearer(job.slot)).record_ids())


def test_an_audit_s_seed_leads_to_no_job_once_the_patient_is_forgotten(fleet):
    patient = fleet.wearers()[0]
    (job,) = fleet.registry.withdraw(patient.id)
    run = fleet.run()
    (seed,) = run.withdrawals[job.id].verdict["seeds"]
    guesses = (f"{fleet.settings.audit.seed} {word} 0" for word in (job.id, patient.id, patient.pseudonym))
    assert seed not in {int.from_bytes(hashlib.sha256(text.encode()).digest()[:4]) for text in guesses}
    assert _seed(run, job, number=0) != seed  # the salt is gone, and with it the way from the job to its seed


@pytest.mark.parametrize("second", ["refuses", "is silent"])
def test_one_look_that_refutes_and_no_second_one_is_never_a_pass(fleet, job, second, monkeypatch):
    decide, store = auditor.decide, fleet.store(fleet.wearer(job.slot))
    monkeypatch.setattr(
        auditor, "decide", lambda *given, exact, **more: "FAIL" if exact else decide(*given, exact=exact, **more)
    )

    def answer(message: Message) -> Message:
        if asked(message)["copies"] > fleet.settings.audit.copies:
            if second == "is silent":
                raise RuntimeError("no answer")
            return Message(write(AuditReply(job.id, job.slot, "refused", "too hot")), reply_to=message)
        return Message(write(audit(store, read(AuditRequest, message), slot=job.slot)), reply_to=message)

    fleet.grid.apps[FIRST_NODE + job.slot] = answering("audit", answer)
    for _ in range(2):
        fleet.run()
        verdict = now(fleet, job).detail["verdict"]
        assert (verdict["verdict"], len(verdict["seeds"])) == ("INCONCLUSIVE", 1)
        assert now(fleet, job).state == "FAILED"


def test_in_white_box_mode_a_device_that_sends_no_weights_is_not_certified(fleet, job):
    def answer(message: Message) -> Message:
        honest = verify(fleet.store(fleet.wearer(job.slot)), read(VerifyRequest, message), slot=job.slot)
        return Message(write(honest), reply_to=message)

    fleet.grid.apps[FIRST_NODE + job.slot] = answering("verify", answer)
    run = fleet.run(fleet.settings.with_values({"audit.white_box": True}))
    assert run.withdrawals[job.id].verdict["verdict"] == "FAIL"
    assert now(fleet, job).state == "FAILED"


@pytest.mark.parametrize("kind", ["query.audit", "query.verify"])
def test_a_lost_answer_holds_up_no_erasure(fleet, job, kind):
    fleet.answer_s = 0.5
    fleet.grid.lost.add(kind)
    fleet.run()
    assert fleet.store(fleet.wearer(job.slot)).answer(job.id) is not None
    assert not set(job.records) & set(fleet.store(fleet.wearer(job.slot)).record_ids())
    assert now(fleet, job).state == ("CERTIFIED" if kind == "query.audit" else "UNLEARNED")
    fleet.answer_s = 60.0
    fleet.grid.lost.clear()
    fleet.run()
    assert now(fleet, job).state == "CERTIFIED"


def refuse(job: Job) -> AuditReply:
    return AuditReply(job.id, job.slot, "refused", "too hot")


def drop_an_arm(job: Job) -> AuditReply:
    return AuditReply(job.id, job.slot, "ok", arms={})


@pytest.mark.parametrize(("answer", "passes"), [(refuse, True), (drop_an_arm, False)])
def test_an_audit_that_cannot_be_judged_is_never_a_pass_and_holds_up_no_erasure(fleet, job, answer, passes):
    app = answering("audit", lambda message: Message(write(answer(job)), reply_to=message))
    fleet.grid.apps[FIRST_NODE + job.slot] = app
    fleet.run()
    assert not set(job.records) & set(fleet.store(fleet.wearer(job.slot)).record_ids())
    assert (now(fleet, job).state == "CERTIFIED") == passes


def test_a_device_that_cannot_look_is_asked_again(fleet, job):
    def refuse_to_look(message: Message) -> Message:
        return Message(write(VerifyReply(job.id, job.slot, "refused", "too hot")), reply_to=message)

    fleet.grid.apps[FIRST_NODE + job.slot] = answering("verify", refuse_to_look)
    fleet.run()
    assert now(fleet, job).state == "FAILED"
    assert "too hot" in now(fleet, job).detail["reason"]
    fleet.grid.apps[FIRST_NODE + job.slot] = answering("verify", lambda m: Message(RecordDict(), reply_to=m))
    fleet.run()
    assert now(fleet, job).state == "UNLEARNED"
    fleet.grid.apps.clear()
    fleet.run()
    assert now(fleet, job).state == "CERTIFIED"


def test_without_copies_the_bytes_alone_decide(fleet, job):
    run = fleet.run(fleet.settings.with_values({"audit.copies": 0}))
    assert sent(fleet, "query.audit") == []
    assert now(fleet, job).state == "CERTIFIED"
    verdict = run.withdrawals[job.id].verdict
    assert (verdict["before"], verdict["after"], verdict["copies"]) == (None, None, 0)


def test_a_certificate_is_kept_back_while_the_general_model_has_a_withdrawn_record(fleet, job, monkeypatch):
    records = {row.sha256 for row in fleet.registry.records(job.patient, consented_only=False)}
    corpus = fleet.registry.records(role="corpus")[0]
    holders = fleet.registry.holders
    twin = [(corpus.patient, corpus.id)]
    monkeypatch.setattr(
        fleet.registry, "holders", lambda digests: [*holders(digests), *(twin if records & set(digests) else [])]
    )
    run = fleet.run()
    assert now(fleet, job).state == "FAILED"
    failed = [check["name"] for check in run.withdrawals[job.id].verdict["bytes"]["checks"] if not check["holds"]]
    assert failed == ["lineage of the general model"]


def test_a_copy_made_anew_since_the_acknowledgement_is_certified_as_it_is_now(fleet, job):
    """A run with other settings comes between: what the device acknowledged is no longer what it serves."""
    stray = fleet.folder(fleet.wearer(job.slot)) / "old.bin"
    stray.write_bytes(b"old")
    fleet.run()
    stray.unlink()
    fleet.run(replace(fleet.settings, personalisation=replace(fleet.settings.personalisation, steps=3)))
    assert now(fleet, job).state == "CERTIFIED"
