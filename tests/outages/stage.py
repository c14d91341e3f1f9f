"""The servers, clients and namespaces of a test."""

import contextlib
from collections.abc import Callable
from typing import Any

import pytest

import processes
from outages.harness import Client, Plan
from outages.spaces import Link, Space
from real_servers import RealServer, Unavailable, memory


class Stage:
    """The servers, clients and namespaces of a test.

    A method skips the test if the machine cannot run what it starts. The reason of the skip names
    the missing part.

    Args:
        backend: The backend of the clients.
        stack: The stack that ends everything at the end of the test.
    """

    def __init__(self, backend: str, stack: contextlib.ExitStack) -> None:
        self.backend = backend
        self._stack = stack

    def _available(self, make: Callable[[], Any]) -> Any:
        try:
            return make()
        except Unavailable as reason:
            pytest.skip(str(reason))

    def space(self, *, network: bool = False) -> Space:
        space: Space = self._available(lambda: Space(network=network))
        self._stack.callback(space.close)
        return space

    def link(self, client: Space, server: Space) -> Link:
        link: Link = self._available(lambda: Link(client, server))
        self._stack.callback(link.close)
        return link

    def server(
        self,
        kind: type[RealServer],
        space: Space | None = None,
        address: str = "127.0.0.1",
        prepare: Callable[[RealServer], object] = lambda server: None,
    ) -> RealServer:
        """Start a server in a space. `prepare` gets the server before its start, in the space."""
        server: RealServer = self._available(lambda: kind(memory(), address))
        self._stack.callback(server.close)
        call: Any = space.call if space else lambda function, *args: function(*args)
        self._available(lambda: call(prepare, server))
        self._available(lambda: call(server.start))
        self._stack.callback(call, server.end)
        return server

    def client(self, plan: Plan, space: Space | None = None, **environment: str) -> Client:
        """Start `client.py` in a space."""
        call: Any = (
            space.call if space else lambda function, *args, **named: function(*args, **named)
        )
        # Only the main thread can change a handler of a signal, and a space is another thread.
        with processes.default_sigint():
            client: Client = call(Client, plan, self.backend, **environment)
        self._stack.callback(client.close)
        return client
