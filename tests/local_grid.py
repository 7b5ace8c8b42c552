"""A Flower grid in this process: the real apps and the real messages, without Ray and without a SuperLink."""

import uuid
from collections.abc import Iterable

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from flwr.serverapp import Grid


class LocalGrid(Grid):
    """`nodes` devices, each with its own context; a message is answered when it is pulled."""

    def __init__(self, app: ClientApp, *, nodes: int, run_config: dict[str, object]) -> None:
        self._app = app
        self._contexts = {
            100 + slot: Context(
                run_id=1,
                node_id=100 + slot,
                node_config={"partition-id": slot, "num-partitions": nodes},
                state=RecordDict(),
                run_config=run_config,
            )
            for slot in range(nodes)
        }
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1
        self._waiting: dict[str, Message] = {}
        self.sent: list[Message] = []
        self.silent: set[int] = set()

    def set_run(self, run: Run) -> None: ...

    @property
    def run(self) -> Run:
        raise RuntimeError("a local grid has no run")

    def create_message(self, *args: object, **kwargs: object) -> Message:
        raise RuntimeError("deprecated in Flower: make a Message")

    def get_node_ids(self) -> list[int]:
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        ids = []
        for message in messages:
            message.metadata.__dict__["_message_id"] = str(uuid.uuid4())
            ids.append(message.metadata.message_id)
            self.sent.append(message)
            self._waiting[message.metadata.message_id] = message
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        replies = []
        for message_id in message_ids:
            message = self._waiting[message_id]
            if message.metadata.dst_node_id in self.silent:
                continue
            del self._waiting[message_id]
            replies.append(self._app(message, self._contexts[message.metadata.dst_node_id]))
        return replies

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        return self.pull_messages(self.push_messages(messages))
