"""The SuperLink of a deployment, which shows other machines the devices' side of Flower and nothing else.

A program: it takes the arguments of `flower-superlink`. Flower serves three interfaces on one port. The devices' asks
for a signature by a registered key. The operator's and the running app's ask for nothing: whoever reaches them
submits an app, which is code that then runs at the hospital and on every device. So only this machine reaches them.
"""

import ipaddress
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Scope]]
Send = Callable[[Scope], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

DEVICES = "/v1/fleet/"
FORBIDDEN = b"only devices are answered here; whoever operates this SuperLink does so on its own machine\n"


class Gate:
    """An ASGI app before another: lets by what comes from this machine, and what is on the devices' paths."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] == "lifespan" or is_let_by(scope):
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await send({"type": "http.response.start", "status": 403, "headers": [(b"content-type", b"text/plain")]})
            await send({"type": "http.response.body", "body": FORBIDDEN})


def is_let_by(scope: Scope) -> bool:
    """Return whether a request is a device's, or was sent on this machine to its loopback address."""
    if scope["type"] == "http" and scope["path"].startswith(DEVICES):
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
