"""One wearable's personalisation, timed, with as little imported as a device needs; `benchmark.py device` runs it.

    python -m simulations.one_device FOLDER

Prints JSON: seconds from the files of the general model to the accepted copy, on the clock and on the core (the
core's are what a busy machine leaves unharmed), and the peak of memory.
"""

import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch

from shared.model import build, to_bytes
from shared.package import MODEL, PUBLIC, Public, load_general
from shared.personalisation import personalise
from shared.settings import General, Personalisation
from shared.training import Examples, one_thread

OWN_SEGMENTS = 7


def write_version(folder: Path, *, width: int, control: int = 0) -> None:
    """Write what a device has of one version of the general model, random weights and segments, into `folder`.

    A device has no control segments; a method that needs some is measured with `control` of them.
    """
    settings, rng = Personalisation(), torch.Generator().manual_seed(0)
    model = build(replace(General(), width=width)).eval()
    public = Public.of(
        model,
        anchor=some(settings.anchor_segments, rng),
        gate=some(settings.gate_segments, rng),
        control=some(control, rng),
    )
    (folder / MODEL).write_bytes(to_bytes(model))
    (folder / PUBLIC).write_bytes(public.to_bytes())


def main(folder: Path) -> None:
    """Load, evaluate the frozen layers for the patient's segments, train, and pass the gate."""
    own = some(OWN_SEGMENTS, torch.Generator().manual_seed(1))
    with one_thread():
        began, spent = time.perf_counter(), time.process_time()
        general, public = load_general(folder)
        personalise(general, own, public, Personalisation())
        seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - spent
    sys.stdout.write(json.dumps({"seconds": seconds, "cpu_seconds": cpu_seconds, "peak_mib": peak_mib()}))


def peak_mib() -> float:
    """Return the most memory that this program has held; `getrusage` would tell the caller's from before it began."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def some(count: int, rng: torch.Generator) -> Examples:
    """Return segments of noise, with labels at random."""
    labels = torch.eye(5)[torch.randint(0, 5, (count,), generator=rng)]
    return Examples(torch.randn(count, 12, 500, generator=rng), labels)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
