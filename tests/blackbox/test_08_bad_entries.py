"""What cannot be read goes to the dead letters, once, counted by reason; the stream goes on (contract §3, §6.6)."""

import json
import os
from pathlib import Path

import pytest
import redis

from daemon import REPOSITORY, STREAM
from wait import until

DEAD = "{auditcast}:deadletter"
GOOD = {"event_type": "login_failed", "user_id": "1"}


def vectors():
    places = [os.environ["AUDITCAST_VECTORS"]] if "AUDITCAST_VECTORS" in os.environ else [REPOSITORY / "../shared/data", REPOSITORY / "../../shared/data"]
    for place in places:
        if (folder := Path(place) / "json-test-suite/test_parsing").is_dir():
            return folder
    pytest.skip("not run: no vectors")


def raw(daemon):
    """A client that gives and takes bytes."""
    return redis.Redis(port=daemon.redis.connection_pool.connection_kwargs["port"])


def test_every_n_file_as_a_payload(redis_daemon):
    daemon = redis_daemon
    files = sorted(vectors().glob("n_*.json"))
    assert len(files) == 188
    client = raw(daemon)
    entries = {}
    for n, path in enumerate(files):
        entries[client.xadd(STREAM, {b"data": path.read_bytes()}).decode()] = path.name
        if n % 20 == 0:
            daemon.put(GOOD)
    goods = len(files) // 20 + 1
    daemon.wait_scalar("failed_logins_last_hour", goods)
    daemon.wait_metric("auditcast_source_invalid_total", len(files), source="app")
    found = until("all are dead letters", lambda: (d := client.xrange(DEAD)) and len(d) >= len(files) and d)
    dead = {f[b"entry"].decode(): f for _, f in found}
    assert set(dead) == set(entries), {entries[e] for e in set(entries) ^ set(dead) if e in entries}
    assert all(f[b"source"] == b"app" and f[b"reason"] for f in dead.values())
    daemon.no_panic()
    # Once per source and id, also when they are read again.
    daemon.kill()
    daemon.start()
    daemon.put(GOOD)
    daemon.wait_scalar("failed_logins_last_hour", goods + 1)
    assert client.xlen(DEAD) == len(files)
    assert daemon.metric("auditcast_source_invalid_total", source="app") == len(files)


def test_every_y_and_i_file_does_no_harm(redis_daemon):
    """Valid JSON without an event_type is a dead letter, what may be read either way is one or not: nothing stops."""
    daemon = redis_daemon
    files = [*vectors().glob("y_*.json"), *vectors().glob("i_*.json")]
    client = raw(daemon)
    for path in files:
        client.xadd(STREAM, {b"data": path.read_bytes()})
    client.xadd(STREAM, {b"data": b'{"event_type":"login_failed","details":' + b'{"a":' * 500 + b"1" + b"}" * 500 + b"}"})
    daemon.put(GOOD)
    until("the stream goes on", lambda: daemon.scalar("failed_logins_last_hour") >= 1)
    daemon.wait_metric("auditcast_source_invalid_total", lambda n: n >= len(files), source="app")


@pytest.mark.parametrize(
    "fields",
    [
        {"data": "x" * (1 << 20)},
        {"data": json.dumps(GOOD | {"message": "m" * 70_000})},
        {"event_type": "login_failed", "message": "m" * (1 << 20)},
        {"user_id": "1", "username": "no type"},
        {"event_type": "", "user_id": "1"},
        {"event_type": "x" * 257, "user_id": "1"},
        {"data": json.dumps({"user_id": 1})},
        {"data": json.dumps({"event_type": {"a": 1}})},
        {"data": json.dumps([GOOD])},
        {"data": "null"},
        {"data": ""},
        {b"\xff\xfe\x00": b"\x80\x81\x00\xff"},
        {b"event_type": b"\xff\xfe", b"user_id": b"1"},
    ],
    ids=["1 MiB text", "envelope over 64 KiB", "1 MiB field", "no event_type", "empty event_type", "long event_type", "object without event_type",
         "event_type object", "list", "null", "empty", "binary", "binary event_type"],
)  # fmt: skip
def test_unreadable(redis_daemon, fields):
    daemon = redis_daemon
    entry = raw(daemon).xadd(STREAM, fields).decode()
    daemon.put(GOOD)
    daemon.wait_scalar("failed_logins_last_hour", 1)
    series = daemon.metrics()["auditcast_source_invalid_total"]
    hit = [labels["reason"] for labels, value in series if value == 1 and labels["source"] == "app"]
    assert len(hit) == 1, series
    (_, letter), = raw(daemon).xrange(DEAD)
    assert letter[b"entry"].decode() == entry and letter[b"source"] == b"app" and letter[b"reason"].decode() == hit[0]
    # The body is cut at 4 KiB.
    assert max(map(len, letter.values())) <= 4096


def test_dead_letters_are_bounded(redis_daemon):
    """10,000 are kept."""
    daemon = redis_daemon
    for _ in range(12):
        pipe = daemon.redis.pipeline(transaction=False)
        for _ in range(1000):
            pipe.xadd(STREAM, {"data": "{"})
        pipe.execute()
    daemon.wait_metric("auditcast_source_invalid_total", 12_000, 40, source="app")
    until("trimmed", lambda: 10_000 <= daemon.redis.xlen(DEAD) <= 10_200)
    # §6.6: a malformed event never fills the log.
    assert len(daemon.stderr()) < 50_000


def test_details_as_python_s_str(redis_daemon):
    """`str(dict)` is not JSON: the event counts all the same, the text becomes details.text (§3)."""
    client = redis_daemon.ws(query={"events": "low"}).hello()
    details = {"ip_address": "192.0.2.1", "reason": None}
    redis_daemon.redis.xadd(STREAM, {"event_type": "login_failed", "user_id": "1", "details": str(details)})
    event = client.frame("security_event")
    assert event["details"]["text"] == str(details)
    redis_daemon.wait_scalar("failed_logins_last_hour", 1)
    assert redis_daemon.redis.xlen(DEAD) == 0


def test_nothing_an_event_says_forges_anything(redis_daemon):
    """§6.6: no log line, no metric label, no markup, no key."""
    daemon = redis_daemon
    client = daemon.ws().hello()
    nasty = 'x"} 1\nauditcast_ready 0\n# <script>alert(1)</script>\x1b[31m'
    daemon.put({"event_type": "sql_injection", "user_id": nasty, "username": nasty, "message": nasty, "details": {nasty: nasty, "session_id": nasty}},
               {"event_type": nasty + "*:attack_detected", "user_id": "{auditcast}:lease"})  # fmt: skip
    alert = client.at_least(2, type="security_alert")[0]
    assert "\n" not in alert["message"] and "\x1b" not in alert["message"]
    text = daemon.get_ops("/metrics").text
    assert "alert(1)" not in text and "auditcast_ready 1\n" in text
    assert "<script>" not in daemon.stderr()
    foreign = [k for k in daemon.redis.keys("*") if not k.startswith(("{auditcast}", "security:metrics:")) and k != STREAM]
    assert foreign == []
