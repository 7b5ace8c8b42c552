"""The device's private folder: recordings, the general model's package, the model in use, its ONNX bundle.

    devices/<slot>/
      recordings/<record>.npz      segments and labels; they never leave this folder
      general/<digest>/            the package of one general model, and its bundle, to fall back to
      model.safetensors            the model in use: personal, or the general model's bytes
      bundle.onnx, bundle.json     the same model as ONNX, and its signed manifest
      bundle.int8.onnx             the same in eight bits, where it ships
      state.json                   digests, and which personal model was made of what
      answers/<job>.json           what was answered to an unlearning job
      staged.json                  a change that is decided and being carried out
      *.pem                        the device's key and whose signatures it believes: `client/envelope.py`

A change is staged, decided by one rename and then carried out; whoever opens the folder after a crash first
carries out what was decided. Files are replaced atomically and flushed. Should state.json be unreadable all the
same, the device counts as empty; should staged.json be, the change counts as never decided and the device as empty.
Then the models are made anew, and the server, which got no answer, asks again for what is to be erased.
"""

import io
import shutil
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from pydantic import TypeAdapter

from client.bundle import BUNDLE, INT8, MANIFEST
from client.sensor import Recording
from client.state import Change, State
from shared.errors import DataError
from shared.fields import safe_name
from shared.files import flush_folder, write_atomically
from shared.model import digest
from shared.notice import Notice
from shared.package import MODEL, Package
from shared.training import Examples


@dataclass(frozen=True)
class _Decision:
    """What staged.json holds: a change without its files, and which general model's package it leaves without use."""

    state: State
    erase: tuple[str, ...]
    answer: tuple[str, str] | None
    drop: str


_STATE, _DECISION = TypeAdapter(State), TypeAdapter(_Decision)
_STAGED = {"staged.safetensors": MODEL, "staged.onnx": BUNDLE, "staged.int8": INT8, "staged.manifest": MANIFEST}


class Store:
    """The folder of one device."""

    def __init__(self, folder: Path, notice: Notice = Notice()) -> None:  # noqa: B008 - frozen
        """Open the folder, make it if it is not there, and finish what a crash left decided.

        `notice` is where word comes of what the patient withdraws.
        """
        self.folder, self.notice = folder, notice
        for name in ("recordings", "general", "answers"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        for stray in [*folder.rglob(".*.*")]:  # what a process that was killed while writing left
            shutil.rmtree(stray) if stray.is_dir() else stray.unlink(missing_ok=True)
        self._finish()

    @property
    def state(self) -> State:
        """Return what is in use; nothing, where there is no state that can be read."""
        try:
            return _STATE.validate_json((self.folder / "state.json").read_bytes())
        except (FileNotFoundError, ValueError):
            return State()

    @property
    def whole(self) -> bool:
        """Return whether model, bundle and eight-bit file are, byte for byte, those of the state."""
        state = self.state
        eight = {INT8: state.int8.digest} if state.int8.digest else {}
        return self.digests() == {MODEL: state.model, BUNDLE: state.bundle, **eight}

    def digests(self) -> Mapping[str, str]:
        """Return the digests of the model, bundle and eight-bit file that are here, by file name."""
        paths = [path for path in (self.model_path, self.bundle_path, self.folder / INT8) if path.exists()]
        return {path.name: digest(path.read_bytes()) for path in paths}

    @property
    def model_path(self) -> Path:
        """Return the file of the model in use."""
        return self.folder / MODEL

    @property
    def bundle_path(self) -> Path:
        """Return its ONNX file."""
        return self.folder / BUNDLE

    def general_folder(self, version: str) -> Path:
        """Return the folder of a general model's package."""
        return self.folder / "general" / _safe(version)

    @property
    def package(self) -> str:
        """Return the fingerprint of the newest package of a general model that is sound, or "" for none."""
        sound = self.packages()
        return sound[-1].fingerprint if sound else ""

    @property
    def package_in_use(self) -> str:
        """Return the fingerprint of the package that the model in use was made of, or "" where none is sound."""
        return next((one.fingerprint for one in self.packages() if one.digest == self.state.general), "")

    def packages(self) -> list[Package]:
        """Return the packages whose weights are sound; the one in use first, because it is the older of two."""
        used, sound = self.state.general, []
        for folder in sorted((self.folder / "general").iterdir(), key=lambda folder: folder.name != used):
            with suppress(DataError):
                sound.append(Package.open(folder))
        return sound

    def install(self, package: Package) -> None:
        """Keep a general model's package; the one in use stays until `apply` replaces its model."""
        package.save(self.general_folder(package.digest))
        self._drop_generals({package.digest, self.state.general})

    def record_ids(self) -> tuple[str, ...]:
        """Return the ids of the recordings that are here."""
        return tuple(sorted(path.stem for path in (self.folder / "recordings").glob("*.npz")))

    def add(self, recordings: Iterable[Recording]) -> None:
        """Keep new recordings."""
        for recording in recordings:
            buffer = io.BytesIO()
            np.savez(
                buffer,
                recorded_at=np.array(recording.recorded_at),
                segments=recording.segments,
                labels=recording.labels,
            )
            write_atomically(self._recording(recording.id), buffer.getvalue())

    def recordings(self) -> list[Recording]:
        """Return the recordings that are here, oldest first; without dates, in the order in which ids are given.

        Raises:
            DataError: one is damaged.
        """
        found = [self._read(record) for record in self.record_ids()]
        return sorted(found, key=lambda recording: (recording.recorded_at, len(recording.id), recording.id))

    def segments(self, records: Iterable[str]) -> int:
        """Return how many segments the named recordings hold, as far as they can be read."""
        count = 0
        for record in records:
            with suppress(DataError):
                count += len(self._read(record).segments)
        return count

    def erase(self, records: Iterable[str]) -> None:
        """Remove recordings for good."""
        _remove(self._recording(record) for record in records)

    def sizes(self, names: Sequence[str]) -> Mapping[str, int]:
        """Return the size in bytes of each file that exists of `names`, by name within the folder."""
        paths = {name: self.folder / name for name in names}
        return {name: path.stat().st_size for name, path in paths.items() if path.exists()}

    def answer(self, job: str) -> str | None:
        """Return what was answered to a job, if it was."""
        path = self.folder / "answers" / f"{_safe(job)}.json"
        return path.read_text() if path.exists() else None

    def apply(self, change: Change, *, look: Callable[[], None] = lambda: None) -> None:
        """Replace the model in use and erase, all or nothing, durable when this returns.

        `look` is called when all is written but the decision; what it raises leaves all as it was.
        """
        try:
            self._decide(change, look)
        finally:  # what is not decided, for lack of room perhaps, gives its room back at once
            self._finish()

    def _decide(self, change: Change, look: Callable[[], None]) -> None:
        """Stage the new files, then the decision; from its last rename on the change is going to be carried out."""
        if change.model:
            write_atomically(self.folder / "staged.safetensors", change.model)
            write_atomically(self.folder / "staged.onnx", change.bundle)
            if change.int8:
                write_atomically(self.folder / "staged.int8", change.int8)
            write_atomically(self.folder / "staged.manifest", change.manifest)
        replaced = self.state.general if self.state.general != change.state.general else ""
        decided = _Decision(change.state, change.erase, change.answer, replaced)
        look()
        write_atomically(self.folder / "staged.json", _DECISION.dump_json(decided))

    def _finish(self) -> None:
        """Carry out what was decided; doing it twice is doing it once."""
        staged = self.folder / "staged.json"
        if not staged.exists():
            _remove(self.folder.glob("staged.*"))
            return
        try:
            decided = _DECISION.validate_json(staged.read_bytes())
        except ValueError:
            _remove([*self.folder.glob("staged.*"), self.folder / "state.json"])
            return
        for name, final in _STAGED.items():
            if (self.folder / name).exists():
                (self.folder / name).replace(self.folder / final)
        gone = () if decided.state.model else (MODEL, BUNDLE, MANIFEST)
        _remove(self.folder / name for name in (*gone, *(() if decided.state.int8.digest else (INT8,))))
        self.erase(decided.erase)
        if decided.answer is not None:
            job, text = decided.answer
            write_atomically(self.folder / "answers" / f"{_safe(job)}.json", text.encode())
        write_atomically(self.folder / "state.json", _STATE.dump_json(decided.state))
        if decided.drop:
            self._drop_generals({folder.name for folder in (self.folder / "general").iterdir()} - {decided.drop})
        _remove([staged])

    def _drop_generals(self, keep: Collection[str]) -> None:
        """Remove the packages of other general models."""
        for folder in (self.folder / "general").iterdir():
            if folder.name not in keep:
                _remove([folder / MODEL])  # first, so that a folder with weights is complete
                _remove(folder.iterdir())
                folder.rmdir()

    def _read(self, record: str) -> Recording:
        path = self._recording(record)
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as data:
                return Recording(record, str(data["recorded_at"]), data["segments"], data["labels"])
        except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
            raise DataError(f"{path} is damaged ({error}); remove it and run again to have it recorded") from error

    def _recording(self, record: str) -> Path:
        return self.folder / "recordings" / f"{_safe(record)}.npz"


def examples(recording: Recording) -> Examples:
    """Return a recording's segments with its labels beside each."""
    labels = np.repeat(recording.labels[None], len(recording.segments), axis=0)
    return Examples(torch.from_numpy(np.ascontiguousarray(recording.segments)), torch.from_numpy(labels))


def _safe(name: str) -> str:
    """Return `name` if it can only name a file in its own folder."""
    try:
        return safe_name(name)
    except ValueError as error:
        raise DataError(str(error)) from None


def _remove(paths: Iterable[Path]) -> None:
    """Unlink files and make that durable."""
    folders = set()
    for path in paths:
        path.unlink(missing_ok=True)
        folders.add(path.parent)
    for folder in folders:
        flush_folder(folder)
