"""The wearable in use: a verified bundle, a stream of samples, and what is said of them.

    device = Device.of(home, slot)
    for event in run(device, sources.record(path)):
        ...

No torch: importing this takes a quarter of a second. ONNX Runtime gets one thread that does not spin, and no memory
arena. What may run is looked up in files of the device's own process (`client/standing.py`).
"""

import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
from cryptography.hazmat.primitives.hashes import SHA256, Hash

from client.bundle import INT8, Manifest
from client.episodes import Episode, Smoother
from client.events import Alarm, End, Event, Judged, Missing, Over, Using
from client.quality import doubts, unit_of
from client.standing import Device, Standing, standing
from client.stream import Chunk, Cutter, Gap, Window
from shared.errors import BundleError, RevokedError, StreamError
from shared.settings import SAMPLING_HZ, SEGMENT_SAMPLES, Streaming

Samples = npt.NDArray[np.float32]
INPUT, OUTPUT, MARGINS = "segments", "probabilities", "margins"
OPTIMISED_BYTES = 8_000_000  # rewriting the graph holds a large model's weights twice, and makes it no faster
READ_BYTES = 1 << 20


@dataclass(frozen=True)
class Bundle:
    """A bundle that runs."""

    standing: Standing
    session: Any

    def probabilities(self, windows: Samples) -> npt.NDArray[np.float32]:
        """Return the class probabilities (N, 5) of windows (N, 12, 500) in millivolts."""
        (found,) = self.session.run([OUTPUT], {INPUT: windows})
        return np.asarray(found)


def load(where: Standing) -> Bundle:
    """Open a session on an ONNX file whose bytes are those of its manifest.

    Raises:
        BundleError: they are not, it is replaced meanwhile, or it is no model for this use.
    """
    path, manifest = where.path, where.manifest
    try:
        with path.open("rb") as file:
            before = _version(os.fstat(file.fileno()))
            found = Hash(SHA256())
            while block := file.read(READ_BYTES):
                found.update(block)
            if found.finalize().hex() != manifest.runs.digest:
                raise BundleError(
                    f"{path} is not the file that was signed; it is not run, `lethe run` makes it anew", "changed"
                )
            # The session opens what was hashed, whatever has the file's name by now.
            opened = Path(f"/proc/self/fd/{file.fileno()}")
            small = manifest.bytes <= OPTIMISED_BYTES
            session = open_session(opened if opened.exists() else path, optimised=manifest.runs.name == INT8 or small)
            if not _version(os.fstat(file.fileno())) == before == _version(path.stat()):
                raise BundleError(f"{path} was replaced while it was read; start again", "changed")
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}", "missing") from None
    _refuse_other(session, manifest, path)
    return Bundle(where, session)


def _version(now: os.stat_result) -> tuple[int, int, int]:
    return now.st_ino, now.st_mtime_ns, now.st_size


def load_current(device: Device, where: Standing) -> Bundle:
    """Load what may run; where the device has replaced it since `where` was looked up, what may run now.

    Raises:
        BundleError, RevokedError: as `load` and `standing`.
    """
    try:
        return load(where)
    except BundleError:
        now = standing(device)
    try:
        return load(now)
    except BundleError as error:
        if now.why:
            raise RevokedError(f"{now.why}, and there is no general model to fall back to: {error}") from None
        raise


def open_session(path: Path, *, optimised: bool) -> Any:
    """Return a session with what a wearable can afford: one thread, no spinning, no arena.

    `optimised`: whether the graph is rewritten; of eight bits without it nothing would be computed in eight bits.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.enable_cpu_mem_arena = False
    for pool in ("intra_op", "inter_op"):
        options.add_session_config_entry(f"session.{pool}.allow_spinning", "0")
    if not optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _refuse_other(session: Any, manifest: Manifest, path: Path) -> None:
    """See that the file says of itself what the manifest says, and takes and gives what is expected."""
    about = session.get_modelmeta().custom_metadata_map
    inputs, outputs = session.get_inputs(), session.get_outputs()
    seen = [(one.name, *one.shape[1:]) for one in (*inputs, *outputs)]
    classes = len(manifest.labels)
    wanted = [(INPUT, len(manifest.leads), manifest.samples), (OUTPUT, classes), (MARGINS, classes)]
    if seen != wanted or (about.get("lethe.model"), about.get("lethe.task")) != (manifest.model, manifest.task):
        raise BundleError(
            f"{path} has inputs and outputs {seen} or metadata unlike its manifest; it is not run", "contract"
        )


def run(
    device: Device,
    chunks: Iterable[Chunk],
    *,
    settings: Streaming = Streaming(),  # noqa: B008 - frozen
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Event]:
    """Judge a stream and say what there is to say, as it comes.

    Raises:
        BundleError: no bundle can be relied on, at the start or at a later look.
        RevokedError: the one in use is revoked and there is no general one.
        StreamError: the samples are none that can be judged.
    """
    judge = _Judge(load_current(device, standing(device)), settings)
    yield judge.using()
    cutter, looked, seen = Cutter(hop=max(1, round(settings.hop_s * SAMPLING_HZ))), clock(), 0
    for chunk in chunks:
        if clock() - looked >= settings.check_s:
            looked = clock()
            now = standing(device)
            if now != judge.bundle.standing:
                yield from judge.switch(now, device)
        for piece in cutter.cut(chunk):
            yield from judge.gap(piece) if isinstance(piece, Gap) else judge.window(piece)
        seen = chunk.at + chunk.samples.shape[1]
    yield from judge.end(seen)


class _Judge:
    """What is known so far of one stream."""

    def __init__(self, bundle: Bundle, settings: Streaming) -> None:
        self.bundle, self._settings = bundle, settings
        self._smoother = Smoother(settings)
        self._units_known, self._unit, self._since = False, "", 0
        self._judged = self._doubtful = 0

    def using(self) -> Using:
        where = self.bundle.standing
        runs = where.manifest.runs
        return Using(where.kind, runs.digest, where.manifest.general, where.why, eight_bits=runs.name == INT8)

    def switch(self, now: Standing, device: Device) -> Iterator[Event]:
        """Go on with another bundle; where only its manifest was signed anew, with the same."""
        if now.manifest.runs == self.bundle.standing.manifest.runs and now.kind == self.bundle.standing.kind:
            self.bundle = Bundle(now, self.bundle.session)
            return
        yield from map(_over, self._smoother.reset())
        self.bundle = load_current(device, now)
        yield self.using()

    def gap(self, gap: Gap) -> Iterator[Event]:
        yield from map(_over, self._smoother.reset())
        yield Missing(gap.since / SAMPLING_HZ, gap.until / SAMPLING_HZ)

    def window(self, window: Window) -> Iterator[Event]:
        since, until = window.at, window.at + SEGMENT_SAMPLES
        why = self._other_unit(window) or doubts(window.samples, self._settings)
        if not why:
            (found,) = self.bundle.probabilities(np.ascontiguousarray(window.samples[None]))
            why = () if np.isfinite(found).all() else ("the model gives no number",)
        if why:
            self._doubtful += 1
            yield Judged(since / SAMPLING_HZ, until / SAMPLING_HZ, why)
            yield from map(_over, self._smoother.doubt())
            return
        self._judged += 1
        before = set(self._smoother.open)
        mean, ended = self._smoother.add(found, since=since, until=until)
        yield Judged(since / SAMPLING_HZ, until / SAMPLING_HZ, (), tuple(map(float, found)), tuple(map(float, mean)))
        yield from map(_over, ended)
        for episode in self._smoother.ongoing():
            if episode.label not in before:
                yield Alarm(episode.label, episode.since / SAMPLING_HZ, episode.peak)

    def _other_unit(self, window: Window) -> tuple[str, ...]:
        """Return the doubt that the samples are in millivolts, until a window says that they are.

        Electrodes that are being put on look like another unit for a while, too.

        Raises:
            StreamError: it has stood for `units_s` (`reason` "units").
        """
        if self._units_known:
            return ()
        unit = unit_of(window.samples, self._settings)
        self._units_known = unit == "millivolts"
        if unit in ("", "millivolts"):
            return ()
        if not self._unit:
            self._since = window.at
        self._unit = unit
        if window.at + SEGMENT_SAMPLES - self._since >= self._settings.units_s * SAMPLING_HZ:
            self._refuse_unit()
        return (f"looks like {unit}",)

    def _refuse_unit(self) -> None:
        least, most = self._settings.least_mv, self._settings.most_mv
        raise StreamError(
            f"the samples look like {self._unit}, or the electrodes are not on: no window in which a lead moves "
            f"between {least:g} and {most:g} mV; give them in millivolts",
            "units",
        )

    def end(self, seen: int) -> Iterator[Event]:
        if self._unit and not self._units_known:
            self._refuse_unit()
        yield from map(_over, self._smoother.reset())
        yield End(seen / SAMPLING_HZ, self._judged, self._doubtful)


def _over(episode: Episode) -> Over:
    since, until = episode.since / SAMPLING_HZ, episode.until / SAMPLING_HZ
    return Over(episode.label, since, until, episode.peak, episode.windows)
