"""Every series of contract §8 moves when it should: what can never move tells nobody anything.

Each test drives one part of a running daemon and waits for its series. Three label values stay at 0 by their nature: `no_fields` (Redis
takes no entry without one) and the two `other` that stand for reasons that are not in the list.
"""

import json
import signal
import socket

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

import tokens
from daemon import STREAM
from test_09_feed_edges import handshake
from wait import until


def moved(daemon, name, value=None, **labels):
    """Waits until a series is above 0, or at `value`."""
    daemon.wait_metric(name, value if value is not None else (lambda now: now > 0), 20, **labels)


def test_events_alerts_and_values(redis_daemon):
    daemon = redis_daemon
    client = daemon.ws().hello()
    for name in ("failed_logins_last_hour", "rate_limit_violations", "permission_violations", "suspicious_activities", "session_timeouts", "active_sessions"):
        assert daemon.metric(f"auditcast_{name}") == 0, name
    for name in ("auth_success_ratio", "error_ratio", "operation_p95_seconds"):
        assert daemon.metric(f"auditcast_{name}") is None, name
    daemon.put(*[{"event_type": "login_failed", "details": {"duration_ms": 30}}] * 51, {"event_type": "login_success", "details": {"session_id": "s1"}},
               {"event_type": "rate_limit.exceeded"}, {"event_type": "permission_denied"}, {"event_type": "sql_injection"}, {"event_type": "session_timeout"})  # fmt: skip
    client.frame("security_alert", rule="high_failed_login_rate")
    expected = {"failed_logins_last_hour": 51, "rate_limit_violations": 1, "permission_violations": 1, "suspicious_activities": 1, "session_timeouts": 1,
                "active_sessions": 1, "auth_success_ratio": pytest.approx(1 / 52), "error_ratio": lambda r: 0 < r <= 1,
                "operation_p95_seconds": pytest.approx(0.03, rel=0.02)}  # fmt: skip
    for name, value in expected.items():
        moved(daemon, f"auditcast_{name}", value)
    for name in ("operation_duration_seconds", "event_processing_seconds", "commit_seconds", "alert_delivery_seconds"):
        moved(daemon, f"auditcast_{name}_count")
        assert daemon.metric(f"auditcast_{name}_sum") > 0, name
    moved(daemon, "auditcast_events_total", 52, category="auth")
    moved(daemon, "auditcast_source_events_total", 56, source="app")
    moved(daemon, "auditcast_source_last_event_timestamp_seconds", lambda at: at > 1_700_000_000, source="app")
    moved(daemon, "auditcast_alerts_total", 1, rule="high_failed_login_rate", status="firing")
    moved(daemon, "auditcast_alerts_active", 1, rule="high_failed_login_rate")
    moved(daemon, "auditcast_alerts_active", lambda n: n >= 1, rule="event")
    moved(daemon, "auditcast_slots_closed_total")
    moved(daemon, "auditcast_connections", 1, transport="websocket")
    moved(daemon, "auditcast_frames_sent_total", transport="websocket")
    daemon.log()
    moved(daemon, "auditcast_frames_sent_total", transport="http")
    with daemon.http.stream("GET", f"{daemon.public}/api/v1/stream", headers={"Authorization": f"Bearer {daemon.admin}"}) as answer:
        assert answer.status_code == 200
        moved(daemon, "auditcast_connections", 1, transport="sse")
        moved(daemon, "auditcast_frames_sent_total", transport="sse")
    moved(daemon, "auditcast_connections", 0, transport="sse")


def test_what_cannot_be_read(redis_daemon):
    daemon = redis_daemon
    xadd = daemon.redis.xadd
    xadd(STREAM, {"event": "{not json"})
    xadd(STREAM, {"event": "[1]"})
    xadd(STREAM, {"user_id": "1", "x": "y"})
    xadd(STREAM, {"event_type": "x" * 257, "user_id": "1"})
    xadd(STREAM, {b"event": b"\xff\xfe"})
    xadd(STREAM, {"event_type": "x", "details": "y" * 70_000})
    for reason in ("bad_json", "not_an_object", "no_event_type", "bad_event_type", "bad_utf8", "too_large"):
        moved(daemon, "auditcast_source_invalid_total", 1, source="app", reason=reason)
    daemon.put({"event_type": "x", "timestamp": "yesterday"}, {"event_type": "x", "timestamp": "2001-01-01T00:00:00Z"}, {"event_type": "x", "user_id": "1"})
    for reason in ("unreadable", "skewed", "missing"):
        moved(daemon, "auditcast_timestamps_replaced_total", source="app", reason=reason)
    seconds, _ = daemon.redis.time()
    xadd(STREAM, {"event_type": "x", "user_id": "1"}, id=f"{(seconds + 3600) * 1000}-0")
    moved(daemon, "auditcast_source_invalid_total", 1, source="app", reason="future_id")


def test_holes(redis_server, make_daemon):
    streams = {name: f"audit:{name}" for name in ("trimmed", "rewound", "reset", "unreadable", "exhausted")}
    daemon = make_daemon(redis_server, source=[{"name": n, "kind": "stream", "streams": [s], "start": "earliest"} for n, s in streams.items()]).start()
    redis = daemon.redis
    ids = {name: [redis.xadd(stream, {"event_type": "x", "user_id": "1"}) for _ in range(3)] for name, stream in streams.items()}
    for name in streams:
        daemon.wait_metric("auditcast_source_events_total", 3, source=name)
    daemon.stop()
    for _ in range(5):
        redis.xadd(streams["trimmed"], {"event_type": "x", "user_id": "1"})
    redis.xtrim(streams["trimmed"], maxlen=1, approximate=False)
    redis.delete(streams["rewound"])
    redis.xadd(streams["rewound"], {"event_type": "x", "user_id": "1"}, id=ids["rewound"][0])
    redis.delete(streams["reset"])
    redis.xadd(streams["reset"], {"event_type": "x", "user_id": "1"}, id="1-1")
    redis.delete(streams["unreadable"])
    redis.set(streams["unreadable"], "no stream")
    last = 2**64 - 1
    redis.xadd(streams["exhausted"], {"event_type": "x", "user_id": "1"}, id=f"{last}-{last}")
    daemon.start(readyz=False)
    told = {}

    def all_told():
        for labels, value in daemon.metrics()["auditcast_source_gaps_total"]:
            if value:
                told.setdefault(labels["source"], set()).add(labels["reason"])
        return set(told) == set(streams)

    until("holes are counted", all_told, 20)
    assert told == {name: {name} for name in streams}


def test_outages_of_the_store(redis_server, make_daemon):
    daemon = make_daemon(redis_server, store={"lease_ttl": "10s"}).start()
    daemon.put({"event_type": "login_failed"})
    daemon.slots(2)
    assert daemon.metric("auditcast_store_up") == daemon.metric("auditcast_ready") == daemon.metric("auditcast_active") == 1
    assert daemon.metric("auditcast_slots_late_total") == 0 and daemon.metric("auditcast_store_reconnects_total") == 0
    # Frozen for some intervals: slots are closed, late.
    redis_server.send_signal(signal.SIGSTOP)
    try:
        before = daemon.metric("auditcast_slots_closed_total")
        with pytest.raises(AssertionError):
            daemon.wait_metric("auditcast_slots_closed_total", lambda now: now > before + 1, 2)
    finally:
        redis_server.send_signal(signal.SIGCONT)
    moved(daemon, "auditcast_slots_late_total")
    # And gone.
    redis_server.kill()
    daemon.wait_metric("auditcast_store_up", 0)
    daemon.wait_metric("auditcast_ready", 0, 20)
    redis_server.start()
    daemon.wait_metric("auditcast_store_up", 1, 20)
    daemon.wait_metric("auditcast_ready", 1, 20)
    moved(daemon, "auditcast_store_reconnects_total")
    # Killed, or its last snapshot would leave nothing to read again.
    daemon.restart(signal.SIGKILL)
    moved(daemon, "auditcast_replayed_entries_total")


def test_lag_and_two_nodes(redis_server, make_daemon):
    first = make_daemon(redis_server, name="first", monitor={"batch": 100}).start()
    first.put({"event_type": "x", "user_id": "1"})
    first.wait_metric("auditcast_source_lag_entries", 0, source="app")
    second = make_daemon(redis_server, name="second").start()
    assert (first.metric("auditcast_active"), second.metric("auditcast_active")) == (1, 0)
    first.send_signal(signal.SIGSTOP)
    second.wait_metric("auditcast_active", 1, 20)
    first.send_signal(signal.SIGCONT)
    first.wait_metric("auditcast_active", 0, 20)
    second.stop()
    first.wait_metric("auditcast_active", 1, 20)
    seen = 0.0
    pipe = first.redis.pipeline(transaction=False)
    for _ in range(30_000):
        pipe.xadd(STREAM, {"event_type": "x", "user_id": "1"})
    first.send_signal(signal.SIGSTOP)
    pipe.execute()
    first.send_signal(signal.SIGCONT)

    def lagged():
        nonlocal seen
        seen = max(seen, first.metric("auditcast_source_lag_entries", source="app") or 0)
        return seen > 0 or first.metric("auditcast_source_events_total", source="app") == 30_001

    until("entries wait to be read, or are read", lagged, 30, every=0)
    first.wait_metric("auditcast_source_lag_entries", 0, 30, source="app")
    assert seen > 0


def refused(daemon, **options):
    with pytest.raises(InvalidStatus) as refusal:
        daemon.ws(**options)
    return refusal.value.response.status_code


def test_connections_that_are_not_taken(redis_server, make_daemon):
    daemon = make_daemon(redis_server, limits={"connections": 6, "connections_per_user": 2, "sockets": 16}, env={"RATE_LIMIT_GENERAL": "5"}).start()
    rejected = lambda reason: moved(daemon, "auditcast_connections_rejected_total", reason=reason)  # noqa: E731
    failed = lambda reason: moved(daemon, "auditcast_auth_failures_total", reason=reason)  # noqa: E731
    assert refused(daemon, origin="https://evil.example") == 403
    rejected("origin")
    assert refused(daemon, query={"nonsense": "1"}) == 400
    rejected("bad_request")
    assert refused(daemon, token="no.good.token") == 401
    rejected("unauthorized")
    failed("invalid")
    assert refused(daemon, token=tokens.token(expires_in=-100)) == 401
    failed("expired")
    assert refused(daemon, token=tokens.token(permissions=())) == 403
    rejected("forbidden")
    failed("forbidden")
    daemon.redis.set("jwt:blacklist:gone", "1")
    assert refused(daemon, token=tokens.token(jti="gone")) == 401
    failed("blacklisted")
    assert daemon.api("/stream", token=False).status_code == 401
    failed("missing")
    held = [daemon.ws().hello(), daemon.ws().hello()]
    assert refused(daemon) == 429
    rejected("too_many_per_user")
    held += [daemon.ws(token=tokens.token(user_id=f"u{n}")).hello() for n in range(4)]
    assert refused(daemon, token=tokens.token(user_id="other")) == 503
    rejected("too_many_connections")
    until("too many requests", lambda: daemon.api("/stream", token=tokens.token(permissions=())).status_code == 429)
    rejected("rate_limited")
    for client in held:
        client.close()
    daemon.wait_metric("auditcast_connections", 0, transport="websocket")
    host, port = daemon.public.removeprefix("http://").split(":")
    sockets = [socket.create_connection((host, int(port))) for _ in range(20)]
    rejected("sockets")
    for s in sockets:
        s.close()
    until("there is room again", lambda: daemon.api("/alerts").status_code in (200, 429))
    # The store away: nobody new gets in.
    redis_server.kill()
    daemon.wait_metric("auditcast_store_up", 0)
    assert refused(daemon) == 503
    rejected("unavailable")


def test_above_the_limit_of_memory(redis_server, make_daemon):
    """Who is in stays; who is new gets 503 and is counted."""
    daemon = make_daemon(redis_server, limits={"memory": "64MiB"}, feed={"ring": 20000}).start()
    client = daemon.ws().hello()
    # What an alert keeps of its details is bounded, so there must be many.
    details = json.dumps({f"part{k}": "x" * 1000 for k in range(7)})
    pipe = daemon.redis.pipeline(transaction=False)
    for n in range(10_000):
        pipe.xadd(STREAM, {"event_type": f"custom.kind_{n // 50}", "severity": "critical", "details": details})
    pipe.execute()
    until("it holds more than 64 MiB", lambda: daemon.rss() > 70 << 20, 60)
    until("it has looked", lambda: "limits.memory" in daemon.stderr())
    with pytest.raises(InvalidStatus) as refusal:
        daemon.ws()
    response = refusal.value.response
    assert response.status_code == 503 and response.headers["Retry-After"]
    assert daemon.api("/stream").status_code == 503
    moved(daemon, "auditcast_connections_rejected_total", 2, reason="memory")
    client.send(type="ping")
    client.frame("pong", timeout=60)
    assert client.code is None


def test_ends(redis_server, make_daemon):
    """Each close code, counted once."""
    daemon = make_daemon(redis_server, feed={"auth_timeout": "200ms", "ping_interval": "1s", "idle_timeout": "2s", "write_timeout": "1s"},
                         limits={"connections_per_user": 2}).start()  # fmt: skip
    ended = lambda code: moved(daemon, "auditcast_disconnects_total", code=str(code))  # noqa: E731
    daemon.ws().hello().close()
    ended("other")
    sock, _ = handshake(daemon)
    sock.sendall(b"\xf1\x80\0\0\0\0")
    ended(1002)
    for code, send in {1003: lambda c: c.socket.send(b"x"), 1009: lambda c: c.socket.send("x" * 20_000),
                       3501: lambda c: [c.socket.send("no object") for _ in range(10)]}.items():  # fmt: skip
        client = daemon.ws().hello()
        try:
            send(client)
        except ConnectionClosed:
            pass
        client.closed(code)
        ended(code)
    sock, _ = handshake(daemon)
    sock.sendall(b"\x81\x82\0\0\0\0\xff\xfe")
    ended(1007)
    client = daemon.ws(token=tokens.token(expires_in=2)).hello()
    client.closed(3005)
    ended(3005)
    sock, _ = handshake(daemon)
    ended(3012)
    client = daemon.ws().hello()
    try:
        for _ in range(2000):
            client.send(type="ping")
    except ConnectionClosed:
        pass
    client.closed(3013)
    ended(3013)
    for code, token in {3500: "no.good.token", 3507: tokens.token(permissions=())}.items():
        daemon.ws(token=token, how="cookie").closed(code)
        ended(code)
    daemon.ws(how=None).closed(3502)
    ended(3502)
    daemon.redis.set("jwt:blacklist:gone", "1")
    daemon.ws(token=tokens.token(jti="gone"), how="cookie").closed(3503)
    ended(3503)
    held = [daemon.ws(token=tokens.token(user_id="many")).hello() for _ in range(2)]
    daemon.ws(token=tokens.token(user_id="many"), how="cookie").closed(3504)
    ended(3504)
    for client in held:
        client.close()
    redis_server.kill()
    daemon.wait_metric("auditcast_store_up", 0)
    daemon.ws(how="cookie").closed(1013)
    ended(1013)


def test_a_reload(redis_daemon):
    daemon = redis_daemon
    hashes = lambda: [labels["hash"] for labels, value in daemon.metrics()["auditcast_config_info"] if value == 1]  # noqa: E731
    before = hashes()
    assert daemon.metric("auditcast_config_last_reload_successful") == 1 and len(before) == 1
    good = daemon.config_path.read_text()
    daemon.config_path.write_text(good + "\n[nonsense]\n")
    daemon.send_signal(signal.SIGHUP)
    daemon.wait_metric("auditcast_config_last_reload_successful", 0)
    assert hashes() == before
    daemon.config_path.write_text(good + '\n[[threshold]]\nname = "own"\nmetric = "active_sessions"\nabove = 7\n')
    daemon.send_signal(signal.SIGHUP)
    daemon.wait_metric("auditcast_config_last_reload_successful", 1)
    until("the new rule has its series", lambda: daemon.metric("auditcast_alerts_active", rule="own") == 0)
    assert len(hashes()) == 1 and hashes() != before
    assert daemon.metric("auditcast_build_info") == 1
