"""Who may do what, what a request may ask for, and what the service says about itself."""

from __future__ import annotations

from collections.abc import Iterator

import msgpack
import pytest
from prometheus_client.parser import text_string_to_metric_families

from embcache_client import Client
from embcache_client.errors import UnknownTable
from tests.service.running import FILLED, Running, running
from tests.service.wires import Answer, get, post, put

SECRETS = {"read": "reading-secret", "write": "writing-secret", "admin": "admin-secret"}
GUARDED = "".join(f'[[token]]\nsecret = "{secret}"\nroles = ["{role}"]\n' for role, secret in SECRETS.items())
CONFIG = f"""
[server]
port = 0
uds = "front.sock"
workers = 2
max_body_bytes = "4KiB"
max_ids_per_request = 100
reply_pool = "1MiB"
[warm]
capacity = "8MiB"
[cold]
path = "data"
[[table]]
name = "item"
dim = 4096
{GUARDED}
"""


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A service of two fronts, with a token for each role, and small limits."""
    folder = tmp_path_factory.mktemp("guarded")
    (folder / "config.toml").write_text(CONFIG)
    with running(folder) as service:
        yield service


def asked(service: Running, request: bytes, token: str | None) -> Answer:
    head, _, body = request.partition(b"\r\n\r\n")
    extra = f"\r\nauthorization: Bearer {token}".encode() if token else b""
    return service.ask(head + extra + b"\r\n\r\n" + body)


LOOKUP = post("/v1/lookup", msgpack.packb({"queries": [{"table": "item", "ids": bytes(8)}]}))
BEGIN = post("/v1/tables/item/imports", b'{"spec": null}', content_type="application/json")
STAGE = post("/v1/tables/item/versions", b'{"version": "next"}', content_type="application/json")
STAGE_BY_IMPORT = post("/v1/tables/item/imports", b'{"version": "next"}', content_type="application/json")
CREATE = post("/v1/tables/made/imports", b'{"spec": {"name": "made", "dim": 2}}', content_type="application/json")
SNAPSHOT = post("/v1/snapshots", b'{"path": "no absolute path"}', content_type="application/json")


@pytest.mark.parametrize(
    ("request_", "least"),
    [
        (LOOKUP, "read"),
        (get("/v1/tables"), "read"),
        (get("/v1/tables/item/rows/1"), "read"),
        (get("/v1/tables/item/rows"), "read"),
        (get("/v1/limits"), "read"),
        (get("/v1/position"), "read"),
        (BEGIN, "write"),
        (CREATE, "admin"),
        (STAGE_BY_IMPORT, "admin"),
        (STAGE, "admin"),
        (put("/v1/active", {"tables": {"item": "1"}}), "admin"),
        (get("/v1/tables/item/versions/next", method="DELETE"), "admin"),
        (put("/v1/tables/gone", {"dim": 2}), "admin"),
        (get("/v1/tables/gone", method="DELETE"), "admin"),
        (get("/v1/check"), "admin"),
        (SNAPSHOT, "admin"),
        (put("/v1/tables/item", {"max_norm": None}).replace(b"PUT", b"PATCH"), "admin"),
        (get("/v1/quarantine"), "admin"),
        (get("/v1/quarantine/1"), "admin"),
        (get("/v1/quarantine/1", method="DELETE"), "admin"),
        (post("/v1/quarantine/1/release", b"", content_type="application/json"), "admin"),
    ],
)
def test_who_may_do_what(guarded: Running, request_: bytes, least: str) -> None:
    roles = ["read", "write", "admin"]
    for token in (None, "no-such-token", SECRETS["read"] + "x"):
        answer = asked(guarded, request_, token)
        assert answer.status == 401
        assert answer.headers["www-authenticate"] == "Bearer"
    for role in roles:
        answer = asked(guarded, request_, SECRETS[role])
        assert (answer.status == 403) == (roles.index(role) < roles.index(least)), (role, answer)
        assert answer.status in (200, 201, 202, 403) or b"no batch of position 1" in answer.body


def test_a_stranger_is_turned_away_before_the_body_is_sent(guarded: Running) -> None:
    head = post("/v1/lookup", b"x" * 4000).partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
    answer = guarded.ask(head)
    assert (answer.status, msgpack.unpackb(answer.body)["error"]["code"]) == (401, "unauthenticated")


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics", "/docs", "/openapi.json"])
def test_what_anybody_may_see(guarded: Running, path: str) -> None:
    assert guarded.ask(get(path)).status == 200


def test_limits_are_told_and_kept(guarded: Running) -> None:
    limits = asked(guarded, get("/v1/limits"), SECRETS["read"]).json()
    assert (limits["max_body_bytes"], limits["max_ids_per_request"], limits["max_reply_bytes"]) == (4096, 100, 1 << 20)

    def lookup(ids: int) -> tuple[int, str]:
        body = msgpack.packb({"queries": [{"table": "item", "ids": bytes(8 * ids)}]})
        answer = asked(guarded, post("/v1/lookup", body), SECRETS["read"])
        return answer.status, msgpack.unpackb(answer.body).get("error", {}).get("message", "")

    assert lookup(50) == (200, "")
    assert lookup(100) == (
        413,
        "the reply would take 1638640 bytes, more than server.reply_pool (1048576) has: split the request",
    )
    assert lookup(101) == (413, "the request asks for 101 ids; at most 100 go in one, so split it")
    assert lookup(600) == (
        413,
        "the body is larger than 4096 bytes, the limit of server.max_body_bytes: send it in smaller requests",
    )


def test_a_unix_socket_serves_the_same(guarded: Running) -> None:
    with Client(f"http+unix://{guarded.folder / 'front.sock'}", token=SECRETS["read"]) as client:
        assert client.lookup({"item": [1]})["item"].rows.shape == (1, 4096)


def test_position_is_told(service: Running) -> None:
    told = service.ask(get("/v1/position")).json()
    assert told.keys() == {"durable", "applied", "history", "lag_s"}
    assert told["applied"].isdigit()
    assert service.ask(get("/healthz")).json() == {"alive": True}
    ready = service.ask(get("/readyz")).json()
    assert ready["ready"] is True
    assert ready["hot"].keys() == {"on", "device", "why"}


def metrics_of(service: Running) -> dict[tuple[str, ...], float]:
    answer = service.ask(get("/metrics"))
    assert answer.headers["content-type"].startswith("text/plain")
    families = text_string_to_metric_families(answer.body.decode())
    return {(s.name, *s.labels.values()): s.value for family in families for s in family.samples}


def test_metrics_count_what_was_asked(service: Running) -> None:
    with service.client() as client:
        client.lookup({"coded": FILLED[:10]})
        before = metrics_of(service)
        client.lookup({"coded": [0, 1, 10**7]})
        with pytest.raises(UnknownTable):
            client.lookup({"codex": [1]})
    after = metrics_of(service)
    changed = {key: after[key] - value for key, value in before.items() if after[key] != value}
    assert changed["embcache_lookups_total",] == 1
    assert changed["embcache_ids_total", "coded", "warm"] == 2
    assert changed["embcache_ids_total", "coded", "missing"] == 1
    assert changed["embcache_errors_total", "unknown_table"] == 1
    assert changed["embcache_lookup_seconds_count",] == 1
    assert after["embcache_table_rows", "item", "cold"] == len(FILLED)
    assert after["embcache_ready",] == 1
    assert after["embcache_resident_bytes", "owner"] > 10**7


def test_any_front_tells_what_all_of_them_counted(guarded: Running) -> None:
    before = metrics_of(guarded)["embcache_lookups_total",]
    for _ in range(40):
        assert asked(guarded, LOOKUP, SECRETS["read"]).status == 200
    assert {metrics_of(guarded)["embcache_lookups_total",] for _ in range(20)} == {before + 40}


def test_an_import_goes_on_whichever_front_it_meets(guarded: Running) -> None:
    begin = post(
        "/v1/tables/spread/imports", b'{"spec": {"name": "spread", "dim": 2}}', content_type="application/json"
    )
    path = "/v1/imports/" + asked(guarded, begin, SECRETS["admin"]).json()["import"]
    for identifier in range(30):
        page = {"ids": identifier.to_bytes(8, "little"), "dtype": "f32", "rows": bytes(8)}
        answer = asked(guarded, post(f"{path}/rows", msgpack.packb(page)), SECRETS["write"])
        assert msgpack.unpackb(answer.body) == {"rows": identifier + 1}
    done = asked(guarded, post(f"{path}/commit", b""), SECRETS["write"]).json()
    assert done == {"table": "spread", "version": done["version"], "rows": 30, "position": done["position"]}
    with guarded.client(token=SECRETS["read"]) as client:
        assert client.lookup({"spread": list(range(30))}, strict=True)["spread"].version == done["version"]
