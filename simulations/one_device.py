"""One wearable's personalisation, timed, with as little imported as a device needs; `benchmark.py device` runs it.

    python -m simulations.one_device model.safetensors

Prints JSON: seconds from the file of the general model to the accepted copy, on the clock and on the core (the
core's are what a busy machine leaves unharmed), and the peak of memory.
"""

import json
import resource
import sys
import time
from pathlib import Path

import torch

from shared.model import load
from shared.package import Public
from shared.personalisation import personalise
from shared.settings import Personalisation
from shared.training import Examples, one_thread

OWN_SEGMENTS = 7


def main(path: Path) -> None:
    """Load, evaluate the frozen layers for own, anchor and gate segments, train, and pass the gate."""
    rng = torch.Generator().manual_seed(0)
    settings = Personalisation()

    def some(count: int) -> Examples:
        labels = torch.eye(5)[torch.randint(0, 5, (count,), generator=rng)]
        return Examples(torch.randn(count, 12, 500, generator=rng), labels)

    own, public = (
        some(OWN_SEGMENTS),
        Public(some(settings.anchor_segments), some(settings.gate_segments), Examples.empty()),
    )
    with one_thread():
        began, spent = time.perf_counter(), time.process_time()
        personalise(load(path), own, public, settings)
        seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - spent
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    sys.stdout.write(json.dumps({"seconds": seconds, "cpu_seconds": cpu_seconds, "peak_mib": peak}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
