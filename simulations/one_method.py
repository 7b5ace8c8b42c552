"""One unlearning method on one wearable, timed; `benchmark.py methods` runs it.

    python -m simulations.one_method FOLDER METHOD PROFILE

Half of a wearable's 14 segments are forgotten. Prints JSON: seconds of one core, the peak of memory, and why there is
no model, if there is none. Zero-shot transfer makes `GROUPS` groups of the published size: more would take longer, and
no more room.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch

from shared.errors import LetheError
from shared.package import load_general
from shared.personalisation import Frozen, personalise
from shared.settings import SUPERCLASSES, Settings
from shared.training import Examples, join, one_thread
from shared.unlearning import METHODS
from shared.unlearning.case import Case
from simulations.one_device import OWN_SEGMENTS, peak_mib, some

GROUPS = 3


def case_of(folder: Path, profile: str) -> Case:
    """Return a wearable that has learnt twice `OWN_SEGMENTS` and forgets half, before frozen layers are evaluated."""
    values: dict[str, Any] = {
        "personalisation.profile": profile,
        "personalisation.budget": 1.0,  # noise costs others; a copy that is rolled back has nothing to forget
        "unlearning.generator_groups": GROUPS,
        "unlearning.i_mean_the_class": True,
    }
    settings = Settings().with_values(values)
    general, public = load_general(folder)
    rng = torch.Generator().manual_seed(1)
    retain, forget = some(OWN_SEGMENTS, rng), some(OWN_SEGMENTS, rng)
    forget = Examples(forget.segments, torch.eye(len(SUPERCLASSES))[:1].expand(OWN_SEGMENTS, -1))  # gkt forgets a class
    recipe = settings.personalisation
    personal = personalise(general, join([retain, forget]), public, recipe).model
    frozen = Frozen(general, public, recipe)
    return Case(general, personal, retain, forget, public, recipe, settings.unlearning, frozen)


def main(folder: Path, method: str, profile: str) -> None:
    """Unlearn once, on one thread."""
    failed = ""
    with one_thread():
        case = case_of(folder, profile)
        before, began = peak_mib(), time.process_time()
        try:
            METHODS[method](case)
        except LetheError as error:
            failed = str(error)
        seconds = time.process_time() - began
    # The kernel's high-water mark is exact to some pages only: read twice, it can fall by a few KiB.
    peak = max(before, peak_mib())
    found = {"cpu_seconds": seconds, "peak_mib": peak, "peak_mib_before": before, "failed": failed}
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
