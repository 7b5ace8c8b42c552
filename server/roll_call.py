"""Which devices are there, and what they serve: asked at a run's beginning, and around an unlearning."""

import time
from collections.abc import Iterable
from functools import partial

from flwr.serverapp import Grid

from server.asking import POLL_S, Devices, ask, by_slot
from shared.errors import RunError
from shared.messages import WHOAMI, Identity, Whoami, write

WAIT_FOR_NODES_S = 180.0


def directory(grid: Grid, *, run: str, expected: int, code: str, answer_s: float) -> dict[int, tuple[int, Identity]]:
    """Wait for the devices and ask who they are: slot -> (node id, identity); those that stay silent are left out.

    Raises:
        RunError: too few devices came, or one runs other code than the server.
    """
    deadline = time.monotonic() + WAIT_FOR_NODES_S
    nodes: list[int] = []
    while len(nodes) < expected:
        if time.monotonic() > deadline:
            raise RunError(
                f"{len(nodes)} of {expected} devices came within {WAIT_FOR_NODES_S:.0f} s; see the run's log"
            )
        nodes = list(grid.get_node_ids())
        if len(nodes) < expected:
            time.sleep(POLL_S)
    requests = {node: partial(write, Whoami(run)) for node in nodes}
    found = ask(grid, requests, WHOAMI, Identity, group=run, answer_s=min(answer_s, WAIT_FOR_NODES_S))
    for identity in found.values():
        if identity.code != code:
            raise RunError(
                f"the device in slot {identity.slot} runs code {identity.code}, the server {code}: "
                "another checkout answers; stop it or start the run again"
            )
    return {identity.slot: (node, identity) for node, identity in found.items()}


def models_in_use(grid: Grid, devices: Devices, slots: Iterable[int], *, run: str, answer_s: float) -> dict[int, str]:
    """Ask devices once more who they are: slot -> digest of the model in use, of those that answer."""
    requests = {devices[slot][0]: partial(write, Whoami(run)) for slot in slots}
    answers = ask(grid, requests, WHOAMI, Identity, group=run, answer_s=min(answer_s, WAIT_FOR_NODES_S))
    return {slot: identity.personal for slot, identity in by_slot(devices, answers).items()}
