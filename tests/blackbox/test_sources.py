"""Every way in (contract §3): globs and several streams, created later, `start`, keys, channels, files with rotation, HTTP intake."""

import json
import time

import pytest

import tokens
from daemon import STREAM
from wait import holds, until

LOGIN = {"event_type": "login_failed", "user_id": "1"}


def source(**keys):
    return [{"name": "app", "kind": "stream", "streams": [STREAM], "start": "earliest"} | keys]


def test_globs_and_several_streams(redis_server, make_daemon):
    redis_server.client().xadd("app:one:audit", LOGIN)
    daemon = make_daemon(redis_server, source=source(streams=["app:*:audit", "other"])).start()
    daemon.put(LOGIN, stream="other")
    daemon.wait_scalar("failed_logins_last_hour", 2)
    # A stream created while the daemon runs is read whole.
    daemon.put(*[LOGIN] * 5, stream="app:two:audit")
    daemon.put(*[LOGIN] * 50, stream="app:no:match")
    daemon.wait_scalar("failed_logins_last_hour", 7, 40)
    daemon.slots(3)
    assert daemon.scalar("failed_logins_last_hour") == 7


def test_a_stream_that_does_not_exist_yet_is_empty(redis_daemon):
    assert redis_daemon.ready() and redis_daemon.redis.exists(STREAM) == 0
    redis_daemon.put(LOGIN)
    redis_daemon.wait_scalar("failed_logins_last_hour", 1)


@pytest.mark.parametrize("start, expected", [("earliest", 3), ("now", 1), ("1h", 2), (None, 2)])
def test_start(redis_server, make_daemon, start, expected):
    """`start` counts only where the store has never seen the source; the default is 1 h."""
    client = redis_server.client()
    client.xadd(STREAM, LOGIN, id=f"{int((time.time() - 7200) * 1000)}-0")
    client.xadd(STREAM, LOGIN, id=f"{int((time.time() - 1800) * 1000)}-0")
    sources = source() if start is None else source(start=start)
    if start is None:
        del sources[0]["start"]
    daemon = make_daemon(redis_server, source=sources).start()
    daemon.put(LOGIN)
    daemon.wait_metric("auditcast_source_events_total", expected, source="app")
    daemon.restart()
    daemon.slots(2)
    assert daemon.metric("auditcast_source_events_total", source="app") == expected


def test_auditcast_leaves_the_streams_alone(redis_daemon):
    redis_daemon.put(*[LOGIN] * 100)
    redis_daemon.wait_scalar("failed_logins_last_hour", 100)
    before = redis_daemon.redis.xinfo_stream(STREAM)
    redis_daemon.slots(3)
    after = redis_daemon.redis.xinfo_stream(STREAM)
    assert before == after and after["length"] == 100 and after["groups"] == 0
    foreign = [k for k in redis_daemon.redis.keys("*") if not k.startswith(("{auditcast}", "security:metrics:")) and k != STREAM]
    assert foreign == []


def test_channel(redis_server, make_daemon):
    daemon = make_daemon(redis_server, source=[{"name": "live", "kind": "channel", "pattern": "audit.*"}]).start()
    until("it listens", lambda: daemon.redis.publish("audit.probe", json.dumps({"event_type": "data.read"})) == 1)
    daemon.redis.publish("audit.logins", json.dumps(LOGIN))
    daemon.redis.publish("elsewhere", json.dumps(LOGIN))
    daemon.redis.publish("audit.logins", "not json")
    daemon.wait_scalar("failed_logins_last_hour", 1)
    daemon.wait_metric("auditcast_source_invalid_total", 1, source="live")


def test_channel_with_two_nodes_counts_once(redis_server, make_daemon):
    nodes = [make_daemon(redis_server, name=n, source=[{"name": "live", "kind": "channel", "pattern": "audit"}]).start() for n in ("first", "second")]
    until("it listens", lambda: nodes[0].redis.publish("audit", json.dumps({"event_type": "data.read"})) >= 1)
    for n in range(20):
        nodes[0].redis.publish("audit", json.dumps(LOGIN | {"details": {"n": n}}))
    for node in nodes:
        node.wait_scalar("failed_logins_last_hour", 20)
        node.slots(3)
        assert node.scalar("failed_logins_last_hour") == 20


def test_keys_with_two_nodes_count_once(redis_server, make_daemon):
    redis_server.client().config_set("notify-keyspace-events", "KEA")
    nodes = [make_daemon(redis_server, name=n, source=[{"name": "a", "kind": "keys", "pattern": "audit:event:*", "start": "earliest"}]) for n in ("first", "second")]
    for node in nodes:
        node.start()
    for n in range(20):
        nodes[0].redis.set(f"audit:event:1:{n}", json.dumps(LOGIN))
        nodes[0].redis.set(f"audit:event:1:{n}", json.dumps(LOGIN))
    for node in nodes:
        node.wait_metric("auditcast_source_events_total", 20, 40, source="a")
    # Longer than one round of SCAN.
    holds("each key once", lambda: nodes[0].metric("auditcast_source_events_total", source="a") == 20, 35, every=1)


def test_file_with_rotation(store, make_daemon, tmp_path):
    """Rotation is followed: renamed, and truncated in place; a restart goes on where it was."""
    log = tmp_path / "audit.log"

    def write(n):
        with log.open("a") as file:
            for _ in range(n):
                file.write("INFO " + json.dumps(LOGIN) + "\n")

    write(3)
    daemon = make_daemon(store, source=[{"name": "file", "kind": "file", "path": str(log), "start": "earliest"}]).start()
    daemon.wait_scalar("failed_logins_last_hour", 3)
    write(2)
    daemon.wait_scalar("failed_logins_last_hour", 5)
    log.rename(tmp_path / "audit.log.1")
    with (tmp_path / "audit.log.1").open("a") as file:
        file.write(json.dumps(LOGIN) + "\n")
    write(2)
    daemon.wait_scalar("failed_logins_last_hour", 8, 15)
    # copytruncate
    log.write_text("")
    until("it has been seen to be short", lambda: daemon.slots(3) is None)
    write(1)
    daemon.wait_scalar("failed_logins_last_hour", 9, 15)
    # Half a line is not an event.
    with log.open("a") as file:
        file.write(json.dumps(LOGIN)[:20])
    daemon.slots(3)
    assert daemon.scalar("failed_logins_last_hour") == 9
    daemon.stop()
    with log.open("a") as file:
        file.write(json.dumps(LOGIN)[20:] + "\n")
    write(1)
    daemon.start()
    daemon.wait_scalar("failed_logins_last_hour", 11, 15)
    daemon.slots(3)
    assert daemon.scalar("failed_logins_last_hour") == 11


# POST /api/v1/events


def test_http_object_list_and_lines(daemon):
    for body in (
        {"json": LOGIN},
        {"json": [LOGIN, LOGIN]},
        {"content": "\n".join([json.dumps(LOGIN)] * 3) + "\n", "headers": {"Content-Type": "application/x-ndjson"}},
    ):
        answer = daemon.api("/events", "POST", **body)
        assert answer.status_code == 200, answer.text
        assert answer.json()["accepted"] == len(answer.json()["ids"]) > 0 and answer.json()["rejected"] == []
    daemon.wait_scalar("failed_logins_last_hour", 6)


def test_http_rejects_by_index(daemon):
    answer = daemon.api("/events", "POST", json=[LOGIN, {"user_id": 1}, LOGIN, "text", {"event_type": "x" * 300}])
    assert answer.status_code == 200
    body = answer.json()
    assert body["accepted"] == 2 and len(body["ids"]) == 2
    assert [r["index"] for r in body["rejected"]] == [1, 3, 4] and all(r["reason"] for r in body["rejected"])


def test_http_dedup_by_event_id(daemon):
    first = daemon.api("/events", "POST", json=LOGIN | {"event_id": "e-1"}).json()
    again = daemon.api("/events", "POST", json=[LOGIN | {"event_id": "e-1"}, LOGIN | {"event_id": "e-2"}, LOGIN | {"event_id": "e-2"}]).json()
    assert first["ids"][0] == again["ids"][0] and again["ids"][1] == again["ids"][2]
    daemon.wait_scalar("failed_logins_last_hour", 2)
    daemon.restart()
    daemon.api("/events", "POST", json=LOGIN | {"event_id": "e-2"})
    daemon.slots(3)
    assert daemon.scalar("failed_logins_last_hour") == 2


def test_http_needs_the_permission(daemon):
    viewer = tokens.token(permissions=["audit.view"])
    answer = daemon.api("/events", "POST", token=viewer, json=LOGIN)
    assert answer.status_code == 403 and answer.headers["content-type"].startswith("application/problem+json")
    assert daemon.api("/events", "POST", token=False, json=LOGIN).status_code == 401


def test_http_bad_bodies(daemon):
    assert daemon.api("/events", "POST", content="{", headers={"Content-Type": "application/json"}).status_code == 400
    assert daemon.api("/events", "POST", content="[" + "1," * 3_000_000 + "1]", headers={"Content-Type": "application/json"}).status_code == 413
    assert daemon.ready()


def test_many_sources_at_once(redis_server, make_daemon, tmp_path):
    log = tmp_path / "b.log"
    log.write_text(json.dumps(LOGIN) + "\n")
    daemon = make_daemon(redis_server, source=[
        {"name": "s", "kind": "stream", "streams": [STREAM], "start": "earliest"},
        {"name": "f", "kind": "file", "path": str(log), "start": "earliest"},
        {"name": "c", "kind": "channel", "pattern": "audit"},
    ]).start()  # fmt: skip
    until("it listens", lambda: daemon.redis.publish("audit", json.dumps(LOGIN)) == 1)
    daemon.put(LOGIN, LOGIN)
    daemon.api("/events", "POST", json=LOGIN)
    daemon.wait_scalar("failed_logins_last_hour", 5)
    for name, count in (("s", 2), ("f", 1), ("c", 1), ("http", 1)):
        assert daemon.metric("auditcast_source_events_total", source=name) == count, name
