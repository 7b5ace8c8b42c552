"""The devices that a SuperLink lets in, by name: `flwr supernode list` and its kin, which leave out the names.

They are asked of the operator's interface, on this machine.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import httpx
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
    load_ssh_public_key,
)
from flwr.proto.control_pb2 import ListNodesRequest, RegisterNodeRequest, UnregisterNodeRequest
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor

from shared.errors import RunError
from simulations.superlink import past_proxies

GONE = "unregistered"


@dataclass(frozen=True)
class Node:
    """A registered device.

    Attributes:
        id: Flower's number for it.
        key: its public key, in OpenSSH's form.
        online: whether it is connected; one that was cut from power counts as such for another minute.
    """

    id: int
    key: bytes
    online: bool


class Roster:
    """The devices that one SuperLink lets in."""

    def __init__(self, client: ControlHttpClient) -> None:
        self._client = client

    @classmethod
    @contextmanager
    def of(cls, port: int, *, authority: bytes) -> Iterator["Roster"]:
        """Ask the SuperLink that listens on a port of this machine, known by what the `authority` signed.

        Raises:
            RunError: it does not answer, or refuses.
        """
        os.environ.update(past_proxies())  # Flower's client takes its proxies from there
        client = ControlHttpClient.from_server_address(
            server_address=f"127.0.0.1:{port}",
            insecure=False,
            root_certificates=authority,
            interceptors=[RuntimeVersionHttpInterceptor(component_name="flwr CLI")],
        )
        try:
            yield cls(client)
        except httpx.HTTPError as error:
            raise RunError(f"the SuperLink on port {port} does not do as asked ({error}); start it again") from error
        finally:
            client.close()

    def nodes(self) -> Mapping[str, Node]:
        """Return the registered devices by name."""
        found = self._client.ListNodes(ListNodesRequest()).nodes_info
        return {
            node.name: Node(node.node_id, _open_ssh(node.public_key), node.status == "online")
            for node in found
            if node.status != GONE
        }

    def register(self, name: str, public: bytes) -> None:
        """Let in the device that has the private part of a key, which is given in OpenSSH's form."""
        pem = load_ssh_public_key(public).public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        self._client.RegisterNode(RegisterNodeRequest(public_key=pem, name=name))

    def unregister(self, node: Node) -> None:
        """Cut a device off: its key is refused from the next request on, and is not registered again."""
        self._client.UnregisterNode(UnregisterNodeRequest(node_id=node.id))


def _open_ssh(pem: bytes) -> bytes:
    return load_pem_public_key(pem).public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
