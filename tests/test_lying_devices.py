"""A device that lies or is broken: every lie is refused by name, and the other devices are heard."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from local_grid import FIRST_NODE, LocalGrid

from client.app import app as client_app
from server import phases, roll_call
from server.comparison import check_reply
from server.rows import Job
from shared.audit_messages import AUDIT, VERIFY, AuditReply, AuditRequest, Readings, VerifyReply, VerifyRequest
from shared.errors import AuditError, LetheError, RunError
from shared.fields import MOST_BYTES_OF_NUMBERS, MOST_BYTES_OF_WORDS, MOST_TEXT
from shared.messages import (
    PERSONALISE,
    PROBE,
    UNLEARN,
    WHOAMI,
    Accuracies,
    ErasedFile,
    GroupMargins,
    Identity,
    MethodOutcome,
    PersonaliseReply,
    ProbeReply,
    UnlearnReply,
    write,
)
from shared.package import MODEL, Package
from shared.settings import Personalisation, Settings, Unlearning

LIAR, HONEST = 0, {1, 2}
SETTINGS = Settings().with_values({"probe.epsilons_sd": "0,0.05", "unlearning.methods": "finetune,exact"})
PACKAGE = Package(b"model", b"template", b"public")
GENERAL, OTHER = PACKAGE.digest, "f" * 64
GROUP = GroupMargins(((1, 0), (0, 0)), ((1, 1), (1, 0)), ((0.5, -1.0), (0.1, -2.0)), ((2.0, 1.0), (1.0, -0.5)))
EMPTY = GroupMargins(((), ()), ((), ()), ((), ()), ((), ()))


def readings_of(number: float) -> Readings:
    """Two copies on twelve segments; no two arms have a copy in common."""
    rows = ((number,) * 12, (number + 0.5,) * 12)
    return Readings(rows, rows, rows, rows)


ARMS = {
    arm: dict.fromkeys(("forgotten", "retained", "control"), readings_of(number))
    for number, arm in enumerate(("never", "nothing", "exact"))
}
AT = "2026-01-01T00:00:00.000+00:00"
ACCURACY = Accuracies(2, 0.5, 1.0, 0.5)


def job_of(slot: int) -> Job:
    records = (f"{slot}1",)
    return Job(f"j-{slot}", f"{slot}", slot, "records", records, "DISPATCHED", "exact", AT, AT)


def honest(kind: str, slot: int) -> Any:
    """What a device answers that tells the truth."""
    if kind == WHOAMI:
        return Identity(slot, f"p-{slot}", "a" * 64, "b" * 64, "code")
    if kind == PERSONALISE:
        return PersonaliseReply(
            slot, "ok", "", OTHER, OTHER, True, 2, 14, 6, "record", 0.5, 1.0, 0.5, 0.5, {"blank lead": 1}, 1e-7, 3.0
        )
    if kind == PROBE:
        return ProbeReply(slot, "ok", "", GROUP, GROUP, EMPTY)
    if kind == AUDIT:
        return AuditReply(f"j-{slot}", slot, "ok", "", ARMS, 3.0)
    if kind == UNLEARN:
        groups = {"forgotten": GROUP, "held_out": EMPTY, "control": GROUP}
        outcome = MethodOutcome("exact", True, OTHER, 1.0, ACCURACY, ACCURACY, groups, groups)
        erased = (ErasedFile(f"recordings/{slot}1.npz", 900), ErasedFile("model.safetensors", 9))
        return UnlearnReply(
            f"j-{slot}", slot, "ok", "", "exact", GENERAL, "b" * 64, OTHER, OTHER, 10, erased, (outcome,), (), AT
        )
    return VerifyReply(f"j-{slot}", slot, "ok", "", GENERAL, OTHER, OTHER, OTHER, (f"{slot}2",), (), 1.0)


@dataclass
class Said:
    """What the server made of the answers: by slot, and what it refused."""

    heard: Mapping[int, Any]
    refused: list[tuple[int | None, str, LetheError]]


def ask(kind: str, lie: Callable[[Message, Any], Message], *, white_box: bool = False) -> Said:
    """Ask three devices as a run does; the first one's answer is what `lie` makes of the true one."""

    def device(message: Message, context: Context) -> Message:
        slot = int(context.node_config["partition-id"])
        reply = honest(message.metadata.message_type, slot)
        if slot == LIAR:
            return lie(message, reply)
        return Message(write(reply), reply_to=message)

    grid = LocalGrid(device, nodes=3, run_config={})
    refused: list[tuple[int | None, str, LetheError]] = []

    def refuse(slot: int | None, asked: str, error: LetheError) -> None:
        refused.append((slot, asked, error))

    devices = {slot: (FIRST_NODE + slot, honest(WHOAMI, slot)) for slot in range(3)}
    given: dict[str, Any] = {"run": "r", "answer_s": 60.0, "refuse": refuse}
    told = given | {"tell": lambda *_: None}
    if kind == WHOAMI:
        grid.registered = True
        found = roll_call.directory(grid, expected=3, code="code", registered=True, **given)
        return Said({slot: identity for slot, (_, identity) in found.items()}, refused)
    if kind == PERSONALISE:
        heard: Mapping[int, Any] = phases.personalise(
            grid,
            devices,
            range(3),
            lambda slot: [f"{slot}1", f"{slot}2"],
            lambda _: None,
            (),
            PACKAGE,
            SETTINGS,
            hospital="",
            **told,
        )
        return Said(heard, refused)
    if kind == PROBE:
        return Said(phases.probe(grid, devices, range(3), lambda _: True, SETTINGS, **told), refused)
    jobs = [job_of(slot) for slot in range(3)]
    if kind == AUDIT:
        return Said(_audited(phases.audit(grid, devices, jobs, _audit_request, **told), jobs, refused), refused)
    if kind == UNLEARN:
        methods = {job.id: "exact" for job in jobs}
        answers = phases.unlearn(grid, devices, jobs, methods, SETTINGS, retrain=range(3), barred=lambda _: (), **told)
        return Said({job.slot: answers[job.id] for job in jobs if job.id in answers}, refused)
    wanted = {
        job.slot: VerifyRequest(job.id, "records", job.records, Personalisation(), True, white_box) for job in jobs
    }
    looked = phases.verify(grid, devices, wanted, **told)
    return Said({job.slot: looked[job.id] for job in jobs if job.id in looked}, refused)


def _audit_request(job: Job) -> AuditRequest:
    return AuditRequest(job.id, "records", job.records, ("exact",), Personalisation(), Unlearning(), 2, 0.05, 7)


def _audited(answers: Mapping[str, Any], jobs: list[Job], refused: list[Any]) -> dict[int, AuditReply]:
    """The answers that can be judged, as `server/looks.py` decides."""
    found = {}
    for job in jobs:
        answer = answers.get(job.id)
        if isinstance(answer, AuditReply):
            try:
                check_reply(answer, _audit_request(job), slot=job.slot, kept=True)
                found[job.slot] = answer
            except AuditError as error:
                refused.append((job.slot, AUDIT, error))
    return found


KINDS = (WHOAMI, PERSONALISE, PROBE, AUDIT, UNLEARN, VERIFY)
JOBS = (AUDIT, UNLEARN, VERIFY)


def content(reply: Any) -> RecordDict:
    return write(reply)


def raw(data: bytes) -> RecordDict:
    return RecordDict({"payload": ConfigRecord({"json": data})})


def edited(reply: Any, *path: Any, to: Any) -> RecordDict:
    """The true answer with one value replaced, or added; NaN and infinity are written as Python writes them."""
    told = json.loads(json.dumps(asdict(reply)))
    *way, last = path
    place = told
    for step in way:
        place = place[step]
    place[last] = to
    return raw(json.dumps(told).encode())


def lacking(reply: Any, name: str) -> RecordDict:
    told = json.loads(json.dumps(asdict(reply)))
    del told[name]
    return raw(json.dumps(told).encode())


def modelless(reply: UnlearnReply) -> RecordDict:
    """A method's name without its model."""
    return write(replace(reply, after="", bundle=""))


def relabelled(message: Message, reply: Any, **metadata: Any) -> Message:
    answer = Message(write(reply), reply_to=message)
    for name, value in metadata.items():
        answer.metadata.__dict__[f"_{name}"] = value
    return answer


def beside(reply: Any) -> RecordDict:
    told = write(reply)
    told["weights"] = ArrayRecord([np.zeros(3)])
    return told


# Lies that any answer can be: what is made of the message and the true answer, and what the reason names.
ANY: dict[str, tuple[Callable[[Message, Any], RecordDict | Message], str]] = {
    "nothing": (lambda _, __: RecordDict(), "it has no 'payload'"),
    "no json": (lambda _, __: RecordDict({"payload": ConfigRecord({})}), "it has no 'json'"),
    "text for bytes": (lambda _, __: RecordDict({"payload": ConfigRecord({"json": "{}"})}), "str, expected bytes"),
    "half": (lambda _, reply: raw(write(reply)["payload"]["json"][:-9]), "Invalid JSON"),
    "nested without end": (lambda _, __: raw(b"[" * 500_000), "Invalid JSON: recursion limit exceeded"),
    "a list": (lambda _, __: raw(b"[]"), "Input should be"),
    "another message": (lambda _, __: write(Accuracies(1, 0.5, 0.5, 0.5)), "Field required"),
    "one field more": (lambda _, reply: edited(reply, "waveform", to=[1.0]), "waveform: Unexpected keyword"),
    "no slot": (lambda _, reply: lacking(reply, "slot"), "slot: Field required"),
    "slot as text": (lambda _, reply: edited(reply, "slot", to="0"), "slot: Input should be a valid integer"),
    "slot as bool": (lambda _, reply: edited(reply, "slot", to=False), "slot: Input should be a valid integer"),
    "slot below 0": (lambda _, reply: edited(reply, "slot", to=-1), "slot: Input should be greater"),
    "slot too large": (lambda _, reply: edited(reply, "slot", to=10**30), "slot: Input should be less"),
    "another slot": (lambda _, reply: write(replace(reply, slot=1)), "device 1"),
    "more bytes than any": (lambda _, __: raw(b" " * (MOST_BYTES_OF_NUMBERS + 1)), "67,108,865 bytes, expected"),
    "weights beside it": (lambda _, reply: beside(reply), "also carries 'weights'"),
    "another type": (lambda m, reply: relabelled(m, reply, message_type="query.other"), "a message 'query.other'"),
    "another node's": (lambda m, reply: relabelled(m, reply, src_node_id=FIRST_NODE + 1), "of node 101"),
}
NAN, INF = float("nan"), float("inf")
HUGE = "x" * (MOST_BYTES_OF_WORDS + 1)
# Lies about one field: where, what, and what the reason names.
ABOUT: dict[str, list[tuple[tuple[Any, ...], Any, str]]] = {
    WHOAMI: [
        (("package",), "../../etc", "package: String should match"),
        (("personal",), "B" * 64, "personal: String should match"),
        (("code",), HUGE, "bytes, expected at most"),
        (("code",), "another", "runs code another"),
        (("slot",), 7, "says it is device 7"),
    ],
    PERSONALISE: [
        (("personal",), "b" * 63, "personal: String should match"),
        (("personal",), "", "names no model in use"),
        (("bundle",), "/bundle", "bundle: String should match"),
        (("accepted",), 1, "accepted: Input should be a valid boolean"),
        (("accepted",), False, "was turned down, and it serves ffff"),
        (("status",), "fine", "status: Input should be 'ok' or 'refused'"),
        (("status",), "refused", "it refuses, and has a personal model"),
        (("records",), 3, "learnt from 3 records, expected at most 2"),
        (("train_segments",), 15, "15 and 6 segments"),
        (("train_segments",), 1.5, "train_segments: Input should be a valid integer"),
        *((("own_general",), bad, "own_general: Input should be") for bad in (NAN, INF, -0.1, 1.5, True, "1", [0.5])),
        (("own_personal",), None, "one of two accuracies"),
        (("left_out",), {"blank lead": -1}, "left_out.blank lead: Input should be greater"),
        (("parity",), -INF, "parity: Input should be a finite"),
        (("seconds",), -1.0, "seconds: Input should be greater"),
        (("reason",), HUGE, "bytes, expected at most"),
    ],
    PROBE: [
        (("member",), None, "no group member"),
        (("member", "general_hits"), [[1, 0]], "group member has rows"),
        (("member", "general_hits", 0), [1], "group member has rows"),
        (("member", "general_hits", 0, 0), 2, "general_hits.0.0: Input should be less"),
        (("member", "general_hits", 0, 0), True, "general_hits.0.0: Input should be a valid integer"),
        (("control", "personal_margins"), [[0.5]] * 3, "group control has rows"),
        *((("member", "general_margins", 0, 0), bad, "Input should be") for bad in (NAN, INF, True, "1", None, [1.0])),
    ],
    AUDIT: [
        (("job",), "j-1", "is for job 'j-1'"),
        (("job",), "../j", "cannot name a file"),
        (("arms",), {}, "has no job j-0"),
        (("arms", "../x"), {}, "cannot name a file"),
        (("arms", "never", "forgotten", "margins"), [[0.5] * 12] * 3, "different shapes"),
        (("arms", "never", "forgotten", "margins", 0), [0.5], "rows of"),
        (("arms", "exact"), {"forgotten": None}, "Input should be"),
        (("arms", "never", "control", "noised", 0, 0), 1e300, "are no numbers from"),
        *((("arms", "never", "forgotten", "entropy", 0, 0), bad, "Input should be") for bad in (NAN, INF, True, "1")),
    ],
    UNLEARN: [
        (("job",), "j-1", "about job 'j-1', expected j-0"),
        (("job",), "../../registry", "cannot name a file"),
        (("after",), "", "names a model without"),
        (("general",), "", "names a model without"),
        (("served",), "wishing", "serves what 'wishing' made"),
        (("unlearned_at",), "", "does not say when"),
        (("unlearned_at",), "yesterday", "unlearned_at: "),
        (("unlearned_at",), "2026-01-01T00:00:00+09:00", "expected a time in UTC"),
        (("segments_erased",), -1, "segments_erased: Input should be greater"),
        (("erased", 0, "name"), "../../registry.db", "is no file of a device's folder"),
        (("erased", 0, "name"), "a\x1b[2J", "is no file of a device's folder"),
        (("erased", 0, "bytes"), 10**13, "Input should be less"),
        (("barred",), ["a/b"], "cannot name a file"),
        (("methods", 0, "method"), "wishing", "calls 'wishing' exact"),
        (("methods", 0, "exact"), False, "calls 'exact' approximate"),
        (("methods", 0, "own", "unlearned"), 1.01, "own.unlearned: Input should be less"),
        (("methods", 0, "own", "n"), True, "own.n: Input should be a valid integer"),
        (("methods", 0, "after_groups"), {}, "has the groups"),
        (("methods", 0, "after_groups", "more"), asdict(GROUP), "has the groups"),
        (("methods", 0, "after_groups", "forgotten"), asdict(EMPTY), "other segments after"),
        (("methods", 0, "before_groups", "forgotten", "general_hits"), [], "forgotten"),
    ],
    VERIFY: [
        (("job",), "j-2", "about job 'j-2', expected j-0"),
        (("served",), "model", "served: String should match"),
        (("records",), ["../1"], "cannot name a file"),
        (("records",), "12", "records: Input should be a valid"),
        (("leftovers",), [1], "leftovers.0: Input should be a valid string"),
        (("leftovers",), [HUGE], "bytes, expected at most"),
        (("seconds",), INF, "seconds: Input should be a finite"),
    ],
}
LIES = [pytest.param(kind, make, named, id=f"{kind}-{name}") for kind in KINDS for name, (make, named) in ANY.items()]
LIES += [
    pytest.param(
        kind, lambda _, reply, path=path, bad=bad: edited(reply, *path, to=bad), named, id=f"{kind}-{path[-1]}-{i}"
    )
    for kind, lies in ABOUT.items()
    for i, (path, bad, named) in enumerate(lies)
]

LIES += [pytest.param(UNLEARN, lambda _, reply: modelless(reply), "made, and names no model", id="no model")]


@pytest.mark.parametrize("kind", KINDS)
def test_who_tells_the_truth_is_heard(kind):
    said = ask(kind, lambda message, reply: Message(write(reply), reply_to=message))
    assert set(said.heard) == {LIAR, *HONEST}
    assert said.refused == []


@pytest.mark.parametrize(("kind", "lie", "named"), LIES)
def test_a_lie_is_refused_by_name_and_the_others_are_heard(kind, lie, named):
    def told(message: Message, reply: Any) -> Message:
        answer = lie(message, reply)
        return answer if isinstance(answer, Message) else Message(answer, reply_to=message)

    said = ask(kind, told)
    assert set(said.heard) == HONEST
    ((slot, asked, error),) = said.refused
    assert (slot, asked) == (LIAR, kind)
    assert re.search(named, str(error)), error
    assert len(str(error)) < MOST_TEXT + 200
    assert str(error).isprintable()


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_in_place_of_an_answer_is_told_as_one(kind):
    def broken(_: Message, __: Any) -> Message:
        raise ValueError("a bug \x1b[2J" + 5000 * "!")

    said = ask(kind, broken)
    assert set(said.heard) == HONEST
    ((slot, asked, error),) = said.refused
    assert (slot, asked, type(error)) == (LIAR, kind, RunError)
    assert "the device failed, Flower's error 2: ValueError" in str(error)
    assert str(error).isprintable()


@pytest.mark.parametrize("kind", KINDS)
def test_a_second_answer_to_one_question_is_passed_over(kind, monkeypatch):
    """Once the first has come nobody waits for another, whatever it says."""
    pull = LocalGrid.pull_messages
    monkeypatch.setattr(LocalGrid, "pull_messages", lambda grid, ids: [m for m in pull(grid, ids) for _ in range(2)])
    said = ask(kind, lambda message, reply: Message(write(reply), reply_to=message))
    assert set(said.heard) == {LIAR, *HONEST}


def test_of_two_that_say_they_are_one_device_neither_is_believed():
    def device(message: Message, context: Context) -> Message:
        slot = min(int(context.node_config["partition-id"]), 1)
        return Message(write(honest(WHOAMI, slot)), reply_to=message)

    refused: list[str] = []
    found = roll_call.directory(
        LocalGrid(device, nodes=3, run_config={}),
        run="r",
        expected=3,
        code="code",
        answer_s=60,
        registered=False,
        refuse=lambda _, __, error: refused.append(str(error)),
    )
    assert set(found) == {0}
    assert refused == ["2 nodes say they are device 1; none is believed"] * 2


def test_text_for_people_comes_in_one_line_plain_and_short():
    reason = "cannot\n\tsee \x1b]0;me\x07 \u202egnp.exe" + "!" * 5000
    said = ask(PROBE, lambda m, _: Message(write(ProbeReply(LIAR, "refused", reason)), reply_to=m))
    told = said.heard[LIAR].reason
    assert told.startswith("cannot see \ufffd]0;me\ufffd \ufffdgnp.exe!!!")
    assert len(told) == MOST_TEXT


@pytest.mark.parametrize("bad", [b"", b"no weights", NAN, INF])
def test_served_weights_that_are_no_numbers_are_refused(bad):
    from safetensors.numpy import save

    data = bad if isinstance(bad, bytes) else save({"head.weight": np.array([1.0, bad], dtype=np.float32)})
    lie = lambda m, reply: Message(write(reply, blobs={MODEL: data}), reply_to=m)  # noqa: E731
    said = ask(VERIFY, lie, white_box=True)
    assert set(said.heard) == HONEST
    ((slot, _, error),) = said.refused
    assert slot == LIAR
    assert "weights that came" in str(error)


# The same lies in a run of a small fleet, where what is believed would end in the registry, in files and certificates

TOLD = {
    WHOAMI: (("package",), "../../LIE", "package: String should match"),
    PERSONALISE: (("own_personal",), 9.75, "own_personal: Input should be less"),
    PROBE: (("member", "general_hits"), [[1]], "group member has rows"),
    AUDIT: (("arms", "never", "forgotten", "margins"), [[0.0, 0.0]] * 2, "different shapes"),
    UNLEARN: (("erased",), [{"name": "../../../LIE", "bytes": 1}], "is no file of a device's folder"),
    VERIFY: (("job",), "j-LIE", "about job 'j-LIE'"),
}


def lying(kind: str, *path: Any, to: Any) -> Callable[[Message, Context], Message]:
    """The device's own app, but for one value of one answer."""

    def app(message: Message, context: Context) -> Message:
        answer = client_app(message, context)
        if message.metadata.message_type != kind:
            return answer
        told = json.loads(answer.content.config_records["payload"]["json"])
        if told.get("status") == "refused":
            return answer
        place = told
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = to
        return Message(raw(json.dumps(told).encode()), reply_to=message)

    return app


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_goes_on_without_the_liar_and_says_what_was_refused(fleet, kind):
    path, bad, named = TOLD[kind]
    liar, other = fleet.wearer(LIAR), fleet.wearer(1)
    fleet.grid.apps[FIRST_NODE + LIAR] = lying(kind, *path, to=bad)
    if kind in JOBS:
        for patient in (liar, other):
            fleet.registry.withdraw(patient.id)
    run = fleet.run()
    states = {job.slot: job.state for job in fleet.registry.jobs()}
    assert states == ({LIAR: states.get(LIAR), 1: "CERTIFIED"} if kind in JOBS else {})
    assert states.get(LIAR) != "CERTIFIED"
    assert {2, 3} <= set(run.personal) & set(run.probes)
    told = json.loads((fleet.workspace.reports / run.name / "result.json").read_text())["refused"]
    (row,) = {tuple(row.values()) for row in told}
    assert row[:3] == ((None, "a device", kind) if kind == WHOAMI else (LIAR, liar.pseudonym, kind))
    assert named in row[3]
    if kind in JOBS:
        (job,) = (job for job in fleet.registry.jobs() if job.slot == LIAR)
        assert named in json.dumps(job.detail)
        assert any(named in json.dumps(step.detail) for step in fleet.registry.job_events(job.id))
    assert not list(fleet.workspace.home.parent.rglob("*LIE*"))


@pytest.mark.parametrize("kind", JOBS)
def test_a_liar_that_comes_to_its_senses_is_certified_in_the_next_run(fleet, kind):
    path, bad, _ = TOLD[kind]
    fleet.registry.withdraw(fleet.wearer(LIAR).id)
    (job,) = fleet.registry.jobs()
    fleet.grid.apps[FIRST_NODE + LIAR] = lying(kind, *path, to=bad)
    fleet.run()
    fleet.grid.apps.clear()
    fleet.run()
    expected = "FAILED" if kind == AUDIT else "CERTIFIED"  # of what was erased no copy can be made any more
    assert fleet.registry.job(job.id).state == expected


# What has the right form, and the device's own bytes or the registry contradict
CONTRADICTED = {
    "another model than is served": (UNLEARN, ("after",), OTHER, "model as acknowledged"),
    "another model on the disk": (VERIFY, ("served",), OTHER, "model as acknowledged"),
    "a record that should be gone": (VERIFY, ("records",), ["1"], "withdrawn records"),
    "a general model that nobody made": (UNLEARN, ("general",), OTHER, "lineage of the general model"),
}


@pytest.mark.parametrize("what", CONTRADICTED)
def test_what_the_bytes_contradict_is_never_certified(fleet, what):
    kind, path, bad, named = CONTRADICTED[what]
    liar, other = fleet.wearer(LIAR), fleet.wearer(1)
    fleet.grid.apps[FIRST_NODE + LIAR] = lying(kind, *path, to=bad)
    for patient in (liar, other):
        fleet.registry.withdraw(patient.id)
    fleet.run()
    jobs = {job.slot: job for job in fleet.registry.jobs()}
    assert (jobs[LIAR].state, jobs[1].state) == ("FAILED", "CERTIFIED")
    assert named in jobs[LIAR].detail["reason"]
    checks = jobs[LIAR].detail["verdict"]["bytes"]["checks"]
    assert named in [check["name"] for check in checks if not check["holds"]]
