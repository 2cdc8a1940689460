"""The first exchange on a link, both sides: "hello", answered with the shared memory's file descriptors.

It happens on the bare socket, before a reader or an event loop takes over, since descriptors travel only beside bytes
that are received with recvmsg.
"""

from __future__ import annotations

import array
import os
import socket
from collections.abc import Mapping, Sequence
from typing import Any

from embcache.errors import EmbcacheError, NotReady
from embcache.local import frames

HELLO_META_LIMIT = 64 << 10
_MOST_FDS = 2


def greet(connection: socket.socket) -> tuple[dict[str, Any], int, int]:
    """The reader's side, on a blocking socket: (the owner's hello, fd of the arena, fd of the ring).

    Raises the owner's error, NotReady when it speaks another protocol, ConnectionError when it hangs up.
    """
    connection.sendall(frames.encode(0, {"op": "hello", "protocol": frames.PROTOCOL, "pid": os.getpid()})[0])
    header, fds = _receive_fds(connection, frames.HEADER_BYTES)
    try:
        header += _receive(connection, frames.HEADER_BYTES - len(header))
        meta_bytes, _, _ = frames.decode_header(header, HELLO_META_LIMIT, 0)
        hello = frames.decode_meta(_receive(connection, meta_bytes))
        if "error" in hello:
            raise EmbcacheError.from_dict(hello["error"])
        if hello.get("protocol") != frames.PROTOCOL or len(fds) != 2:
            raise NotReady(f"the owner speaks protocol {hello.get('protocol')}, this process {frames.PROTOCOL}")
    except BaseException as error:
        for fd in fds:
            os.close(fd)
        if isinstance(error, frames.FrameError):
            raise NotReady(f"what answers is no owner: {error}") from error
        raise
    return hello, fds[0], fds[1]


def welcome(connection: socket.socket, call: int, meta: Mapping[str, Any], fds: Sequence[int]) -> None:
    """The owner's side: answer a hello, on a fresh socket whose buffer is empty, so that one send takes it all."""
    message = frames.encode(call, meta)[0]
    sent = socket.send_fds(connection, [message], fds) if fds else connection.send(message)
    if sent != len(message):
        raise ConnectionError(f"the hello of {len(message)} bytes was sent by {sent} only")


def _receive_fds(connection: socket.socket, nbytes: int) -> tuple[bytes, list[int]]:
    """Up to nbytes and the descriptors beside them, closed on exec (socket.recv_fds drops the flag that does it)."""
    fds = array.array("i")
    data, ancillary, _, _ = connection.recvmsg(
        nbytes, socket.CMSG_LEN(_MOST_FDS * fds.itemsize), socket.MSG_CMSG_CLOEXEC
    )
    for level, kind, packed in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(packed[: len(packed) - len(packed) % fds.itemsize])
    return data, list(fds)


def _receive(connection: socket.socket, nbytes: int) -> bytes:
    """Exactly nbytes, never more: what follows belongs to whoever reads the socket next."""
    data = b""
    while len(data) < nbytes:
        piece = connection.recv(nbytes - len(data))
        if not piece:
            raise ConnectionError("the owner hung up")
        data += piece
    return data
