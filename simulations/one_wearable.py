"""One wearable, timed and weighed in a process of its own, without torch; `bench_device.py` runs it.

    python -m simulations.one_wearable judge FOLDER
    python -m simulations.one_wearable beside FOLDER PLAIN
    python -m simulations.one_wearable hour FOLDER SECONDS

FOLDER is a device's, as `bench_device.write_device` makes it. Prints JSON.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

WARM, ROUNDS = 20, 300
MARKS = 6  # times within the stream at which memory is looked at


def judge(folder: Path) -> dict[str, Any]:
    """Import, verify, load, and judge windows one by one: what a wearable does, and nothing beside it."""
    began = time.perf_counter()
    from client.runtime import load
    from client.standing import Device, standing

    imported = time.perf_counter()
    bundle = load(standing(Device(folder, 0, folder / "none")))
    loaded = time.perf_counter()
    windows = _windows()
    times = _times(lambda number: bundle.probabilities(windows[number % len(windows)]))
    return {
        "import_s": imported - began,
        "verify_and_load_s": loaded - imported,
        "ms": times,
        "peak_mib": memory("VmHWM"),
    }


def beside(folder: Path, plain: Path) -> dict[str, Any]:
    """Judge windows in turn by the wearable's session, and by ONNX Runtime on the bare graph with its defaults."""
    import onnxruntime

    from client.runtime import INPUT, load
    from client.standing import Device, standing

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    bare = onnxruntime.InferenceSession(str(plain), options, providers=["CPUExecutionProvider"])
    bundle, windows = load(standing(Device(folder, 0, folder / "none"))), _windows()
    ours: list[float] = []
    theirs: list[float] = []
    for number in range(WARM + ROUNDS):
        window = windows[number % len(windows)]
        ours.append(_seconds(bundle.probabilities, window))
        theirs.append(_seconds(lambda one: bare.run(None, {INPUT: one}), window))
    return {"ms": _ms(ours), "bare_ms": _ms(theirs)}


def hour(folder: Path, seconds: float) -> dict[str, Any]:
    """Run a generated stream as fast as it goes, and look at the memory held on the way."""
    from client.runtime import run
    from client.sources import generated
    from client.standing import Device

    began, spoken = time.perf_counter(), 0
    marks: list[float] = []
    for event in run(Device(folder, 0, folder / "none"), generated(seconds)):
        spoken += 1
        if getattr(event, "until_s", 0.0) >= seconds * (len(marks) + 1) / MARKS:
            marks.append(memory("VmRSS"))
    found = {"seconds": time.perf_counter() - began, "events": spoken}
    return found | {"mib_on_the_way": marks, "peak_mib": memory("VmHWM")}


def memory(what: str) -> float:
    """Return what this process holds (`VmRSS`), or has held at most (`VmHWM`), in MiB."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(what))
    return int(line.split()[1]) / 1024


def _windows() -> list[Any]:
    """Return windows of waves; the generator's random numbers would bring a second OpenSSL into the process."""
    import numpy as np

    turns = np.arange(500) / 500 * np.arange(1, 13)[:, None]
    return [np.sin(2 * np.pi * (turns + phase / 10)).astype(np.float32)[None] for phase in range(10)]


def _times(act: Callable[[int], object]) -> float:
    return _ms([_seconds(act, number) for number in range(WARM + ROUNDS)])


def _seconds(act: Callable[[Any], object], given: Any) -> float:
    began = time.perf_counter()
    act(given)
    return time.perf_counter() - began


def _ms(seconds: list[float]) -> float:
    """Return the median of what came after warming up, in milliseconds."""
    return sorted(seconds[WARM:])[ROUNDS // 2] * 1000


def main(what: str, folder: str, *rest: str) -> None:
    """Do one of them and print what was found."""
    place = Path(folder)
    if what == "judge":
        found = judge(place)
    elif what == "beside":
        found = beside(place, Path(rest[0]))
    else:
        found = hour(place, float(rest[0]))
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
