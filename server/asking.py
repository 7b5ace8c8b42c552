"""Sends devices their requests through Flower and gathers what they answer; what is asked is `server/phases.py`'s."""

import math
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from shared.audit_messages import AuditReply, VerifyReply
from shared.errors import DataError, LetheError, RunError
from shared.fields import shown, words
from shared.machine import cores
from shared.messages import Identity, PersonaliseReply, ProbeReply, UnlearnReply, read

Reply = TypeVar("Reply", Identity, PersonaliseReply, ProbeReply, AuditReply, UnlearnReply, VerifyReply)
Devices = Mapping[int, tuple[int, Identity]]
Tell = Callable[[int, int], None]
Refuse = Callable[[int | None, str, LetheError], None]

WAVE = cores()  # messages on the way at once: consent is read when one is sent, and in a queue it would be out of date
POLL_S = 0.1
WORKER_DIED = 0  # Flower's ErrorCode.UNKNOWN: neither the app nor its loading failed
AGAIN_S = 1.0  # before what met a dead process is sent again, where no other message is on its way
LOST_AT_MOST = 10  # in a row like that: no process lives that could answer


def unheard(_slot: int | None, _asked: str, _error: LetheError) -> None:
    """Refuse without telling anybody."""


def ask_slots(
    grid: Grid,
    devices: Devices,
    requests: Mapping[int, Callable[[], RecordDict | None]],
    message_type: str,
    kind: type[Reply],
    *,
    group: str,
    answer_s: float,
    refuse: Refuse,
    check: Callable[[int, Reply], None] = lambda _, __: None,
    tell: Tell | None = None,
    beside: Callable[[int, Message], None] = lambda _, __: None,
) -> dict[int, Reply]:
    """Ask devices by slot and return the answers by slot; a device speaks for its own slot only.

    Args:
        grid, group, answer_s, tell: as for `ask`.
        devices: whom there is to ask.
        requests: by slot.
        message_type, kind: of the answers.
        refuse: told the slot, the message type and why, where an answer cannot be used or an error came in its place.
        check: raises an error of ours where an answer, given with its slot, does not fit its question.
        beside: told slots and messages of answers that could be used.
    """
    slots = {devices[slot][0]: slot for slot in requests}

    def own(node: int, reply: Reply) -> None:
        if reply.slot != slots[node]:
            raise DataError(f"it speaks for device {reply.slot}, and comes from device {slots[node]}")
        check(slots[node], reply)

    answers = ask(
        grid,
        {devices[slot][0]: request for slot, request in requests.items()},
        message_type,
        kind,
        group=group,
        answer_s=answer_s,
        tell=tell,
        check=own,
        beside=lambda node, message: beside(slots[node], message),
        refuse=lambda node, error: refuse(slots[node], message_type, error),
    )
    return {slots[node]: answer for node, answer in sorted(answers.items(), key=lambda told: slots[told[0]])}


def ask(
    grid: Grid,
    requests: Mapping[int, Callable[[], RecordDict | None]],
    message_type: str,
    kind: type[Reply],
    *,
    group: str,
    answer_s: float,
    tell: Tell | None = None,
    check: Callable[[int, Reply], None] = lambda _, __: None,
    beside: Callable[[int, Message], None] = lambda _, __: None,
    refuse: Callable[[int, LetheError], None] = lambda _, __: None,
) -> dict[int, Reply]:
    """Send each node its request, a wave at a time, and return the answers that came, by node.

    A request is made when its turn comes; one that turns out to be None is not sent. One that met a dead process is
    made and sent again: see `_Unsent`.
    A node that is silent for `answer_s` seconds makes room for the next one. `check` looks at what could be read;
    `beside` is told nodes and messages of answers that can be used, `refuse` nodes and reasons of those that cannot.
    The reason is a `RunError` where no answer came but Flower's word that the device failed.
    """
    answers: dict[int, Reply] = {}
    waiting: dict[str, int] = {}  # message -> node
    until: dict[int, float] = {}  # by when a node is to have answered, from its first message on
    unsent = _Unsent(requests)
    gone = lost = 0
    while unsent or waiting:
        ready = unsent.take(WAVE - len(waiting))
        made = {node: content for node in ready if (content := requests[node]()) is not None}
        gone += len(ready) - len(made)
        if made:
            until = dict.fromkeys(made, time.monotonic() + answer_s) | until
            waiting |= _pushed(grid, made, message_type, group)
        for message in grid.pull_messages(list(waiting)):
            node = waiting.pop(message.metadata.reply_to_message_id, None)
            if node is None:  # a second answer to one question, or one that nobody waits for any more
                continue
            lost = lost + 1 if _was_lost(message) and not waiting else 0
            if _was_lost(message) and lost <= LOST_AT_MOST and time.monotonic() < until[node]:
                unsent.hold(node)
                continue
            unsent.release(after_s=0.0)
            gone += 1
            if tell is not None:
                tell(gone, len(requests))
            try:
                answers[node] = _read(kind, message, message_type, node, check)
                beside(node, message)
            except LetheError as error:
                answers.pop(node, None)
                refuse(node, error)
        waiting = {message_id: node for message_id, node in waiting.items() if time.monotonic() < until[node]}
        if not waiting:
            unsent.release(after_s=AGAIN_S)
        if waiting or unsent:
            time.sleep(POLL_S)
    return answers


def _read(
    kind: type[Reply], message: Message, message_type: str, node: int, check: Callable[[int, Reply], None]
) -> Reply:
    """Return an answer that can be used.

    Raises:
        RunError: an error came in its place.
        LetheError: it is no answer to what this node was asked.
    """
    if message.has_error():
        why = words(message.error.reason or "no reason given")
        raise RunError(f"the device failed, Flower's error {message.error.code}: {why}")
    about = message.metadata
    if (about.message_type, about.src_node_id) != (message_type, node):
        raise DataError(
            f"a message {shown(about.message_type)} of node {about.src_node_id}, expected {message_type!r} of {node}"
        )
    reply = read(kind, message)
    check(node, reply)
    return reply


class _Unsent:
    """Whom to ask next, by node.

    Flower keeps a dead process among those that simulate devices, and it fails at once whatever it is given. The one
    that was done last is given the next message: so who met a dead one is held back until another message has come
    back, from a living process, and costs nothing meanwhile.
    """

    def __init__(self, nodes: Iterable[int]) -> None:
        self._since = dict.fromkeys(nodes, 0.0)  # the moment before which a node is not asked

    def __bool__(self) -> bool:
        return bool(self._since)

    def take(self, most: int) -> list[int]:
        """Return the next nodes to ask, so many at most."""
        now = time.monotonic()
        ready = [node for node, since in self._since.items() if since <= now][:most]
        for node in ready:
            del self._since[node]
        return ready

    def hold(self, node: int) -> None:
        """Keep a node back until `release`."""
        self._since[node] = math.inf

    def release(self, *, after_s: float) -> None:
        """Let nodes that are held be asked so many seconds from now."""
        moment = time.monotonic() + after_s
        self._since = {node: min(since, moment) for node, since in self._since.items()}


def _pushed(grid: Grid, made: Mapping[int, RecordDict], message_type: str, group: str) -> dict[str, int]:
    """Send each node its content; return the messages' ids and nodes."""
    messages = [
        Message(content, dst_node_id=node, message_type=message_type, group_id=group) for node, content in made.items()
    ]
    return dict(zip(grid.push_messages(messages), made, strict=True))


def _was_lost(message: Message) -> bool:
    """Return whether the process that was to simulate the device had died; what the device itself raises is another."""
    return message.has_error() and message.error.code == WORKER_DIED
