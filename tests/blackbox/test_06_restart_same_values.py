"""A restarted daemon has the same windows, open alerts and positions as one that never stopped (contract §6.3)."""

import json
import random
import signal

import pytest

from daemon import STREAM
from wait import until

NAMES = ["auth.failed_login", "AUTH_SUCCESS", "RATE_LIMIT_EXCEEDED", "permission.denied", "SESSION_CREATED", "session.expired", "data.read",
              "auth.suspicious_activity", "api.request_error"]  # fmt: skip


def trail(rng, count):
    for n in range(count):
        name = rng.choice(NAMES)
        yield {"event_type": name, "user_id": str(rng.randrange(20)),
               "details": json.dumps({"session_id": f"s{rng.randrange(40)}", "duration_ms": rng.randrange(1, 900), "ip_address": f"192.0.2.{n % 9}"})}  # fmt: skip


def pair(redis_server, make_daemon, **config):
    """Two installations on one Redis: the second one will be restarted."""
    nodes = [make_daemon(redis_server, name=name, store={"prefix": "{%s}" % name}, **config) for name in ("steady", "restarted")]
    for node in nodes:
        node.start()
    return nodes


def same_values(nodes, events, timeout=20):
    """Both have all events, and the same metrics in the same slot."""
    for node in nodes:
        node.wait_metric("auditcast_source_events_total", events, timeout)
        node.slots(2)

    def equal():
        one, two = (node.current() for node in nodes)
        if one["timestamp"] != two["timestamp"]:
            return None
        return [(one["metrics"], two["metrics"])]

    one, two = until("both answer for one slot", equal, 10, every=0.005)[0]
    assert one == two
    return one


def open_alerts(node):
    answer = node.api("/alerts", params={"status": "firing"}).raise_for_status().json()["alerts"]
    return sorted((a["alert_id"], a["event_type"], a["message"]) for a in answer)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["SIGTERM", "SIGKILL"])
def test_same_values(redis_server, make_daemon, number):
    nodes = pair(redis_server, make_daemon)
    steady, restarted = nodes
    rng = random.Random(6)
    steady.put(*trail(rng, 700))
    first = same_values(nodes, 700)
    assert first["failed_logins_last_hour"] > 50, "the trail crosses a threshold"
    restarted.stop(number)
    steady.put(*trail(rng, 300))
    restarted.start()
    same_values(nodes, 1000)
    assert open_alerts(steady) == open_alerts(restarted)
    assert steady.metric("auditcast_source_gaps_total") == restarted.metric("auditcast_source_gaps_total") == 0
    # One firing of each threshold and event, restart or not.
    for node in nodes:
        firing = [a["alert_id"] for a in node.log() if a["status"] == "firing"]
        assert len(firing) == len(set(firing))


def test_same_values_where_the_stream_was_trimmed(redis_server, make_daemon):
    """SIGTERM leaves a snapshot; what was read before may be trimmed."""
    nodes = pair(redis_server, make_daemon)
    steady, restarted = nodes
    rng = random.Random(66)
    steady.put(*trail(rng, 500))
    same_values(nodes, 500)
    restarted.stop()
    steady.redis.xtrim(STREAM, maxlen=0, approximate=False)
    restarted.start()
    same_values(nodes, 500)
    steady.put(*trail(rng, 50))
    same_values(nodes, 550)
    assert [a for a in restarted.log() if a["rule"] == "audit_gap"] == []


def test_trimmed_before_it_was_read_is_told(redis_server, make_daemon):
    daemon = make_daemon(redis_server).start()
    daemon.put(*[{"event_type": "data.read"}] * 20)
    daemon.wait_metric("auditcast_source_events_total", 20, source="app")
    last = daemon.redis.xrevrange(STREAM, count=1)[0][0]
    daemon.stop()
    daemon.put(*[{"event_type": "data.read"}] * 30)
    daemon.redis.xtrim(STREAM, maxlen=5, approximate=False)
    daemon.start()
    daemon.wait_metric("auditcast_source_events_total", 25, source="app")
    gap = until("the gap is told", lambda: [a for a in daemon.log() if a["rule"] == "audit_gap"], 10)
    assert len(gap) == 1 and gap[0]["kind"] == "rule" and gap[0]["severity"] == "high"
    details = gap[0]["details"]
    assert details["source"] == "app" and details["reason"] == "trimmed" and details["from"] == last
    # Redis 7 counts what was ever added, so the number of the lost is known.
    assert details.get("missed") == 25
    assert daemon.metric("auditcast_source_gaps_total", source="app", reason="trimmed") == 1


def test_embedded_same_values(tmp_path, make_daemon):
    daemon = make_daemon(f"embedded:{tmp_path / 'data'}").start()
    events = [e | {"details": json.loads(e["details"])} for e in trail(random.Random(5), 300)]
    daemon.put(*events)
    daemon.wait_metric("auditcast_source_events_total", 300, 20, source="http")
    daemon.slots(3)
    before, alerts = daemon.current()["metrics"], open_alerts(daemon)
    for number in (signal.SIGTERM, signal.SIGKILL):
        daemon.restart(number)
        daemon.slots(2)
        assert daemon.current()["metrics"] == before
        assert open_alerts(daemon) == alerts
        assert daemon.metric("auditcast_source_events_total", source="http") == 300


def test_snapshot_of_metrics_is_stored_once(redis_server, make_daemon):
    """§4: `security:metrics:{unix seconds}`, once whatever the number of nodes, TTL 86400 s; and to clients that asked."""
    nodes = [make_daemon(redis_server, name=name, monitor={"snapshot_interval": "1s"}) for name in ("first", "second")]
    for node in nodes:
        node.start()
    client = nodes[1].ws(query={"metrics": "true"}).hello()
    nodes[0].put(*trail(random.Random(3), 60))
    frames = client.at_least(3, type="security_metrics", timeout=10)
    assert "failed_logins_last_hour" in frames[-1]["metrics"] and "events_by_severity" in frames[-1]["metrics"]
    redis = nodes[0].redis
    keys = until("two snapshots are stored", lambda: (k := sorted(redis.keys("security:metrics:*"))) and len(k) >= 2 and k, 10)
    assert all(k.rsplit(":", 1)[1].isdigit() for k in keys)
    value = json.loads(redis.get(keys[-1]))
    assert {"failed_logins_last_hour", "active_sessions", "rate_limit_violations", "suspicious_activities"} <= set(value), value
    assert {"events_by_severity", "events_by_category"} <= set(value), value
    assert 86000 < redis.ttl(keys[-1]) <= 86400
    history = nodes[0].api("/metrics/history", params={"since": "1h"})
    assert history.status_code == 200 and len(history.json()["snapshots"]) >= 2
