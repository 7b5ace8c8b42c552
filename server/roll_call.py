"""Which devices are there, and what they serve: asked at a run's beginning, and around an unlearning."""

import time
from collections.abc import Iterable
from functools import partial

from flwr.serverapp import Grid

from server.asking import POLL_S, Devices, ask, by_slot
from shared.errors import RunError
from shared.messages import WHOAMI, Identity, Whoami, write

WAIT_FOR_NODES_S = 180.0


def node_name(slot: int) -> str:
    """Return the name under which a deployment registers the key of a device."""
    return f"device-{slot}"


def directory(
    grid: Grid, *, run: str, expected: int, code: str, answer_s: float, registered: bool
) -> dict[int, tuple[int, Identity]]:
    """Wait for the devices and ask who they are: slot -> (node id, identity); those that stay silent are left out.

    Where fewer come than are expected, the run goes on with those that are there. What a device says of its slot
    counts only if its key was `registered` for it; simulated nodes have no keys, and names no more.

    Raises:
        RunError: no device came, or one runs other code than the server.
    """
    deadline = time.monotonic() + WAIT_FOR_NODES_S
    names: dict[int, str] = {}
    while len(names) < expected and time.monotonic() < deadline:
        names = {node.node_id: node.name for node in grid.get_nodes()}
        if len(names) < expected:
            time.sleep(POLL_S)
    if not names:
        raise RunError(f"none of {expected} devices came within {WAIT_FOR_NODES_S:.0f} s; see the run's log")
    requests = {node: partial(write, Whoami(run)) for node in names}
    found = ask(grid, requests, WHOAMI, Identity, group=run, answer_s=min(answer_s, WAIT_FOR_NODES_S))
    devices = {}
    for node, identity in found.items():
        if names[node] != (node_name(identity.slot) if registered else ""):
            continue
        if identity.code != code:
            raise RunError(
                f"the device in slot {identity.slot} runs code {identity.code}, the server {code}: "
                "another checkout answers; stop it or start the run again"
            )
        devices[identity.slot] = node, identity
    return devices


def models_in_use(grid: Grid, devices: Devices, slots: Iterable[int], *, run: str, answer_s: float) -> dict[int, str]:
    """Ask devices once more who they are: slot -> digest of the model in use, of those that answer."""
    requests = {devices[slot][0]: partial(write, Whoami(run)) for slot in slots}
    answers = ask(grid, requests, WHOAMI, Identity, group=run, answer_s=min(answer_s, WAIT_FOR_NODES_S))
    return {slot: identity.personal for slot, identity in by_slot(devices, answers).items()}
