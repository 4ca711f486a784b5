"""The two built-in thresholds fire once, say A's words verbatim, and resolve once (contract §4)."""

import re

import pytest

FAILED_LOGIN = {"event_type": "auth.failed_login", "user_id": "123", "details": {"ip_address": "192.0.2.7"}}
RATE_LIMIT = {"event_type": "RATE_LIMIT_EXCEEDED", "user_id": "9"}
#: (rule, metric, event, limit, severity, message of the first value above the limit)
BUILT_IN = [
    ("high_failed_login_rate", "failed_logins_last_hour", FAILED_LOGIN, 50, "high", "High failed login rate detected: 51 in last hour"),
    ("high_rate_limit_violations", "rate_limit_violations", RATE_LIMIT, 100, "medium", "High rate limit violations: 101"),
]
RFC3339_MS = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


@pytest.mark.parametrize("rule, metric, event, limit, severity, message", BUILT_IN, ids=lambda v: v if isinstance(v, str) and "_" in v else "")
def test_fires_once_above_the_limit(daemon, rule, metric, event, limit, severity, message):
    client = daemon.ws().hello()

    # §4: comparisons are strict, the limit itself does not fire.
    daemon.put(*[event] * limit)
    daemon.wait_scalar(metric, limit)
    daemon.slots(3)
    assert client.alerts() == []

    daemon.put(event)
    alert = client.frame("security_alert")
    # §5: A's five members.
    assert alert["type"] == "security_alert"
    assert alert["event_type"] == rule
    assert alert["severity"] == severity
    assert alert["message"] == message
    assert RFC3339_MS.fullmatch(alert["timestamp"]), alert["timestamp"]
    # §5: and ours.
    assert alert["kind"] == "threshold" and alert["status"] == "firing" and alert["rule"] == rule
    assert alert["value"] == limit + 1 and alert["threshold"] == limit and alert["window"] == "1h"
    assert re.fullmatch(r"[A-Za-z0-9._-]{1,64}", alert["pos"]), alert["pos"]
    assert 1 <= len(alert["evidence"]) <= 20
    assert None not in alert.values()

    # §4: a threshold that stays crossed is one alert.
    daemon.put(*[event] * 100)
    daemon.wait_scalar(metric, limit + 101)
    daemon.slots(3)
    assert [a["pos"] for a in client.alerts()] == [alert["pos"]]
    assert [a["pos"] for a in daemon.log()] == [alert["pos"]]
    assert daemon.metric("auditcast_alerts_active", rule=rule) == 1
    assert daemon.metric("auditcast_alerts_total", rule=rule, status="firing") == 1


def test_message_holds_the_value_of_the_slot_that_fired(store, make_daemon):
    daemon = make_daemon(store).start()
    client = daemon.ws().hello()
    daemon.put(*[FAILED_LOGIN] * 80)
    alert = client.frame("security_alert")
    # §4: the number in a message is the value at the slot that fired; more may come in the same slot, never less than the bound.
    assert 50 < alert["value"] <= 80
    assert alert["message"] == f"High failed login rate detected: {alert['value']} in last hour"
    # §5: details.top, the most frequent users and addresses with counts.
    top = str(alert["details"]["top"])
    assert "123" in top and "192.0.2.7" in top


@pytest.mark.parametrize("rule, metric, event, limit, severity, message", BUILT_IN, ids=lambda v: v if isinstance(v, str) and "_" in v else "")
def test_resolves_once_when_the_window_has_passed(store, make_daemon, rule, metric, event, limit, severity, message):
    window = 9
    daemon = make_daemon(store, metrics={metric: {"window": f"{window}s"}}, threshold=[{"name": rule, "keep_firing_for": "1s"}]).start()
    client = daemon.ws().hello()
    daemon.put(*[event] * (limit + 1))
    fired = client.frame("security_alert", status="firing")
    resolved = client.frame("security_alert", status="resolved", timeout=window + 8)
    assert resolved["alert_id"] == fired["alert_id"] and resolved["pos"] != fired["pos"]
    # §5: `Resolved: ` and the same text with the value at that moment.
    assert resolved["message"] == "Resolved: " + re.sub(r"\d+", str(resolved["value"]), message, count=1)
    assert resolved["value"] <= limit
    waited = client.times[client.frames.index(resolved)] - client.times[client.frames.index(fired)]
    # §4: an arrival leaves at the first bucket end at or after W (buckets of W/360); then keep_firing_for.
    assert window + 1 - 0.5 <= waited <= window + 1 + 2.5, waited
    daemon.slots(3)
    assert [a["status"] for a in client.alerts()] == ["firing", "resolved"]
    assert daemon.metric("auditcast_alerts_active", rule=rule) == 0


def test_crossing_again_within_keep_firing_for_is_the_same_alert(store, make_daemon):
    daemon = make_daemon(store, metrics={"failed_logins_last_hour": {"window": "3600ms"}},
                         threshold=[{"name": "high_failed_login_rate", "above": 3, "keep_firing_for": "60s"}]).start()  # fmt: skip
    client = daemon.ws().hello()
    daemon.put(*[FAILED_LOGIN] * 4)
    client.frame("security_alert", status="firing")
    daemon.wait_scalar("failed_logins_last_hour", 0, 10)
    daemon.put(*[FAILED_LOGIN] * 4)
    daemon.wait_scalar("failed_logins_last_hour", 4)
    daemon.slots(3)
    assert len(client.alerts()) == 1


def test_own_threshold(store, make_daemon):
    daemon = make_daemon(
        store,
        metrics={"exports": {"window": "1h", "events": ["data_export*"], "except": ["*_test"]}},
        threshold=[{"name": "many_exports", "metric": "exports", "above": 2, "severity": "critical", "labels": {"team": "dlp"},
                    "runbook_url": "https://runbooks.example/exports"}],
    ).start()  # fmt: skip
    client = daemon.ws().hello()
    daemon.put(*[{"event_type": "data.export"}] * 2, {"event_type": "data.export_test"})
    daemon.wait_scalar("exports", 2)
    daemon.slots(2)
    assert client.alerts() == []
    daemon.put({"event_type": "DATA_EXPORT"})
    alert = client.frame("security_alert")
    # §4: without `message` it says `{name}: {value}`.
    assert alert["message"] == "many_exports: 3"
    assert alert["severity"] == "critical" and alert["labels"] == {"team": "dlp"}
    assert alert["runbook_url"] == "https://runbooks.example/exports"


def test_names_of_b_count_alike(daemon):
    """B's upper-case names, and words of other applications, are on the lists of §3."""
    failed = ["AUTH_FAILURE", "AUTH_FAILED", "LOGIN_FAILED", "auth.failed_login", "USER_LOGIN_FAILURE", "authn_login_fail:bob", "invalid_credentials",
              "WRONG_PASSWORD", "loginFailed", "login-failed"]  # fmt: skip
    limited = ["RATE_LIMIT_EXCEEDED", "rate_limit.exceeded", "rate_limit_violation", "excess_rate_limit_exceeded:x", "too_many_requests", "ApiThrottled"]
    denied = ["PERMISSION_DENIED", "permission.denied", "PERMISSION_VIOLATION", "ACCESS_DENIED", "unauthorized_access", "authz_fail:bob,resource"]
    others = ["AUTH_SUCCESS", "PASSWORD_RESET", "failed_login_reset", "rate_limit_checked", "SESSION_CREATED", "failover_started"]
    daemon.put(*[{"event_type": name, "user_id": "1"} for name in failed + limited + denied + others])
    daemon.wait_scalar("failed_logins_last_hour", len(failed))
    daemon.wait_scalar("rate_limit_violations", len(limited))
    daemon.wait_scalar("permission_violations", len(denied))
    total = sum(daemon.current()["metrics"]["events_by_category"].values())
    assert total == len(failed + limited + denied + others)


def test_high_event_is_an_alert_by_itself(daemon):
    client = daemon.ws().hello()
    daemon.put({"event_type": "security.injection_attempt", "user_id": 42, "details": {"ip_address": "198.51.100.9"}},
               {"event_type": "auth.suspicious_activity", "username": "eve\n<b>", "message": "odd\x1bthing"})  # fmt: skip
    first, second = client.at_least(2, type="security_alert")
    if first["event_type"] != "security.injection_attempt":
        first, second = second, first
    assert first["kind"] == "event" and first["status"] == "firing" and first["severity"] == "high"
    # §5: the form of a message that the event does not bring itself.
    assert first["message"] == "security.injection_attempt by 42 from 198.51.100.9"
    assert first["user_id"] == "42" and first["details"]["ip_address"] == "198.51.100.9"
    assert len(first["evidence"]) == 1 and re.fullmatch(r".+/\d+-\d+", first["evidence"][0])
    # §5: one line, control characters as spaces.
    assert second["message"] == "odd thing"


def test_event_alert_resolves_by_itself(store, make_daemon):
    daemon = make_daemon(store, monitor={"event_alert_ttl": "1s"}).start()
    client = daemon.ws().hello()
    daemon.put({"event_type": "auth.brute_force", "user_id": "5"})
    fired = client.frame("security_alert", status="firing")
    resolved = client.frame("security_alert", status="resolved", timeout=6)
    assert resolved["alert_id"] == fired["alert_id"]
    assert resolved["message"] == "Resolved: " + fired["message"]


def test_many_event_alerts_of_one_type_in_one_slot(redis_server, make_daemon):
    """§4: beyond 100 of one type in one slot the rest is one alert with details.count."""
    daemon = make_daemon(redis_server, monitor={"interval": "2s"}).start()
    client = daemon.ws().hello()
    daemon.slots(1)
    daemon.put(*[{"event_type": "attack_detected", "user_id": str(n)} for n in range(150)])
    client._wait("150 events told of", lambda: sum(a.get("details", {}).get("count", 1) for a in client.alerts()) >= 150, 10)
    alerts = client.alerts()
    assert len(alerts) <= 102, len(alerts)
    assert sum(a.get("details", {}).get("count", 1) for a in alerts) == 150


def test_alert_latency(redis_daemon):
    """§5: an event alert is at the client within 1 s of its XADD, a threshold within interval + 1 s."""
    client = redis_daemon.ws().hello()
    for n in range(5):
        arrived = int(redis_daemon.put({"event_type": "sql_injection", "user_id": str(n)})[0].split("-")[0]) / 1000
        alert = client.frame("security_alert", user_id=str(n))
        assert client.times[client.frames.index(alert)] - arrived < 1.0
    last = int(redis_daemon.put(*[FAILED_LOGIN] * 51)[-1].split("-")[0]) / 1000
    alert = client.frame("security_alert", rule="high_failed_login_rate")
    assert client.times[client.frames.index(alert)] - last < 1.2
