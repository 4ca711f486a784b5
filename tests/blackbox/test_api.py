"""The HTTP API (contract §7), probes (§6.5), problems (RFC 9457), the documents about both."""

import re

import pytest

import tokens
from wait import until

HIGH = {"event_type": "security.injection_attempt", "user_id": "1"}


def put_alerts(daemon, count):
    daemon.put(*[HIGH | {"user_id": f"u{n}"} for n in range(count)])
    until(f"{count} alerts are stored", lambda: len(daemon.log()) == count)


def test_log_in_pages(daemon):
    put_alerts(daemon, 25)
    whole = daemon.api("/alerts").json()
    assert len(whole["alerts"]) == 25 and whole["head"] == whole["alerts"][-1]["pos"]
    seen, after = [], None
    for _ in range(10):
        page = daemon.api("/alerts", params={"limit": 10} | ({"after": after} if after else {})).json()
        seen += page["alerts"]
        after = page.get("next")
        if not after:
            break
    assert [a["pos"] for a in seen] == [a["pos"] for a in whole["alerts"]]
    # After the head there is nothing, and that is no error.
    rest = daemon.api("/alerts", params={"after": whole["head"]})
    assert rest.status_code == 200 and rest.json()["alerts"] == []
    backwards = daemon.api("/alerts", params={"order": "desc", "limit": 5}).json()["alerts"]
    assert [a["pos"] for a in backwards] == [a["pos"] for a in whole["alerts"]][::-1][:5]


def test_the_log_has_the_frames_of_the_feed(daemon):
    client = daemon.ws().hello()
    put_alerts(daemon, 3)
    frames = client.at_least(3, type="security_alert")
    assert daemon.log() == frames


def test_current_state_of_alerts(store, make_daemon):
    daemon = make_daemon(store, monitor={"event_alert_ttl": "3s"}).start()
    put_alerts(daemon, 2)
    firing = daemon.api("/alerts", params={"status": "firing"}).json()["alerts"]
    assert len(firing) == 2 and {a["status"] for a in firing} == {"firing"}
    one = daemon.api(f"/alerts/{firing[0]['alert_id']}")
    assert one.status_code == 200 and one.json()["alert_id"] == firing[0]["alert_id"]
    until("they resolve", lambda: daemon.api("/alerts", params={"status": "firing"}).json()["alerts"] == [], 10)
    assert daemon.api(f"/alerts/{firing[0]['alert_id']}").json()["status"] == "resolved"


def problem(answer, status):
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"].startswith("application/problem+json")
    body = answer.json()
    assert {"type", "title", "status", "detail", "code"} <= set(body) and body["status"] == status
    return body


@pytest.mark.parametrize("path", ["/alerts", "/metrics/current", "/metrics/history", "/stream", "/alerts/0123", "/connections"])
def test_every_call_needs_a_token_and_a_permission(redis_daemon, path):
    problem(redis_daemon.api(path, token=False), 401)
    problem(redis_daemon.api(path, token="not.a.token"), 401)
    problem(redis_daemon.api(path, token=tokens.token(expires_in=-100)), 401)
    problem(redis_daemon.api(path, token=tokens.token(permissions=["session.view"], role="OBSERVER")), 403)
    redis_daemon.redis.set("jwt:blacklist:gone", "1", ex=100)
    assert "blacklisted" in problem(redis_daemon.api(path, token=tokens.token(jti="gone")), 401)["detail"]


def test_problems(daemon):
    problem(daemon.api("/alerts/nobody-knows-this"), 404)
    problem(daemon.api("/no/such/call"), 404)
    problem(daemon.api("/alerts", params={"limit": "many"}), 400)
    problem(daemon.api("/alerts", params={"status": "odd"}), 400)
    problem(daemon.api("/alerts", "DELETE"), 405)


def test_an_expired_position_is_gone(store, make_daemon):
    """§6.4: at most `alerts.max` are kept, the oldest go first; §5, §7: a position before them is told to be expired."""
    daemon = make_daemon(store, alerts={"max": 1000}, feed={"ring": 100}).start()
    first = None
    for start in range(0, 1500, 250):
        # Types in turn, so that none has over 100 in one slot.
        daemon.put(*[{"event_type": f"kind{n % 10}.attack_detected", "user_id": f"u{n}"} for n in range(start, start + 250)])
        daemon.wait_metric("auditcast_source_events_total", start + 250)
        first = first or until("the first is stored", daemon.log)[0]["pos"]
    until("old ones went out", lambda: daemon.log(limit=1000)[0]["pos"] != first, 30)
    assert len(daemon.log(limit=1000)) < 1400
    assert problem(daemon.api("/alerts", params={"after": first}), 410)["code"] == "expired"
    with daemon.ws(query={"after": first}) as client:
        subscribed = client.frame("subscribed")
        assert subscribed["recovered"] is False and subscribed["reason"] == "expired"
        assert client.frame("security_alert")["replayed"] is True


def test_current_metrics(daemon):
    daemon.put({"event_type": "login_failed", "user_id": "1"}, {"event_type": "AUTH_SUCCESS", "user_id": "1", "details": {"session_id": "s1"}},
               {"event_type": "RATE_LIMIT_EXCEEDED"}, {"event_type": "permission.denied"}, {"event_type": "session.expired", "details": {"session_id": "s0"}})  # fmt: skip
    daemon.wait_scalar("permission_violations", 1)
    answer = daemon.current()
    metrics = answer["metrics"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", answer["timestamp"])
    assert metrics["failed_logins_last_hour"] == metrics["rate_limit_violations"] == metrics["session_timeouts"] == metrics["active_sessions"] == 1
    assert metrics["auth_success_ratio"] == 0.5
    assert metrics["events_by_category"]["auth"] == 2 and sum(metrics["events_by_severity"].values()) == 5
    # Counts are integers.
    assert type(metrics["failed_logins_last_hour"]) is int
    # Absent without any.
    assert "operation_p95_seconds" not in metrics
    assert answer["sources"]


def test_probes(daemon):
    for path in ("/readyz", "/livez"):
        assert daemon.get_ops(path).status_code == 200
    ready = daemon.get_ops("/readyz").json()
    assert ready["ready"] is True and ready["checks"]
    assert daemon.get_ops("/readyz?exclude=source").status_code == 200


def test_documents(daemon):
    openapi = daemon.api("/openapi.json")
    if openapi.status_code == 404:
        openapi = daemon.http.get(daemon.public + "/openapi.json")
    assert openapi.status_code == 200 and openapi.json()["openapi"].startswith("3.")
    paths = " ".join(openapi.json()["paths"])
    for call in ("/alerts", "/alerts/{alert_id}", "/stream", "/metrics/current", "/metrics/history", "/events"):
        assert call in paths, call
    asyncapi = daemon.api("/asyncapi.json")
    if asyncapi.status_code == 404:
        asyncapi = daemon.http.get(daemon.public + "/asyncapi.json")
    assert asyncapi.status_code == 200 and asyncapi.json()["asyncapi"]
    for frame in ("hello", "subscribed", "security_alert", "security_event", "security_metrics", "source_status", "position", "gap", "lagging", "bye"):
        assert f'"{frame}"' in asyncapi.text, frame


def test_cors(redis_server, make_daemon):
    daemon = make_daemon(redis_server, env={"CORS_ORIGINS": "https://front.example"}).start()
    good = daemon.api("/alerts", headers={"Origin": "https://front.example"})
    assert good.headers["access-control-allow-origin"] == "https://front.example"
    assert "access-control-allow-origin" not in daemon.api("/alerts", headers={"Origin": "https://evil.example"}).headers


def test_rate_limit(redis_server, make_daemon):
    """`RATE_LIMIT_GENERAL` requests per client and `RATE_LIMIT_WINDOW` (§2)."""
    daemon = make_daemon(redis_server, env={"RATE_LIMIT_GENERAL": "10", "RATE_LIMIT_WINDOW": "60"}).start()
    answers = [daemon.api("/metrics/current") for _ in range(12)]
    assert [a.status_code for a in answers][:10] == [200] * 10
    assert answers[-1].status_code == 429 and int(answers[-1].headers["Retry-After"]) >= 1


def test_connections(daemon):
    """Who is watching; end one, a user's (§7)."""
    mine = daemon.ws(tokens.token(user_id="watcher")).hello()
    connection = mine.frames[0]["connection"]
    listed = daemon.api("/connections").raise_for_status().json()
    assert connection in str(listed) and "watcher" in str(listed)
