"""The SuperLink of a deployment, which shows other machines the devices' side of Flower and nothing else.

A program: it takes the arguments of `flower-superlink`. Flower serves three interfaces on one port. The devices' asks
for a signature by a registered key. The operator's and the running app's ask for nothing: whoever reaches them
submits an app, which is code that then runs at the hospital and on every device. So only this machine reaches them.
What is sent from elsewhere is read up to a size only, since it is read before anybody knows who sends it.
"""

import ipaddress
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Scope]]
Send = Callable[[Scope], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

DEVICES = "/v1/fleet/"
MOST_BYTES = 128 << 20  # of a request: an answer about segments has 64 MiB at most, weights of width 64 have 29 MB
TOO_LARGE = b"no device has that much to say; nothing of it was read\n"
FORBIDDEN = b"only devices are answered here; whoever operates this SuperLink does so on its own machine\n"


class Gate:
    """An ASGI app before another: lets by what comes from this machine, and what is on the devices' paths."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif not is_let_by(scope):
            await _refuse(scope, send, 403, FORBIDDEN)
        elif not _is_device_s(scope):  # this machine's own: the hospital sends packages of any size
            await self._app(scope, receive, send)
        elif _length(scope) > MOST_BYTES:
            await _refuse(scope, send, 413, TOO_LARGE)
        else:
            await self._app(scope, _up_to(MOST_BYTES, receive), send)


async def _refuse(scope: Scope, send: Send, status: int, why: bytes) -> None:
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"text/plain")]})
        await send({"type": "http.response.body", "body": why})


def _length(scope: Scope) -> int:
    """Return how many bytes a request says it has, 0 where it does not say."""
    said = dict(scope.get("headers", ())).get(b"content-length", b"0")
    return int(said[:18]) if said.isdigit() else 0


def _up_to(most: int, receive: Receive) -> Receive:
    """Return what receives so many bytes; whoever sends more, without having said so, counts as gone."""
    seen = 0

    async def counted() -> Scope:
        nonlocal seen
        part = await receive()
        seen += len(part.get("body", b""))
        return part if seen <= most else {"type": "http.disconnect"}

    return counted


def _is_device_s(scope: Scope) -> bool:
    return bool(scope["type"] == "http" and scope["path"].startswith(DEVICES))


def is_let_by(scope: Scope) -> bool:
    """Return whether a request is a device's, or was sent on this machine to its loopback address."""
    if _is_device_s(scope):
        return True
    client = scope.get("client")
    return client is not None and ipaddress.ip_address(client[0]).is_loopback


def main() -> None:
    """Run Flower's SuperLink behind the gate."""
    from flwr.superlink import main as superlink
    from flwr.superlink.cli.flower_superlink import flower_superlink

    create = superlink.create_app
    vars(superlink)["create_app"] = lambda *given: Gate(create(*given))
    flower_superlink()


if __name__ == "__main__":
    main()
