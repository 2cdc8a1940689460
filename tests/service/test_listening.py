"""Sockets are bound before anything is started: what cannot be bound is told at once, by the setting's name."""

from __future__ import annotations

import socket
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from embcache.config import Server
from embcache.errors import ConfigError
from embcache.service.listening import Listening


def server(**settings: Any) -> Server:
    return Server.model_validate({"port": 0, **settings})


def test_both_sockets_are_told_as_urls(tmp_path: Path) -> None:
    path = tmp_path / "front.sock"
    with closing(Listening(server(uds=path))) as listening:
        tcp, unix = listening.urls
        assert tcp == f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        assert unix == f"http+unix://{path}"
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
    assert not path.exists()


def test_an_ipv6_address_is_told_in_brackets() -> None:
    try:
        listening = Listening(server(host="::1"))
    except ConfigError as error:
        pytest.skip(f"no IPv6 here: {error}")
    with closing(listening):
        assert listening.urls[0].startswith("http://[::1]:")


def test_a_port_in_use_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=f"server.port: cannot listen on 127.0.0.1, port {port}: something else"):
            Listening(server(port=port))


@pytest.mark.parametrize(
    ("host", "words"),
    [("256.0.0.1", "server.host: '256.0.0.1' is no address"), ("192.0.2.1", "this machine has no such address")],
)
def test_a_host_that_is_not_ours_is_named(host: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Listening(server(host=host))


def test_a_socket_file_in_use_is_named_and_left(tmp_path: Path) -> None:
    path = tmp_path / "front.sock"
    with closing(Listening(server(uds=path))):
        with pytest.raises(ConfigError, match=r"server.uds: cannot listen on .*: something else listens there"):
            Listening(server(uds=path))
        assert path.is_socket()


def test_a_socket_file_that_a_dead_service_left_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "front.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with closing(Listening(server(uds=path))), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


def test_a_socket_file_of_a_later_service_is_left(tmp_path: Path) -> None:
    path = tmp_path / "front.sock"
    listening = Listening(server(uds=path))
    path.unlink()
    with closing(Listening(server(uds=path))):
        listening.close()
        assert path.is_socket()


@pytest.mark.parametrize(
    ("name", "words"),
    [("a file", "is there and is not a socket"), ("no/folder/here", "server.uds: cannot listen on .*: No such file")],
)
def test_a_path_that_cannot_be_is_named_and_left(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / "a file").write_text("kept")
    with pytest.raises(ConfigError, match=words):
        Listening(server(uds=tmp_path / name))
    assert (tmp_path / "a file").read_text() == "kept"


def test_a_long_path_is_no_hindrance(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 120)
    folder.mkdir()
    with closing(Listening(server(uds=folder / "front.sock"))) as listening:
        assert listening.urls[1].endswith("/front.sock")
