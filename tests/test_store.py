"""The device's folder: a change is whole or not at all, whatever stops it, and what is erased is gone."""

import hashlib
import resource
import signal
import sys
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from client.bundle import EightBits
from client.device import recipe
from client.sensor import Recording
from client.store import Change, State, Store
from shared.errors import DataError
from shared.files import write_atomically
from shared.package import MODEL, Package


def recording(name: str, value: float = 1.0) -> Recording:
    shape = (10, 12, 500)
    return Recording(name, "2001-01-01", np.full(shape, value, np.float32), np.eye(5, dtype=np.float32)[0])


def filled(folder: Path) -> Store:
    """A device in use, with two records."""
    store = Store(folder)
    store.install(package(b"g"))
    store.add([recording("r1"), recording("r2", 2.0)])
    state = State(package(b"g").digest, "a" * 64, "b" * 64, "recipe", int8=EightBits("e" * 64, 900))
    store.apply(Change(state, b"old model" * 100, b"old bundle" * 100, b"old manifest", b"old eight bits" * 100))
    return store


def package(weights: bytes) -> Package:
    return Package(weights * 64, b"template" + weights, b"public" + weights)


def change(eight_bits: bytes = b"new eight bits" * 100) -> Change:
    eight = EightBits("f" * 64, 900) if eight_bits else EightBits(reason="the gate")
    state = State(package(b"h").digest, "c" * 64, "d" * 64, "", "why", int8=eight)
    files = (b"new model" * 100, b"new bundle" * 100, b"new manifest", eight_bits)
    return Change(state, *files, erase=("r1",), answer=("j-1", '{"answer": 1}'))


def picture(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


class Power:
    """Fails the n-th operation on a file or folder, and all that follow, as when the power goes."""

    EVENTS = frozenset({"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link"})

    def __init__(self) -> None:
        self.left: int | None = None
        self.seen = 0
        self.folder = ""
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[object, ...]) -> None:
        if self.left is None or event not in self.EVENTS or not str(arguments[0]).startswith(self.folder):
            return
        self.seen += 1
        if self.seen > self.left:
            raise PowerCut

    @contextmanager
    def after(self, operations: int, folder: Path):
        self.seen, self.folder, self.left = 0, str(folder), operations
        try:
            yield
        finally:
            self.left = None


class PowerCut(BaseException):
    pass


@pytest.fixture(scope="session")
def power() -> Power:
    return Power()


def outcomes(tmp_path: Path, power: Power, act) -> list[dict[str, bytes]]:
    """What is in the folder after a power cut at every operation of `act` and a restart, and last without a cut."""
    found = []
    for operations in range(1000):
        folder = tmp_path / str(operations)
        store = filled(folder)
        store.install(package(b"h"))
        try:
            with power.after(operations, folder):
                act(store)
        except PowerCut:
            Store(folder)
            found.append(picture(folder))
            continue
        found.append(picture(folder))
        return found
    raise AssertionError("it never ends")


@pytest.mark.parametrize("eight_bits", [b"new eight bits" * 100, b""], ids=["ships", "does not ship"])
def test_a_power_cut_at_any_operation_leaves_the_old_or_the_new_state(tmp_path, power, eight_bits):
    found = outcomes(tmp_path, power, lambda store: store.apply(change(eight_bits)))
    old, new = found[0], found[-1]
    assert len(found) > 15
    assert all(one in (old, new) for one in found)
    switched = [one == new for one in found]
    assert switched == sorted(switched)  # once decided, always finished
    assert old["model.safetensors"] == b"old model" * 100
    assert new["model.safetensors"] == b"new model" * 100
    assert (old["bundle.json"], new["bundle.json"]) == (b"old manifest", b"new manifest")
    assert "recordings/r1.npz" in old
    assert (old["bundle.int8.onnx"], new.get("bundle.int8.onnx", b"")) == (b"old eight bits" * 100, eight_bits)
    assert {name.split("/")[0] for name in new} - {"bundle.int8.onnx"} == {
        "recordings", "general", "model.safetensors", "bundle.onnx", "bundle.json", "state.json", "answers"
    }  # fmt: skip
    assert [name for name in new if name.startswith("recordings/")] == ["recordings/r2.npz"]
    assert new["answers/j-1.json"] == b'{"answer": 1}'
    assert not any(package(b"g").digest in name for name in new)


def test_a_power_cut_during_the_recovery_is_recovered_from_too(tmp_path, power):
    for first in range(12, 22, 3):
        for second in range(0, 12, 3):
            folder = tmp_path / f"{first}-{second}"
            store = filled(folder)
            store.install(package(b"h"))
            with pytest.raises(PowerCut), power.after(first, folder):
                store.apply(change())
            with suppress(PowerCut), power.after(second, folder):
                Store(folder)
            after = Store(folder)
            whole = (after.state, after.model_path.read_bytes(), after.bundle_path.read_bytes(), after.record_ids())
            assert whole in (
                (change().state, change().model, change().bundle, ("r2",)),
                (State(package(b"g").digest, "a" * 64, "b" * 64, "recipe", int8=EightBits("e" * 64, 900)),
                 b"old model" * 100, b"old bundle" * 100, ("r1", "r2")),
            )  # fmt: skip
            assert not list(folder.glob("staged.*"))


def test_a_power_cut_while_a_package_is_installed_leaves_a_package_that_can_be_used(tmp_path, power):
    for operations in range(1000):
        folder = tmp_path / str(operations)
        store = filled(folder)
        try:
            with power.after(operations, folder):
                store.install(package(b"h"))
        except PowerCut:
            after = Store(folder)
            assert after.package in (package(b"g").fingerprint, package(b"h").fingerprint)
            assert (after.general_folder(after.state.general) / MODEL).exists()  # what is in use can still forget
            after.install(package(b"h"))
            assert after.package == package(b"h").fingerprint
            continue
        return


def test_temporary_files_of_a_killed_process_are_swept(tmp_path):
    store = filled(tmp_path)
    for name in (".model.safetensors.x1", "recordings/.r9.npz.ab", "general/.x.y", ".int8.ab/.c.d", ".int8.ab/e.onnx"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"half")
    (tmp_path / "staged.safetensors").write_bytes(b"half")
    before = {name for name in picture(tmp_path) if "/." not in name and not name.startswith((".", "staged"))}
    Store(tmp_path)
    assert set(picture(tmp_path)) == before
    assert store.record_ids() == ("r1", "r2")


@contextmanager
def room_for(size: int):
    """No file can grow beyond `size` bytes, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("size", [0, 10, 500, 899, 900, 950, 999])
def test_a_full_disk_leaves_no_half_file_and_the_old_state(tmp_path, size):
    store = filled(tmp_path)
    before = picture(tmp_path)
    with room_for(size), pytest.raises(OSError, match="File too large"):
        store.apply(change())
    after = picture(Store(tmp_path).folder)
    assert after == before


@pytest.mark.parametrize("size", [0, 1, 4095])
def test_a_full_disk_leaves_the_file_as_it_was(tmp_path, size):
    path = tmp_path / "file"
    write_atomically(path, b"old")
    with room_for(size), pytest.raises(OSError, match="File too large"):
        write_atomically(path, b"n" * 4096)
    assert picture(tmp_path) == {"file": b"old"}


def test_a_full_disk_keeps_no_half_recording(tmp_path):
    store = Store(tmp_path)
    with room_for(50_000), pytest.raises(OSError, match="File too large"):
        store.add([recording("r1")])
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_erasing_removes_the_bytes_from_the_folder(tmp_path):
    store = filled(tmp_path)
    needle = recording("r1").segments.tobytes()[:2000]
    assert any(needle in data for data in picture(tmp_path).values())
    store.erase(["r1", "never-there"])
    assert not any(needle in data for data in picture(tmp_path).values())


def test_recordings_come_back_oldest_first_and_as_they_were(tmp_path):
    store = Store(tmp_path)
    young = Recording(
        "a", "2010-05-01", np.random.default_rng(0).random((10, 12, 500), np.float32), np.ones(5, np.float32)
    )
    store.add([young, recording("b")])
    first, second = store.recordings()
    assert (first.id, second.id) == ("b", "a")
    assert second.recorded_at == "2010-05-01"
    assert np.array_equal(second.segments, young.segments)
    assert np.array_equal(second.labels, young.labels)


@pytest.mark.parametrize("name", ["../r", "a/b", "", ".hidden", "a" * 200, "r\n", "r 1"])
def test_a_name_that_is_no_file_s_name_is_refused(tmp_path, name):
    store = Store(tmp_path / "device")
    with pytest.raises(DataError, match="cannot name a file"):
        store.add([recording(name)])
    with pytest.raises(DataError, match="cannot name a file"):
        store.answer(name)
    assert list(tmp_path.iterdir()) == [tmp_path / "device"]


def test_without_dates_recordings_are_in_the_order_in_which_ids_are_given(tmp_path):
    store = Store(tmp_path)
    for name in ("11411", "8133", "00017", "2"):
        store.add([replace(recording(name), recorded_at="")])
    assert [found.id for found in store.recordings()] == ["2", "8133", "00017", "11411"]


@pytest.mark.parametrize("content", [b"", b"{", b"null", b'{"model": 1}', b"\xff\x00"])
def test_a_device_with_a_damaged_state_counts_as_empty(tmp_path, content):
    filled(tmp_path)
    (tmp_path / "state.json").write_bytes(content)
    store = Store(tmp_path)
    assert store.state == State()
    assert store.package == package(b"g").fingerprint
    assert not store.whole
    store.apply(change())
    assert store.state == change().state


@pytest.mark.parametrize("content", [b"", b'{"state": {}', b"[]", b'{"state": 3, "erase": [], "answer": null}'])
def test_a_damaged_decision_does_not_brick_the_device(tmp_path, content):
    before = filled(tmp_path)
    (tmp_path / "staged.json").write_bytes(content)
    (tmp_path / "staged.onnx").write_bytes(b"new")
    store = Store(tmp_path)
    assert (store.state, store.package, store.record_ids()) == (State(), before.package, ("r1", "r2"))
    assert not list(tmp_path.glob("staged.*"))
    assert Store(tmp_path).state == State()


def spoilt(folder: Path, name: str) -> None:
    path = folder / "general" / package(b"g").digest / name
    if name == MODEL:
        path.write_bytes(path.read_bytes()[:10])
    else:
        path.unlink()


@pytest.mark.parametrize("name", [MODEL, "template.onnx", "public.safetensors"])
def test_a_damaged_package_counts_as_none_until_it_is_sent_again(tmp_path, name):
    store = filled(tmp_path)
    spoilt(tmp_path, name)
    assert store.package == ""
    store.install(package(b"g"))
    assert store.package == package(b"g").fingerprint


@pytest.mark.parametrize("name", ["template.onnx", "public.safetensors"])
def test_a_package_with_a_changed_part_is_another_package(tmp_path, name):
    store = filled(tmp_path)
    (tmp_path / "general" / package(b"g").digest / name).write_bytes(b"half")
    assert store.package not in ("", package(b"g").fingerprint)


def test_a_damaged_package_does_not_hide_a_sound_one(tmp_path):
    store = filled(tmp_path)
    store.install(package(b"h"))
    spoilt(tmp_path, MODEL)
    assert store.package == package(b"h").fingerprint


def test_a_state_without_a_model_removes_the_files_of_the_model_whatever_stops_it(tmp_path, power):
    found = outcomes(tmp_path, power, lambda store: store.apply(Change(State(), erase=("r1",))))
    old, new = found[0], found[-1]
    assert all(one in (old, new) for one in found)
    assert {"model.safetensors", "bundle.onnx", "bundle.int8.onnx"} <= set(old)
    assert not {"model.safetensors", "bundle.onnx", "bundle.int8.onnx", "recordings/r1.npz"} & set(new)
    assert not any(package(b"g").digest in name for name in new)


def test_a_damaged_recording_is_named_and_can_be_erased(tmp_path):
    store = filled(tmp_path)
    (tmp_path / "recordings" / "r1.npz").write_bytes(b"PK half")
    with pytest.raises(DataError, match=r"r1\.npz is damaged"):
        store.recordings()
    assert store.segments(["r1", "r2"]) == 10
    store.erase(["r1"])
    assert [found.id for found in store.recordings()] == ["r2"]


def test_files_that_are_not_those_of_the_state_are_noticed(tmp_path):
    store = Store(tmp_path)
    model, bundle = b"model", b"bundle"
    store.apply(
        Change(State("g", hashlib.sha256(model).hexdigest(), hashlib.sha256(bundle).hexdigest()), model, bundle)
    )
    assert store.whole
    for path in (store.model_path, store.bundle_path):
        kept = path.read_bytes()
        path.write_bytes(kept[:-1])
        assert not store.whole
        path.write_bytes(kept)
    assert store.whole


def test_a_recipe_tells_apart_what_a_model_was_made_of_and_what_changed_it():
    assert State(recipe="abc").made_of == State(recipe="finetune:abc").made_of == "abc"
    assert State(recipe="finetune:").made_of == State().made_of == ""


def test_a_new_folder_is_empty(tmp_path):
    store = Store(tmp_path / "new")
    assert (store.state, store.package, store.record_ids(), store.answer("j-1")) == (State(), "", (), None)
    assert store.sizes(["model.safetensors"]) == {}


def test_a_package_of_other_weights_is_refused_and_a_part_missing_is_named(tmp_path):
    good = package(b"g")
    with pytest.raises(DataError, match="expected 0000"):
        Package.from_blobs(good.blobs(), expected="0" * 64)
    with pytest.raises(DataError, match=r"without template\.onnx"):
        Package.from_blobs({k: v for k, v in good.blobs().items() if k != "template.onnx"}, expected=good.digest)
    good.save(tmp_path / good.digest)
    assert Package.open(tmp_path / good.digest) == good
    assert hashlib.sha256(good.model).hexdigest() == good.digest
    (tmp_path / good.digest / "public.safetensors").unlink()
    with pytest.raises(DataError, match="incomplete"):
        Package.open(tmp_path / good.digest)


def test_a_recipe_names_everything_that_a_copy_depends_on():
    base = recipe("g", [recording("r1")], "settings")
    assert base == recipe("g", [recording("r1")], "settings")
    others = [
        recipe("h", [recording("r1")], "settings"),
        recipe("g", [recording("r2")], "settings"),
        recipe("g", [recording("r1", 2.0)], "settings"),
        recipe("g", [recording("r1")], "other settings"),
        recipe("g", [recording("r1"), recording("r2")], "settings"),
        recipe("g", [], "settings"),
    ]
    assert len({base, *others}) == 7
