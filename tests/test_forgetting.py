"""A device forgets: it compares methods on segments no model saw, and erases whatever else is broken."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fleet import TINY, copied
from ptbxl_files import room_for

import client.forgetting
from client.device import make_personal
from client.forgetting import forget
from client.sensor import Feed, Recording
from client.store import State, Store
from shared.errors import LetheError
from shared.messages import PersonaliseRequest, UnlearnRequest
from shared.model import load, to_bytes
from shared.package import Package
from shared.settings import Settings
from shared.unlearning import METHODS

OLD, MIDDLE, NEW = "8133", "9000", "11411"


def recordings(public, names) -> list[Recording]:
    """Ten public segments a record, each told apart by a constant that is added to it."""
    label = np.eye(5, dtype=np.float32)[4]
    segments = public.control.segments[:10].numpy()
    return [Recording(name, "", segments + np.float32(number / 10), label) for number, name in enumerate(names)]


def personalised(folder: Path, package: Package, public, names=(OLD, NEW), settings: Settings = TINY) -> Store:
    """A device with records and a personal model."""
    store = Store(folder)
    store.add(recordings(public, names))
    assert run_again(store, package, settings).status == "ok"
    assert store.state.model != store.state.general
    return store


def run_again(store: Store, package: Package, settings: Settings = TINY):
    """What every run does with a device; consent is to what is there."""
    request = PersonaliseRequest(
        "run", package.digest, package.fingerprint, store.record_ids(), settings.personalisation
    )
    blobs = {} if store.package == package.fingerprint else package.blobs()
    return make_personal(store, Feed(Path(), "p", ()), request, slot=0, blobs=blobs)


def request(*records: str, methods=("finetune", "exact"), retrain=True) -> UnlearnRequest:
    """To forget the named records, or everything where none is named."""
    return UnlearnRequest(
        job="j-1",
        scope="records" if records else "patient",
        records=records,
        methods=methods,
        serve=methods[-1],
        personalisation=TINY.personalisation,
        unlearning=TINY.unlearning,
        epsilons_sd=(0.0,),
        retrain=retrain,
    )


@pytest.fixture(scope="module")
def used(tmp_path_factory, package, _loaded) -> Path:
    return personalised(tmp_path_factory.mktemp("used") / "device", package, _loaded[1]).folder


@pytest.fixture
def store(tmp_path, used) -> Store:
    """A device of its own for the test, with two records and a personal model."""
    return Store(copied(used, tmp_path / "device"))


def rows(segments) -> set[bytes]:
    return {segment.numpy().tobytes() for segment in segments}


# What methods are compared on


@pytest.mark.parametrize(
    ("names", "gone", "count"),
    [
        ((OLD, NEW), [OLD], 3),  # the newest was held out, and is now split by time
        ((OLD, NEW), [NEW], 0),  # what is held out of the older now was trained on before
        ((OLD, MIDDLE, NEW), [OLD], 10),
        ((OLD, MIDDLE, NEW), [MIDDLE], 10),
        ((OLD, MIDDLE, NEW), [NEW], 0),
        ((OLD, MIDDLE, NEW), [OLD, MIDDLE], 3),
        ((OLD,), [], 3),
        ((OLD, NEW), [], 10),
    ],
)
def test_methods_are_compared_on_segments_that_no_model_was_made_of(
    tmp_path, package, public, monkeypatch, names, gone, count
):
    store = personalised(tmp_path / "device", package, public, names)
    seen = {}
    measure = client.forgetting._measure

    def watched(method, unlearned, withdrawal, request, *, seconds):
        seen[method] = withdrawal
        return measure(method, unlearned, withdrawal, request, seconds=seconds)

    monkeypatch.setattr(client.forgetting, "_measure", watched)
    before = client.forgetting.Own.of(store.recordings(), held_out=TINY.personalisation.held_out).training
    reply = forget(store, request(*gone), slot=0)
    held_out, case = rows(seen["exact"].held_out.segments), seen["exact"].case
    assert not held_out & (rows(case.retain.segments) | rows(before.segments))
    assert rows(case.forget.segments) <= rows(before.segments) or gone == [NEW]
    assert [method.own.n for method in reply.methods] == [count, count] == [len(held_out)] * 2
    assert (reply.methods[0].own.personal is None) == (count == 0)
    kept = client.forgetting.Own.of(store.recordings(), held_out=TINY.personalisation.held_out)
    assert rows(case.retain.segments) == rows(kept.training.segments)


# Erasure does not depend on anything else


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1000])


def harm_model(store: Store) -> None:
    truncate(store.model_path)


def lose_model(store: Store) -> None:
    store.model_path.unlink()


def flip_a_bit_of_the_model(store: Store) -> None:
    data = bytearray(store.model_path.read_bytes())
    data[-5] ^= 1
    store.model_path.write_bytes(data)


def harm_state(store: Store) -> None:
    (store.folder / "state.json").write_text("{")


def harm_kept_recording(store: Store) -> None:
    truncate(store.folder / "recordings" / f"{NEW}.npz")


def harm_forgotten_recording(store: Store) -> None:
    truncate(store.folder / "recordings" / f"{OLD}.npz")


def harm_package(name: str):
    def harm(store: Store) -> None:
        truncate(store.general_folder(store.state.general) / name)

    harm.__name__ = f"harm_{name}"
    return harm


def lose_package(store: Store) -> None:
    for path in store.general_folder(store.state.general).iterdir():
        path.unlink()


SPARES_GENERAL = [
    harm_model, lose_model, flip_a_bit_of_the_model, harm_state, harm_kept_recording, harm_forgotten_recording
]  # fmt: skip
HARMS_GENERAL = [
    *(harm_package(name) for name in ("model.safetensors", "public.safetensors", "template.onnx")), lose_package
]  # fmt: skip


@pytest.mark.parametrize("gone", [(), (OLD,)], ids=["patient", "record"])
@pytest.mark.parametrize("harm", [*SPARES_GENERAL, *HARMS_GENERAL])
def test_a_damaged_device_erases_all_the_same_and_says_what_it_could_not_measure(store, package, harm, gone):
    records = gone or (OLD, NEW)
    old = [path.read_bytes() for path in (store.model_path, store.bundle_path)]
    harm(store)
    store = Store(store.folder)
    reply = forget(store, request(*gone), slot=0)
    assert (reply.status, reply.methods, reply.served) == ("ok", (), "")
    assert reply.reason.startswith("nothing could be measured: ")
    assert not set(records) & set(store.record_ids())
    assert {f"recordings/{record}.npz" for record in records} <= {file.name for file in reply.erased}
    assert not [path for path in store.folder.rglob("*") if path.is_file() and path.read_bytes() in old]
    if harm in SPARES_GENERAL:
        assert store.state == State(package.digest, package.digest, store.state.bundle)
        assert store.model_path.read_bytes() == package.model
        assert store.whole
    else:
        assert store.state == State()
        assert not store.digests()
    assert (reply.after, reply.bundle) == (store.state.model, store.state.bundle)
    assert forget(store, request(*gone), slot=0) == reply


@pytest.mark.parametrize("harm", [harm_model, harm_package("public.safetensors"), lose_package])
def test_after_a_withdrawal_on_a_damaged_device_the_next_run_makes_the_copy_of_what_is_kept(
    store, package, public, tmp_path, harm
):
    harm(store)
    forget(store, request(OLD), slot=0)
    assert run_again(store, package).accepted
    never = Store(tmp_path / "never")
    never.add([recording for recording in recordings(public, (OLD, NEW)) if recording.id == NEW])
    run_again(never, package)
    assert store.state == never.state
    assert store.model_path.read_bytes() == never.model_path.read_bytes()


@pytest.mark.parametrize("gone", [(), (OLD,)], ids=["patient", "record"])
def test_a_device_without_room_for_another_model_erases_all_the_same(store, package, gone):
    with room_for(len(package.model) // 2):  # a decision and an answer fit, a model does not
        reply = forget(store, request(*gone), slot=0)
    assert (reply.status, reply.served, reply.after, reply.methods) == ("ok", "", "", ())
    assert "staged.safetensors" in reply.reason
    assert reply.segments_erased == 10 * len(gone or (OLD, NEW))
    assert {"model.safetensors", "bundle.onnx"} <= {file.name for file in reply.erased}
    assert store.state == State()
    assert store.record_ids() == ((NEW,) if gone else ())
    assert not [path for path in store.folder.iterdir() if path.name.startswith("staged")]
    assert forget(store, request(*gone), slot=0) == reply
    if gone:
        assert run_again(store, package).accepted  # of what is kept, once there is room


@pytest.mark.parametrize("room", [0, 100])
def test_a_device_without_any_room_keeps_all_as_it_was_until_it_is_asked_again(store, room):
    before = {path: path.read_bytes() for path in store.folder.rglob("*") if path.is_file()}
    with room_for(room), pytest.raises(OSError, match=r"staged\.json"):
        forget(store, request(OLD), slot=0)
    assert {path: path.read_bytes() for path in store.folder.rglob("*") if path.is_file()} == before
    assert forget(store, request(OLD), slot=0).served == "exact"


def test_a_damaged_onnx_file_is_replaced_and_all_methods_are_measured(store):
    truncate(store.bundle_path)
    reply = forget(store, request(OLD), slot=0)
    assert (reply.reason, len(reply.methods)) == ("", 2)
    assert store.whole


@pytest.mark.parametrize("error", [LetheError("training diverged"), RuntimeError("out of range"), MemoryError()])
@pytest.mark.parametrize("failing", ["finetune", "exact"])
def test_a_method_that_fails_keeps_nothing_from_being_erased(store, package, monkeypatch, failing, error):
    def fail(_):
        raise error

    monkeypatch.setitem(METHODS, failing, fail)
    reply = forget(store, request(OLD), slot=0)
    assert reply.status == "ok"
    assert str(error) in reply.reason
    assert store.record_ids() == (NEW,)
    if failing == "finetune":  # it was not to be served
        assert ([one.method for one in reply.methods], reply.served) == (["exact"], "exact")
        return
    assert (reply.methods, reply.served) == ((), "")
    assert store.model_path.read_bytes() == package.model
    assert store.state.recipe == ""


@pytest.mark.parametrize("harm", [harm_model, harm_state, lambda store: truncate(store.bundle_path)])
def test_a_run_makes_a_damaged_personal_model_again(store, package, harm):
    state, model = store.state, store.model_path.read_bytes()
    harm(store)
    assert run_again(store, package).status == "ok"
    assert (store.state, store.model_path.read_bytes(), store.whole) == (state, model, True)


# While the general model is being remade


@pytest.mark.parametrize("gone", [(), (OLD,)], ids=["patient", "record"])
def test_nothing_is_trained_while_the_general_model_is_being_remade(store, package, monkeypatch, gone):
    for method in METHODS:
        monkeypatch.setitem(METHODS, method, None)
    monkeypatch.setattr("client.device.personalise", None)
    reply = forget(store, request(*gone, retrain=False), slot=0)
    assert (reply.status, reply.methods, reply.served) == ("ok", (), "")
    assert reply.reason == "the general model is being remade"
    assert store.record_ids() == ((NEW,) if gone else ())
    assert reply.after == reply.general == package.digest
    assert store.state == State(package.digest, package.digest, reply.bundle)
    assert store.model_path.read_bytes() == package.model


def test_the_copy_is_made_anew_once_the_general_model_is(store, package):
    forget(store, request(OLD, retrain=False), slot=0)
    assert run_again(store, package).accepted
    assert store.state.model != package.digest


def test_a_device_that_never_made_a_model_erases_and_serves_none(tmp_path, public):
    for retrain in (True, False):
        store = Store(tmp_path / str(retrain))
        store.add(recordings(public, (OLD, NEW)))
        reply = forget(store, request(OLD, retrain=retrain), slot=0)
        assert (reply.segments_erased, reply.after, reply.general) == (10, "", "")
        assert store.record_ids() == (NEW,)
        assert store.state == State()


def test_an_answer_that_cannot_be_read_is_made_again(store):
    first = forget(store, request(OLD), slot=0)
    (store.folder / "answers" / "j-1.json").write_text("{")
    again = forget(store, request(OLD), slot=0)
    assert (again.status, again.after, again.segments_erased) == ("ok", first.after, 0)


# A method that is not exact


def test_a_method_that_refuses_does_not_keep_the_exact_one_from_being_served(store):
    reply = forget(store, request(OLD, methods=("gkt", "exact")), slot=0)
    assert (reply.status, reply.served) == ("ok", "exact")
    assert [one.method for one in reply.methods] == ["exact"]
    assert reply.reason.startswith("gkt made no model: gkt forgets whole classes")
    assert store.state.model != store.state.general


def test_where_the_method_to_serve_makes_no_model_the_general_one_is_served(store):
    reply = forget(store, request(OLD, methods=("exact", "gkt")), slot=0)
    assert reply.served == ""
    assert "gkt forgets whole classes" in reply.reason
    assert store.state.model == store.state.general


def test_a_model_that_is_not_exact_says_so_and_stays_in_use(store, package):
    forget(store, request(OLD, methods=("exact", "finetune")), slot=0)
    state = store.state
    assert state.recipe.startswith("finetune:")
    for _ in range(2):
        run_again(store, package)
        assert store.state == state


def test_a_model_that_is_not_exact_gives_way_when_records_change(store, package, public):
    forget(store, request(OLD, methods=("exact", "finetune")), slot=0)
    (new,) = recordings(public, ("20000",))
    store.add([replace(new, segments=new.segments + 1)])
    run_again(store, package)
    assert ":" not in store.state.recipe
    assert store.state.recipe


def test_a_later_exact_withdrawal_leaves_nothing_of_an_approximate_one(store, package):
    forget(store, request(OLD, methods=("finetune",)), slot=0)
    forget(store, replace(request(methods=("exact",)), job="j-2"), slot=0)
    assert to_bytes(load(store.model_path)) == package.model
    assert store.state.recipe == ""
