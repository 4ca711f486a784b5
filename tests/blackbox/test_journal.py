"""The daemon audits itself (issue 4, part 7): what happens at its door becomes events of the source `auditcast`, which its metrics count
and its thresholds see; a flood of them stays small."""

import signal
import subprocess
import time

import pytest
from websockets.exceptions import InvalidStatus

import tokens
from daemon import BINARY
from wait import until

JOURNAL = {"enabled": True}


def events(client, event_type, **details):
    """The events of auditcast's own that came to a client of the feed."""
    found = client.all(type="security_event", source="auditcast", event_type=event_type)
    return [e for e in found if all(e.get("details", {}).get(k) == v for k, v in details.items())]


def event(client, event_type, **details):
    return until(f"{event_type} {details}; came: {client.all(type='security_event')}", lambda: events(client, event_type, **details), 10)[0]


def test_what_happens_at_the_door(store, make_daemon):
    daemon = make_daemon(store, journal=JOURNAL).start()
    watcher = daemon.ws(query={"events": "low"}).hello()
    other = daemon.ws(token=tokens.token(user_id="10", permissions=("audit.view",))).hello()
    # Tokens that are refused, on every way in.
    for how in ("cookie", "subprotocol", "frame"):
        daemon.ws(token="no.good.token", how=how).closed(3500)
    with pytest.raises(InvalidStatus):
        daemon.ws(token="no.good.token")
    assert daemon.api("/alerts", token="no.good.token").status_code == 401
    assert daemon.api("/alerts", token=False).status_code == 401
    assert daemon.api("/alerts", token=tokens.token(user_id="old", expires_in=-100)).status_code == 401
    assert daemon.api("/alerts", token=tokens.token(user_id="8", username="eve", permissions=())).status_code == 403
    daemon.ws(token=tokens.token(user_id="9", permissions=()), how="cookie").closed(3507)
    # Who acts.
    assert daemon.api("/connections/disconnect", "POST", json={"user_id": "10"}).json() == {"disconnected": 1}
    other.closed()
    # Reloads, good and bad, with the names of keys alone.
    good = daemon.config_path.read_text()
    daemon.config_path.write_text(good + '\n[log]\nlevel = "debug"\n')
    daemon.send_signal(signal.SIGHUP)
    until("it is read again", lambda: "log.level" in daemon.stderr())
    daemon.config_path.write_text("[nonsense]\n")
    daemon.send_signal(signal.SIGHUP)
    assert event(watcher, "config.reload_failed")["severity"] == "medium"
    daemon.config_path.write_text(good)

    own = next(e for e in events(watcher, "admin.connected"))
    assert own["user_id"] == "7" and own["username"] == "admin" and own["category"] == "admin" and own["severity"] == "low"
    assert own["details"]["ip_address"] == "127.0.0.1" and own["details"]["transport"] == "websocket"
    assert own["details"]["connection"] == watcher.frame("hello")["connection"]
    event(watcher, "audit.connected")
    refused = event(watcher, "token.rejected", reason="invalid")
    assert refused["severity"] == "medium" and refused["outcome"] == "failure" and "user_id" not in refused
    event(watcher, "token.missing")
    event(watcher, "token.expired")
    eighth, ninth = [next(e for e in events(watcher, "permission.denied") if e["user_id"] == user) for user in ("8", "9")]
    assert (eighth["username"], eighth["outcome"], eighth["details"]["permission"]) == ("eve", "denied", "audit.view") and ninth
    assert event(watcher, "admin.connections_ended", connections="1")["user_id"] == "7"
    assert event(watcher, "audit.disconnected")["user_id"] == "10"
    event(watcher, "config.reloaded", changed="log.level")

    # They count where they belong, and nowhere else.
    daemon.wait_metric("auditcast_permission_violations", lambda n: n >= 2)
    assert daemon.metric("auditcast_failed_logins_last_hour") == 0
    assert daemon.metric("auditcast_source_events_total", source="auditcast") >= 8
    assert daemon.metric("auditcast_journal_events_total", status="dropped") == 0
    # What is noted at the end is read at the next start.
    before = daemon.metric("auditcast_events_total", category="admin")
    watcher.close()
    daemon.restart()
    daemon.wait_metric("auditcast_events_total", lambda n: n > before, category="admin")


def test_a_flood_is_small_and_alerts(redis_server, make_daemon):
    threshold = {"name": "denied", "metric": "permission_violations", "above": 3, "severity": "high"}
    daemon = make_daemon(redis_server, journal=JOURNAL | {"burst": 5, "rate": 1}, threshold=[threshold]).start()
    watcher = daemon.ws(query={"events": "low"}).hello()
    for n in range(300):
        assert daemon.api("/alerts", token=tokens.token(user_id=f"u{n}", permissions=())).status_code == 403
        if n % 3 == 0:
            assert daemon.api("/alerts", token="no.good.token").status_code == 401
    watcher.frame("security_alert", rule="denied", status="firing")

    def counted(event_type):
        return sum(e["details"].get("count", 1) for e in events(watcher, event_type))

    until("every refusal is counted", lambda: (counted("permission.denied"), counted("token.rejected")) == (300, 100), 10)
    begun = time.time()
    assert events(watcher, "permission.denied", reason="summarised")
    # 5 at once, then one a second and the second's summary.
    denied = len(events(watcher, "permission.denied"))
    assert denied <= 5 + 2 * (begun - watcher.times[0] + 2), denied
    status = lambda name: int(daemon.metric("auditcast_journal_events_total", status=name))  # noqa: E731
    until("it is in the metric", lambda: status("summarised") > 200 and status("merged") > 50)


def test_commands_are_noted(store, make_daemon):
    daemon = make_daemon(store, journal=JOURNAL, env={"USER": "eve"}).start()
    watcher = daemon.ws(query={"events": "low"}).hello()
    command = [BINARY, "--config", daemon.config_path, "token", "revoke", tokens.token(jti="gone")]
    subprocess.run(command, env=daemon.env(), check=True, capture_output=True)
    assert event(watcher, "token.revoked", token_id="gone")["details"]["by"] == "cli:eve"
