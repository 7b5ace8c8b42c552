"""Which devices are there, and what they serve: asked at a run's beginning, and around an unlearning."""

import time
from collections import Counter
from collections.abc import Iterable
from functools import partial

from flwr.serverapp import Grid

from server.asking import POLL_S, Devices, Refuse, ask, ask_slots, unheard
from shared.errors import DataError, LetheError, RunError
from shared.messages import WHOAMI, Identity, Whoami, write

WAIT_FOR_NODES_S = 180.0


def node_name(slot: int) -> str:
    """Return the name under which a deployment registers the key of a device."""
    return f"device-{slot}"


def slot_of(name: str) -> int | None:
    """Return the slot that a key was registered for under this name; None of a node without one."""
    slot = name.removeprefix("device-")
    return int(slot) if slot.isdecimal() and node_name(int(slot)) == name else None


def directory(
    grid: Grid, *, run: str, expected: int, code: str, answer_s: float, registered: bool, refuse: Refuse = unheard
) -> dict[int, tuple[int, Identity]]:
    """Wait for the devices and ask who they are: slot -> (node id, identity); those that stay silent are left out.

    Where fewer come than are expected, the run goes on with those that are there. What a device says of its slot
    counts only if its key was `registered` for it; simulated nodes have no keys, and names no more. Of two that say
    they are one device neither is believed. `refuse` is told who is left out, by slot where a key says which.

    Raises:
        RunError: no device came, or none runs the server's code.
    """
    names = _nodes(grid, expected)
    requests = {node: partial(write, Whoami(run)) for node in names}
    found = ask(
        grid,
        requests,
        WHOAMI,
        Identity,
        group=run,
        answer_s=min(answer_s, WAIT_FOR_NODES_S),
        refuse=lambda node, error: refuse(slot_of(names[node]), WHOAMI, error),
    )
    devices: dict[int, tuple[int, Identity]] = {}
    others: list[str] = []
    said = Counter(identity.slot for node, identity in found.items() if _fits(names[node], identity.slot, registered))
    for node, identity in found.items():
        error: LetheError | None = None
        if not _fits(names[node], identity.slot, registered):
            error = DataError(f"it says it is device {identity.slot}, and its key is that of {names[node] or 'none'}")
        elif said[identity.slot] > 1:
            error = DataError(f"{said[identity.slot]} nodes say they are device {identity.slot}; none is believed")
        elif identity.code != code:
            others.append(f"the device in slot {identity.slot} runs code {identity.code}, the server {code}")
            error = DataError(f"{others[-1]}: another checkout answers")
        if error is not None:
            refuse(slot_of(names[node]), WHOAMI, error)
        else:
            devices[identity.slot] = node, identity
    if others and not devices:
        raise RunError(f"{others[0]}: another checkout answers; stop it or start the run again")
    return devices


def _nodes(grid: Grid, expected: int) -> dict[int, str]:
    """Wait for nodes; return the names under which their keys are registered."""
    deadline = time.monotonic() + WAIT_FOR_NODES_S
    names: dict[int, str] = {}
    while len(names) < expected and time.monotonic() < deadline:
        names = {node.node_id: node.name for node in grid.get_nodes()}
        if len(names) < expected:
            time.sleep(POLL_S)
    if not names:
        raise RunError(f"none of {expected} devices came within {WAIT_FOR_NODES_S:.0f} s; see the run's log")
    return names


def _fits(name: str, slot: int, registered: bool) -> bool:
    return name == (node_name(slot) if registered else "")


def models_in_use(
    grid: Grid, devices: Devices, slots: Iterable[int], *, run: str, answer_s: float, refuse: Refuse = unheard
) -> dict[int, str]:
    """Ask devices once more who they are: slot -> digest of the model in use, of those that answer."""
    requests = {slot: partial(write, Whoami(run)) for slot in slots}
    answer_s = min(answer_s, WAIT_FOR_NODES_S)
    answers = ask_slots(grid, devices, requests, WHOAMI, Identity, group=run, answer_s=answer_s, refuse=refuse)
    return {slot: identity.personal for slot, identity in answers.items()}
