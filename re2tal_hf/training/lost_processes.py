"""Processes that a run loses, killed or with their machine: the others end with a message that says how to go on.

Those that wait for a lost one would do so for half an hour, or for ever; they cannot wait for less, since shares of
work are not equally long. So each process holds a connection to the first one, by which the system tells of the end of
either: at once where it was killed, and in 35 seconds where its machine or the network is gone. How busy they are does
not matter.
"""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable
from functools import partial

import torch

logger = logging.getLogger(__name__)

# Between an end and that of who waits for it, unless its own error ends it earlier: as that of a loss, it says more.
SECONDS_TO_END = 10.0
_SECONDS_TO_MEET = 60.0
_KEY, _END = "watch", "end"
# Of a connection on which nothing is said: asked after 10 s, every 5 s, given up after 5 times.
_KEEP_ALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 5, "TCP_USER_TIMEOUT": 35_000}
WRONG_NETWORK = (
    "The processes do not reach each other: give each host the name of its network interface by GLOO_SOCKET_IFNAME, on "
    "GPUs by NCCL_SOCKET_IFNAME too (`ip address` lists them)."
)


class ProcessLostError(ConnectionError):
    """Another process of the run is gone, or was never reached; the message says how to go on."""


class Watch:
    """Ends this process some seconds after another one was lost.

    Args:
        store: In which the processes find each other; may hold what processes before a restart have left.
        rank: Of this process.
        world_size: Number of processes.

    Attributes:
        token: The same on all processes, and new at each start.
        lost: Which process was lost; empty without.
        way_on: Says how to go on.
    """

    def __init__(self, store: torch.distributed.Store, rank: int, world_size: int):
        self.name = f"process {rank} on {platform.node()}"
        self.lost = ""
        self.way_on: Callable[[], str] = lambda: "Start all processes again by the same command."
        self._ended = False
        self._lock = threading.Lock()
        self._found = threading.Event()
        self._connections: list[socket.socket] = []
        self.token = self._receive(store) if rank == 0 else self._connect(store)

    def lost_process(self, seconds: float = 2.0) -> str:
        """Returns which process was lost; waits so long for the news, which may come after an error."""
        self._found.wait(seconds)
        return self.lost

    def end(self) -> None:
        """Says to the others that this process needs them no more."""
        self._ended = True
        self._say(_END)

    def _receive(self, store: torch.distributed.Store) -> str:
        token = secrets.token_hex(8)
        both = socket.has_dualstack_ipv6()
        server = socket.create_server(
            ("", 0), family=socket.AF_INET6 if both else socket.AF_INET, dualstack_ipv6=both, backlog=1024
        )
        store.set(_KEY, f"{server.getsockname()[1]} {token}")
        self._start(partial(self._accept, server, token))
        return token

    def _accept(self, server: socket.socket, token: str) -> None:
        while True:
            connection, _ = server.accept()
            _keep_alive(connection)
            self._start(partial(self._greet, connection, token))

    def _greet(self, connection: socket.socket, token: str) -> None:
        with contextlib.suppress(OSError):
            given, _, peer = _read_line(connection).partition(" ")
            if secrets.compare_digest(given.encode(), token.encode()):
                connection.sendall(f"{token} {self.name}\n".encode())
                self._connections.append(connection)
                self._listen(connection, peer)
                return
        connection.close()

    def _connect(self, store: torch.distributed.Store) -> str:
        end = time.monotonic() + _SECONDS_TO_MEET
        while True:
            port, token = store.get(_KEY).decode().split()
            # After a restart that may be the first process of before.
            with contextlib.suppress(OSError):
                connection = socket.create_connection((os.environ["MASTER_ADDR"], int(port)), timeout=10)
                _keep_alive(connection)
                connection.sendall(f"{token} {self.name}\n".encode())
                connection.settimeout(_SECONDS_TO_MEET)
                answer, _, peer = _read_line(connection).partition(" ")
                if answer == token:
                    connection.settimeout(None)
                    self._connections.append(connection)
                    self._start(partial(self._listen, connection, peer))
                    return token
            if time.monotonic() > end:
                logger.warning(
                    "%s cannot connect to port %s of %s: it will not notice where others are lost.",
                    self.name, port, os.environ["MASTER_ADDR"],
                )  # fmt: skip
                return token
            time.sleep(0.5)

    def _listen(self, connection: socket.socket, peer: str) -> None:
        try:
            said = _read_line(connection)
        except OSError:  # nothing answers
            said = ""
        if said != _END:
            self._lose(said or peer)

    def _lose(self, peer: str) -> None:
        with self._lock:
            if self._ended or self.lost:
                return
            self.lost = peer
        self._found.set()
        self._say(peer)
        time.sleep(SECONDS_TO_END)
        if not self._ended:
            print(f"error: {lost_message(peer, self.way_on())}", file=sys.stderr, flush=True)
            os._exit(1)

    def _say(self, line: str) -> None:
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.sendall(f"{line}\n".encode())

    @staticmethod
    def _start(function: Callable[[], object]) -> None:
        threading.Thread(target=function, daemon=True).start()


def lost_message(peer: str, way_on: str) -> str:
    """Returns what is said of a lost process."""
    who = peer or "another process"
    return f"{who} has ended, or cannot be reached any more: what it said last may say why. {way_on}"


def tells_of_loss(error: Exception) -> bool:
    """Whether an error is that of processes that do not reach each other, or no more."""
    if not isinstance(error, RuntimeError) or not torch.distributed.is_available():
        return False
    kinds = (torch.distributed.DistNetworkError, torch.distributed.DistBackendError)
    return isinstance(error, kinds) or "gloo/transport" in str(error)


def tells_of_wrong_network(error: Exception) -> bool:
    """Whether it is that of processes that have never reached each other."""
    return "connectFullMesh" in str(error)


def _keep_alive(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEP_ALIVE.items():
        if hasattr(socket, name):  # not on every system
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _read_line(connection: socket.socket) -> str:
    """Reads to the end of the first line; empty where the connection ends before it."""
    read = b""
    while not read.endswith(b"\n"):
        part = connection.recv(1)
        if not part or len(read) > 1000:
            return ""
        read += part
    return read.decode(errors="replace").strip()
