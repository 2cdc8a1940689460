"""The owner's socket under readers that die, dawdle and send nonsense: they end, and nobody else notices."""

from __future__ import annotations

import mmap
import os
import socket
import stat
import struct
from pathlib import Path

import msgpack
import numpy as np
import pytest

from embcache.errors import NotReady, Overloaded
from embcache.local import frames
from embcache.local.paths import reachable
from embcache.owner import connection, server
from tests.owner.stores import WatchedStore
from tests.owner.support import ITEM, WAIT, OwnerThread, answer, ask, catalogue, fill, read, rows_of, some_ids

IDS = some_ids(200)
HEADER = struct.Struct("<4sIQQ")


def greeted(folder: Path) -> socket.socket:
    """A connection after its hello, without a link's thread."""
    bare = socket.socket(socket.AF_UNIX)
    bare.settimeout(WAIT)
    with reachable(folder / frames.SOCKET_NAME) as address:
        bare.connect(address)
    bare.sendall(frames.encode(1, {"op": "hello", "protocol": frames.PROTOCOL})[0])
    header, fds, _, _ = socket.recv_fds(bare, frames.HEADER_BYTES, 2)
    for fd in fds:
        os.close(fd)
    meta_bytes, _, _ = frames.decode_header(header, 1 << 16, 0)
    assert frames.decode_meta(bare.recv(meta_bytes, socket.MSG_WAITALL))["ok"]
    return bare


def ended(bare: socket.socket) -> bool:
    """Whether the owner closes the connection."""
    try:
        while bare.recv(1 << 20):
            pass
    except ConnectionError:
        pass
    bare.close()
    return True


@pytest.mark.parametrize(
    "nonsense",
    [
        b"GET /v1/lookup HTTP/1.1\r\nHost: localhost\r\n\r\n",
        HEADER.pack(b"EMB1", frames.MAX_REQUEST_META + 1, 0, 1),
        HEADER.pack(b"EMB1", 1, frames.MAX_REQUEST_PAYLOAD + 1, 1),
        HEADER.pack(b"EMB1", 1, 2**64 - 1, 1),
        HEADER.pack(b"EMB1", 4, 0, 1) + b"\xc1\xc1\xc1\xc1",
        HEADER.pack(b"EMB1", 1, 0, 1) + b"\x90",
    ],
)
def test_a_malformed_frame_ends_its_link_and_no_other(owner: OwnerThread, nonsense: bytes) -> None:
    link = owner.link()
    bare = greeted(owner.folder)
    bare.sendall(nonsense)
    assert ended(bare)
    assert set(catalogue(link)) == {"item"}


@pytest.mark.parametrize("cut", [1, 23, 24, 30, 100])
def test_a_reader_that_dies_in_the_middle_of_a_frame(owner: OwnerThread, cut: int) -> None:
    link = owner.link()
    whole = b"".join(frames.encode(1, {"op": "read", "parts": [[1, 100, 16]]}, [IDS[:100]]))
    bare = greeted(owner.folder)
    bare.sendall(whole[:cut])
    bare.close()
    assert owner.when(lambda: len(owner.owner.server.connections) == 1)
    assert set(catalogue(link)) == {"item"}


def test_a_reader_that_dies_while_its_rows_are_read(owner: OwnerThread, store: WatchedStore) -> None:
    link = owner.link()
    fill(link, "item", IDS, rows_of(IDS, 16))
    live = catalogue(link)["item"]
    with store.held_back():
        bare = greeted(owner.folder)
        meta = {"op": "read", "parts": [[live.number, len(IDS), 16]]}
        bare.sendall(b"".join(frames.encode(1, meta, [IDS])))
        assert store.reading.acquire(timeout=WAIT)
        joined = ask(link, (live.number, 16, IDS))
        assert owner.when(lambda: owner.owner.parts.reads.rows_joined == len(IDS))
        bare.close()
        assert owner.when(lambda: len(owner.owner.server.connections) == 1)
    assert (answer(joined)[0][0] == 1).all()
    assert (owner.warm(live.number, IDS)[1] != 0xEE).all()


def test_a_reader_that_takes_no_answers_is_closed(owner: OwnerThread, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "STALL_S", 0.1)
    monkeypatch.setattr(connection, "PAUSE_BYTES", 1 << 16)
    link = owner.link()
    fill(link, "item", IDS, rows_of(IDS, 16))
    live = catalogue(link)["item"]
    bare = greeted(owner.folder)
    ids = np.tile(IDS, 500)
    frame = b"".join(frames.encode(1, {"op": "read", "parts": [[live.number, len(ids), 16]]}, [ids]))
    bare.sendall(frame)  # 1.7 MB of answer, and nobody who takes it
    while len(owner.owner.server.connections) == 2:
        assert (read(link, live, IDS)[0] == 1).all(), "others are served meanwhile"
    assert ended(bare)


def test_a_slow_reader_that_takes_its_answers_is_kept(owner: OwnerThread) -> None:
    """The owner's looks at the link are made by hand here, since a slow machine is no slow reader."""
    bare = greeted(owner.folder)
    assert owner.when(lambda: len(owner.owner.server.connections) == 1)
    [link] = owner.owner.server.connections

    async def look(taken: int) -> int:
        link.check_stall(taken)
        return link.taken

    number = catalogue(owner.link())["item"].number
    ids = np.tile(IDS, 4000)
    bare.sendall(b"".join(frames.encode(1, {"op": "read", "parts": [[number, len(ids), 16]]}, [ids])))
    reader = frames.FrameReader(frames.MAX_REPLY_META, frames.MAX_REPLY_PAYLOAD)
    answers: list[frames.Frame] = []
    taken = 0
    while not answers:
        answers += reader.received(bare.recv_into(reader.buffer()))
        if link.taken > taken:
            taken = owner.run(look(taken))
    assert answers[0].meta["ok"]
    assert answers[0].payload.nbytes == len(ids) * 17
    bare.close()


def test_calls_of_one_link_are_bounded(
    owner: OwnerThread, store: WatchedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "MAX_CALLS", 3)
    link = owner.link()
    fill(link, "item", IDS, rows_of(IDS, 16))
    live = catalogue(link)["item"]
    with store.held_back():
        waiting = [ask(link, (live.number, 16, IDS[n : n + 1])) for n in range(3)]
        with pytest.raises(Overloaded, match="3 calls"):
            ask(link, (live.number, 16, IDS[3:4])).result(WAIT)
        assert set(catalogue(owner.link())) == {"item"}
    for reply in waiting:
        assert answer(reply)[0][0].tolist() == [1]
    assert read(link, live, IDS[3:4])[0].tolist() == [1]


def test_links_are_bounded(owner: OwnerThread, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MAX_LINKS", 2)
    owner.link(), owner.link()
    with pytest.raises(Overloaded, match="2 links"):
        owner.link()


@pytest.mark.parametrize(
    "hello",
    [
        {"op": "hello", "protocol": 99},
        {"op": "hello"},
        {"op": "stats", "protocol": frames.PROTOCOL},
    ],
)
def test_a_hello_of_another_protocol_is_told_so(owner: OwnerThread, hello: dict[str, object]) -> None:
    bare = socket.socket(socket.AF_UNIX)
    bare.settimeout(WAIT)
    bare.connect(str(owner.folder / frames.SOCKET_NAME))
    bare.sendall(frames.encode(1, hello)[0])
    header = bare.recv(frames.HEADER_BYTES)
    told = msgpack.unpackb(bare.recv(frames.decode_header(header, 1 << 16, 0)[0]))
    assert told["error"]["code"] == "not_ready"
    assert ended(bare)


@pytest.mark.parametrize("said", [b"", b"EMB", b"nonsense that is longer than a header"])
def test_who_says_no_hello_is_not_waited_for(owner: OwnerThread, monkeypatch: pytest.MonkeyPatch, said: bytes) -> None:
    monkeypatch.setattr(server, "GREETING_S", 0.05)
    bare = socket.socket(socket.AF_UNIX)
    bare.settimeout(WAIT)
    bare.connect(str(owner.folder / frames.SOCKET_NAME))
    bare.sendall(said)
    assert ended(bare)
    assert set(catalogue(owner.link())) == {"item"}


def test_the_socket_is_its_users_alone_and_goes_with_the_owner(tmp_path: Path, store: WatchedStore) -> None:
    path = tmp_path / frames.SOCKET_NAME
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(path))
    stale.close()
    with OwnerThread(store, tmp_path, [ITEM]) as owner:
        mode = path.stat().st_mode
        assert stat.S_ISSOCK(mode)
        assert stat.S_IMODE(mode) == 0o600
        assert set(catalogue(owner.link())) == {"item"}
    assert not path.exists()


def test_a_folder_whose_path_is_too_long_for_a_socket(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 50)
    folder.mkdir()
    with OwnerThread(WatchedStore(folder / "rocksdb"), folder, [ITEM]) as owner:
        assert set(catalogue(owner.link())) == {"item"}


def test_what_was_asked_before_the_stop_is_answered(tmp_path: Path, store: WatchedStore) -> None:
    with OwnerThread(store, tmp_path, [ITEM]) as owner:
        link = owner.link()
        fill(link, "item", IDS, rows_of(IDS, 16))
        live = catalogue(link)["item"]
        with store.held_back():
            asked = ask(link, (live.number, 16, IDS))
            assert store.reading.acquire(timeout=WAIT)
            stopping = owner.begin(owner.owner.stop(WAIT))
            assert owner.when(lambda: not (tmp_path / frames.SOCKET_NAME).exists())
            with pytest.raises(NotReady, match="stopping"):
                link.call("catalogue").result(WAIT)
        stopping.result(WAIT)
        assert (answer(asked)[0][0] == 1).all()


def test_readers_cannot_write_the_arena(owner: OwnerThread) -> None:
    link = owner.link()
    with pytest.raises(PermissionError):
        mmap.mmap(link.arena_fd, 4096, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
    with pytest.raises(OSError, match=r"Bad file|not permitted|denied"):
        os.pwrite(link.arena_fd, b"x", 0)
