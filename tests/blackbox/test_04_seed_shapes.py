"""Both seeds' shapes are read (contract §3): flat fields, one JSON field, ids as numbers and text, zone-less times, A's keys, B's log file."""

import json
import time

import pytest

from daemon import STREAM

#: B's guide, "Log Structure", verbatim.
B_EVENT = {
    "timestamp": "2024-01-15T10:30:00",
    "event_type": "AUTH_SUCCESS",
    "username": "user@example.com",
    "user_id": 123,
    "details": {"ip_address": "192.168.1.100", "user_agent": "Mozilla/5.0...", "session_id": "sess_abc123"},
}


def events(daemon, **query):
    """A client that sees every event."""
    return daemon.ws(query={"events": "low"} | query).hello()


def test_flat_fields(redis_daemon):
    client = events(redis_daemon)
    now = int(time.time())
    redis_daemon.redis.xadd(STREAM, {"event_type": "auth.failed_login", "user_id": "user_7", "username": "eve", "timestamp": str(now),
                                     "ip_address": "192.0.2.4", "details": json.dumps({"reason": "bad password", "duration_ms": 12})})  # fmt: skip
    event = client.frame("security_event")
    assert event["event_type"] == "auth.failed_login" and event["category"] == "auth" and event["severity"] == "medium"
    assert event["outcome"] == "failure" and event["user_id"] == "user_7" and event["username"] == "eve" and event["source"] == "app"
    # Unknown top-level fields join details.
    assert event["details"]["ip_address"] == "192.0.2.4" and event["details"]["reason"] == "bad password"
    assert event["timestamp"] == time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(now))
    assert "original_event_type" not in event


@pytest.mark.parametrize("field", ["data", "payload", "event", "x"])
def test_one_field_is_an_envelope(redis_daemon, field):
    client = events(redis_daemon)
    redis_daemon.redis.xadd(STREAM, {field: json.dumps(B_EVENT)})
    event = client.frame("security_event")
    # The normal form, the written text beside it, a number as text.
    assert event["event_type"] == "auth.success" and event["user_id"] == "123" and event["outcome"] == "success"
    assert event["username"] == "user@example.com" and event["details"]["session_id"] == "sess_abc123"
    # Over 24 h from arrival: arrival is used, the text kept.
    assert event["details"]["original_timestamp"] == "2024-01-15T10:30:00"
    assert event["timestamp"] == event["received_at"]
    redis_daemon.wait_metric("auditcast_timestamps_replaced_total", 1, source="app")
    redis_daemon.wait_scalar("active_sessions", 1)


def test_data_beside_flat_fields_is_merged_and_flat_fields_win(redis_daemon):
    client = events(redis_daemon)
    redis_daemon.redis.xadd(STREAM, {"event_type": "user.login_failed", "user_id": "1", "data": json.dumps({"user_id": 2, "username": "bob"})})
    event = client.frame("security_event")
    assert event["user_id"] == "1" and event["username"] == "bob"


@pytest.mark.parametrize("unit", [1, 1e3, 1e6, 1e9])
def test_unix_times(redis_daemon, unit):
    client = events(redis_daemon)
    now = int(time.time()) - 60
    redis_daemon.redis.xadd(STREAM, {"event_type": "data.read", "timestamp": str(int(now * unit))})
    assert client.frame("security_event")["timestamp"] == time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(now))


def test_zone_less_time_is_in_the_source_s_zone(redis_server, make_daemon):
    source = {"kind": "stream", "start": "earliest"}
    daemon = make_daemon(redis_server, source=[source | {"name": "utc", "streams": ["utc"]},
                                               source | {"name": "madrid", "streams": ["madrid"], "timezone": "Etc/GMT-2"}]).start()  # fmt: skip
    client = events(daemon)
    now = int(time.time()) - 60
    text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now))
    for stream in ("utc", "madrid"):
        daemon.put({"event_type": "data.read", "timestamp": text}, stream=stream)
    assert client.frame("security_event", source="utc")["timestamp"] == text + ".000Z"
    # Two hours east of Greenwich the same text is two hours earlier.
    assert client.frame("security_event", source="madrid")["timestamp"] == time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(now - 7200))


def test_members_that_are_secrets_are_masked(daemon):
    """§3: masked before anything is stored, sent or logged."""
    client = events(daemon)
    secret = "hunter2-ab54c98ceb1f0ad2"
    daemon.put({"event_type": "security.injection_attempt", "user_id": "1", "password": secret,
                "details": {"Authorization": secret, "nested": {"API_KEY": secret, "list": [{"refresh_token": secret}]}, "kept": "yes"}})  # fmt: skip
    event = client.frame("security_event")
    client.frame("security_alert")
    assert event["details"]["Authorization"] == "***" and event["details"]["kept"] == "yes"
    assert secret not in json.dumps(client.frames)
    assert secret not in json.dumps(daemon.log())
    daemon.stop()
    assert secret not in daemon.stderr()


def test_keys_of_a(redis_server, make_daemon):
    """A's `audit:event:{timestamp}:{event_id}`, a JSON string or a hash, each once."""
    daemon = make_daemon(redis_server, source=[{"name": "a", "kind": "keys", "pattern": "audit:event:*", "start": "earliest"}]).start()
    client = events(daemon)
    now = int(time.time())
    daemon.redis.set(f"audit:event:{now}:e1", json.dumps({"event_type": "auth.failed_login", "user_id": 123, "details": {"ip_address": "192.0.2.1"}}))
    daemon.redis.hset(f"audit:event:{now}:e2", mapping={"event_type": "permission.denied", "user_id": "7", "details": json.dumps({"resource": "x"})})
    # Without keyspace notifications SCAN finds them, every 30 s.
    first = client.frame("security_event", event_type="auth.failed_login", timeout=40)
    second = client.frame("security_event", event_type="permission.denied", timeout=40)
    assert first["user_id"] == "123" and first["source"] == "a" and second["details"]["resource"] == "x"
    # auditcast never writes to A's keys.
    assert sorted(daemon.redis.keys("audit:event:*")) == [f"audit:event:{now}:e1", f"audit:event:{now}:e2"]
    daemon.restart()
    daemon.slots(5)
    assert daemon.metric("auditcast_source_events_total", source="a") == 2


def test_keys_of_a_with_notifications(redis_server, make_daemon):
    redis_server.client().config_set("notify-keyspace-events", "KEA")
    daemon = make_daemon(redis_server, source=[{"name": "a", "kind": "keys", "pattern": "audit:event:*"}]).start()
    client = events(daemon)
    daemon.redis.set("audit:event:1:n1", json.dumps({"event_type": "auth.failed_login", "user_id": 1}))
    client.frame("security_event", timeout=5)
    daemon.slots(5)
    assert daemon.metric("auditcast_source_events_total", source="a") == 1


def test_log_file_of_b(store, make_daemon, tmp_path):
    """JSON lines; text before the first `{` is skipped (`logs/security.log`)."""
    log = tmp_path / "security.log"
    line = dict(B_EVENT, event_type="AUTH_FAILURE")
    log.write_text("2024-01-15 10:30:00,123 - security - INFO - " + json.dumps(line) + "\n" + "a line without any event\n")
    daemon = make_daemon(store, source=[{"name": "b", "kind": "file", "path": str(log), "start": "earliest"}]).start()
    client = events(daemon)
    with log.open("a") as file:
        file.write("INFO:security:" + json.dumps(dict(line, user_id="text-id")) + "\n")
    daemon.wait_scalar("failed_logins_last_hour", 2)
    assert client.frame("security_event", user_id="text-id")["source"] == "b"


def test_every_shape_of_user_id_is_text(daemon):
    client = events(daemon)
    daemon.put({"event_type": "data.read", "user_id": 123}, {"event_type": "data.read", "user_id": "user_abc"}, {"event_type": "data.read"})
    frames = client.at_least(3, type="security_event")
    assert sorted(f.get("user_id", "") for f in frames) == ["", "123", "user_abc"]
