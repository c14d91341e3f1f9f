"""Network and mount namespaces, and a link with faults between two network namespaces.

A namespace belongs to a thread, and to the processes that this thread starts. It has no name and no
file, so it ends with its last thread or process, even if the tests are killed.

The link moves packets between two TUN devices. It can delay, lose and reorder packets, like the
queueing discipline `netem` of Linux. `netem` is a module that many kernels do not have.
"""

import ctypes
import fcntl
import heapq
import os
import random
import select
import struct
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from real_servers import Unavailable

_NEW_MOUNTS, _NEW_NETWORK = 0x20000, 0x40000000
_RECURSIVE, _PRIVATE = 0x4000, 0x40000
_TUNSETIFF, _TUN, _NO_INFORMATION = 0x400454CA, 0x1, 0x1000

_T = TypeVar("_T")
_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, action: str) -> None:
    if result != 0:
        reason = os.strerror(ctypes.get_errno())
        raise Unavailable(f"no {action} on this machine: {reason}")


def run(*command: object) -> None:
    """Run a command.

    Raises:
        Unavailable: The command failed or is not installed. The text contains its output.
    """
    try:
        done = subprocess.run([str(each) for each in command], capture_output=True, text=True)
    except OSError as error:
        raise Unavailable(str(error)) from None
    if done.returncode != 0:
        raise Unavailable(f"{' '.join(map(str, command))}: {done.stderr.strip()}")


class Space:
    """A thread with its own mount namespace and, if `network` is True, its own network namespace.

    Raises:
        Unavailable: The namespaces are not available, for example because of a missing permission.
    """

    def __init__(self, *, network: bool = False) -> None:
        self._thread = ThreadPoolExecutor(1)
        try:
            self.call(self._separate, network)
        except Unavailable:
            self.close()
            raise

    def _separate(self, network: bool) -> None:
        flags = _NEW_MOUNTS | (_NEW_NETWORK if network else 0)
        _checked(_libc.unshare(flags), "namespaces")
        _checked(_libc.mount(None, b"/", None, _RECURSIVE | _PRIVATE, None), "private mounts")
        if network:
            run("ip", "link", "set", "lo", "up")

    def call(self, function: Callable[..., _T], *args: Any, **named: Any) -> _T:
        """Call a function in the namespaces, and return its result."""
        return self._thread.submit(function, *args, **named).result()

    def close(self) -> None:
        self._thread.shutdown()


def flow(packet: bytes) -> int | None:
    """Return the client's port of a packet of TCP over IPv4, from its two ports; otherwise None.

    The client's port is the larger one, because the server's port is below the ephemeral ports.
    """
    if packet[0] >> 4 != 4 or packet[9] != 6:
        return None
    start = (packet[0] & 15) * 4
    return max(struct.unpack_from("!HH", packet, start))


class Link:
    """A link between the network namespaces of a client and a server, with faults.

    Attributes:
        delay: The delay of a packet in each direction, in seconds.
        loss: The share of packets that are lost.
        reordered: The share of packets that are delayed twice as long as others, so that later
            packets overtake them.
        dropped: A function that returns whether a packet is lost, in addition to `loss`.
        flows: The client's ports of all packets so far.
    """

    CLIENT, SERVER = "10.77.0.1", "10.77.0.2"
    CLIENT6, SERVER6 = "fd77::1", "fd77::2"

    def __init__(self, client: Space, server: Space) -> None:
        self.delay, self.loss, self.reordered = 0.0, 0.0, 0.0
        self.dropped: Callable[[bytes], bool] = lambda packet: False
        self.flows: set[int] = set()
        self._random = random.Random(1)
        self._ends = [
            client.call(_device, self.CLIENT, self.CLIENT6),
            server.call(_device, self.SERVER, self.SERVER6),
        ]
        self._closing, self._close = os.pipe()
        self._thread = threading.Thread(target=self._move, daemon=True)
        self._thread.start()

    def _move(self) -> None:
        waiting: list[tuple[float, int, int, bytes]] = []
        count = 0
        while True:
            now = time.monotonic()
            while waiting and waiting[0][0] <= now:
                _, _, end, packet = heapq.heappop(waiting)
                os.write(end, packet)
            pause = waiting[0][0] - now if waiting else None
            ready, _, _ = select.select([*self._ends, self._closing], [], [], pause)
            if self._closing in ready:
                return
            for end in ready:
                packet = os.read(end, 65536)
                port = flow(packet)
                if port is not None:
                    self.flows.add(port)
                if self.dropped(packet) or self._random.random() < self.loss:
                    continue
                count += 1
                delay = self.delay * (2 if self._random.random() < self.reordered else 1)
                other = self._ends[end == self._ends[0]]
                heapq.heappush(waiting, (time.monotonic() + delay, count, other, packet))

    def close(self) -> None:
        os.write(self._close, b"x")
        self._thread.join()
        for each in (*self._ends, self._closing, self._close):
            os.close(each)


def _device(address: str, address6: str) -> int:
    """Create a TUN device in the namespace of this thread, and return its descriptor."""
    try:
        descriptor = os.open("/dev/net/tun", os.O_RDWR)
        name = struct.pack("16sH22x", b"link0", _TUN | _NO_INFORMATION)
        fcntl.ioctl(descriptor, _TUNSETIFF, name)
    except OSError as error:
        raise Unavailable(f"no TUN devices on this machine: {error}") from None
    run("ip", "address", "add", f"{address}/24", "dev", "link0")
    if Path("/proc/net/if_inet6").exists():
        run("ip", "address", "add", f"{address6}/64", "dev", "link0", "nodad")
    run("ip", "link", "set", "link0", "up")
    return descriptor
