"""`/metrics` is clean, a real Prometheus scrapes it, and what grafana/ asks for exists (contract §8)."""

import json
import re
import shutil
import subprocess

import httpx
import pytest

import tokens
from daemon import REPOSITORY
from servers import free_port
from wait import until

GRAFANA = REPOSITORY / "grafana"
#: §8: absent until there is a value.
MAY_BE_ABSENT = {"auditcast_auth_success_ratio", "auditcast_error_ratio", "auditcast_operation_p95_seconds", "auditcast_source_lag_entries"}
#: §8, by name; what §12 adds comes with the on-call outputs.
GAUGES = """failed_logins_last_hour rate_limit_violations permission_violations suspicious_activities session_timeouts active_sessions auth_success_ratio
error_ratio operation_p95_seconds source_lag_entries source_last_event_timestamp_seconds alerts_active active connections store_up ready
config_last_reload_successful config_info build_info""".split()
COUNTERS = """events_total source_events_total source_invalid_total source_gaps_total timestamps_replaced_total replayed_entries_total alerts_total
slots_closed_total slots_late_total connections_rejected_total disconnects_total frames_sent_total auth_failures_total journal_events_total store_reconnects_total""".split()
HISTOGRAMS = ["operation_duration_seconds", "event_processing_seconds", "commit_seconds", "alert_delivery_seconds"]
CATEGORIES = {"auth", "session", "permission", "rate_limit", "security", "token", "user", "admin", "data", "api", "encryption", "config", "system", "audit", "other"}


def types(text):
    return dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.M))


def fill(daemon):
    client = daemon.ws().hello()
    daemon.put({"event_type": "auth.failed_login", "user_id": "u-secret-name", "details": {"duration_ms": 20, "ip_address": "192.0.2.99", "session_id": "s-77"}},
               {"event_type": "AUTH_SUCCESS", "user_id": "u-secret-name"}, {"event_type": "security.injection_attempt", "user_id": "u-secret-name"})  # fmt: skip
    client.frame("security_alert")
    daemon.slots(2)
    return client


def test_every_series_is_present_from_the_start(daemon):
    answer = daemon.get_ops("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    have = types(answer.text)
    for kind, names in (("gauge", GAUGES), ("counter", COUNTERS), ("histogram", HISTOGRAMS)):
        for name in names:
            name = f"auditcast_{name}"
            assert have.get(name, kind if name in MAY_BE_ABSENT else None) == kind, f"{name} must be a {kind}, is {have.get(name)}"
    metrics = daemon.metrics()
    # At 0, for each label of a closed set.
    assert {labels["category"] for labels, _ in metrics["auditcast_events_total"]} == CATEGORIES
    assert {labels["severity"] for labels, _ in metrics["auditcast_events_total"]} == {"low", "medium", "high", "critical"}
    assert {value for _, value in metrics["auditcast_events_total"]} == {0}
    assert daemon.metric("auditcast_failed_logins_last_hour") == 0
    assert daemon.metric("auditcast_alerts_active", rule="high_failed_login_rate") == 0
    assert daemon.metric("auditcast_auth_success_ratio") is None
    assert any(name.startswith("process_") for name in metrics)


def test_promtool_check_metrics(daemon):
    fill(daemon)
    promtool = shutil.which("promtool")
    assert promtool, "there is no promtool on this machine; tests/run install brings it"
    done = subprocess.run([promtool, "check", "metrics"], input=daemon.get_ops("/metrics").text, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0 and not done.stdout.strip() and not done.stderr.strip(), done.stdout + done.stderr


def test_values(daemon):
    fill(daemon)
    assert daemon.metric("auditcast_events_total", category="auth") == 2
    assert daemon.metric("auditcast_events_total", category="security", severity="high") == 1
    assert daemon.metric("auditcast_failed_logins_last_hour") == 1
    assert daemon.metric("auditcast_auth_success_ratio") == 0.5
    assert abs(daemon.metric("auditcast_operation_p95_seconds") - 0.020) <= 0.020 * 0.02
    assert daemon.metric("auditcast_operation_duration_seconds_count") == 1
    assert daemon.metric("auditcast_connections", transport="websocket") == 1
    assert daemon.metric("auditcast_frames_sent_total") >= 3
    assert daemon.metric("auditcast_alert_delivery_seconds_count") == 1
    assert daemon.metric("auditcast_event_processing_seconds_count") == 3
    assert daemon.metric("auditcast_commit_seconds_count") >= 1
    assert daemon.metric("auditcast_alerts_total", severity="high", status="firing") == 1
    assert daemon.metric("auditcast_active") == daemon.metric("auditcast_ready") == daemon.metric("auditcast_store_up") == 1
    # Never a user, an address or a session in a label.
    text = daemon.get_ops("/metrics").text
    assert not re.search(r"u-secret-name|192\.0\.2\.99|s-77", text)


def test_series_about_the_stream_are_equal_on_every_node(redis_server, make_daemon):
    nodes = [make_daemon(redis_server, name=name).start() for name in ("first", "second")]
    nodes[0].put(*[{"event_type": "login_failed", "user_id": "1"}] * 60, {"event_type": "sql_injection"})
    for node in nodes:
        node.wait_scalar("failed_logins_last_hour", 60)
        node.wait_metric("auditcast_source_events_total", 61)
    about_the_stream = ["auditcast_events_total", "auditcast_source_events_total", "auditcast_failed_logins_last_hour", "auditcast_alerts_active",
                        "auditcast_alerts_total", "auditcast_source_last_event_timestamp_seconds"]  # fmt: skip

    def equal():
        one, two = (node.metrics() for node in nodes)
        return all(sorted(map(str, one[n])) == sorted(map(str, two[n])) for n in about_the_stream)

    until("both nodes say the same", equal, 10)
    assert sum(node.metric("auditcast_active") for node in nodes) == 1


def expressions(value):
    """Every PromQL expression of the dashboard."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key == "expr":
                yield inner
            else:
                yield from expressions(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from expressions(inner)


@pytest.fixture
def prometheus(tmp_path, cleanup):
    """Starts a Prometheus with grafana/'s rules on the given targets."""

    def start(*daemons):
        binary = shutil.which("prometheus")
        assert binary, "there is no prometheus on this machine; tests/run install brings it"
        folder = tmp_path / "prometheus"
        folder.mkdir()
        config = (GRAFANA / "prometheus/prometheus.yml").read_text()
        assert "127.0.0.1:9787" in config
        targets = '", "'.join(d.ops.removeprefix("http://") for d in daemons)
        config = config.replace("127.0.0.1:9787", targets).replace("15s", "1s").replace("- auditcast.rules.yml", f"- {GRAFANA}/prometheus/auditcast.rules.yml")
        (folder / "prometheus.yml").write_text(config)
        port = free_port()
        with open(folder / "log", "wb") as log:
            process = subprocess.Popen([binary, f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
                                        f"--web.listen-address=127.0.0.1:{port}"], stdout=log, stderr=log)  # fmt: skip

        def stop():
            process.terminate()
            process.wait(15)

        cleanup(stop)
        base = f"http://127.0.0.1:{port}/api/v1"

        def query(text):
            answer = httpx.get(f"{base}/query", params={"query": text}, trust_env=False, timeout=10).json()
            assert answer["status"] == "success", (text, answer)
            return answer["data"]["result"]

        until("Prometheus has scraped", lambda: [r for r in query('up{job="auditcast"}') if r["value"][1] == "1"], 30, every=0.2)
        return query, base

    return start


def test_a_real_prometheus(redis_daemon, prometheus):
    daemon = redis_daemon
    fill(daemon)
    query, base = prometheus(daemon)
    until("values are there", lambda: query("max(auditcast_failed_logins_last_hour)")[0]["value"][1] == "1", 20)
    assert query('sum(auditcast_events_total{category="auth"})')[0]["value"][1] == "2"
    target = httpx.get(f"{base}/targets", trust_env=False).json()["data"]["activeTargets"][0]
    assert target["health"] == "up" and target["lastError"] == ""
    # Every expression of the dashboard can be asked.
    dashboard = json.loads((GRAFANA / "auditcast.json").read_text())
    asked = list(expressions(dashboard))
    assert len(asked) > 30
    for text in asked:
        query(text.replace("$job", "auditcast").replace("$__rate_interval", "1m"))
    # And the rules are loaded and healthy.
    groups = httpx.get(f"{base}/rules", trust_env=False).json()["data"]["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len(rules) >= 15 and not [rule for rule in rules if rule.get("lastError")]
    assert {rule["health"] for rule in rules} <= {"ok", "unknown"}


def test_names_in_grafana_exist(daemon):
    fill(daemon)
    have = set(types(daemon.get_ops("/metrics").text)) | MAY_BE_ABSENT
    for path in [*GRAFANA.rglob("*.json"), *GRAFANA.rglob("*.yml")]:
        for name in set(re.findall(r"\bauditcast_[a-z0-9_]+", path.read_text())):
            assert name in have or re.sub(r"_(bucket|sum|count)$", "", name) in have, f"{path.relative_to(REPOSITORY)}: {name}"


def test_dashboard_is_well_formed():
    dashboard = json.loads((GRAFANA / "auditcast.json").read_text())
    assert dashboard["uid"] == "auditcast"
    assert {"datasource", "job"} == {v["name"] for v in dashboard["templating"]["list"]}
    ids = [p["id"] for p in dashboard["panels"]]
    assert len(ids) == len(set(ids))
    places = set()
    for panel in dashboard["panels"]:
        if panel["type"] != "row":
            assert panel["datasource"]["uid"] == "${datasource}", panel["title"]
        box = panel["gridPos"]
        cells = {(x, y) for x in range(box["x"], box["x"] + box["w"]) for y in range(box["y"], box["y"] + box["h"])}
        assert not cells & places and box["x"] + box["w"] <= 24, panel["title"]
        places |= cells
    rows = [p["title"] for p in dashboard["panels"] if p["type"] == "row"]
    assert rows == ["Overview", "Event trends", "Alerts", "Sources", "Clients", "Pipeline health"]


def test_ops_listener_has_only_ops(daemon):
    """/metrics is not on the public listener, the API is not on the ops listener."""
    assert daemon.http.get(daemon.public + "/metrics").status_code == 404
    assert daemon.http.get(daemon.ops + "/api/v1/alerts", headers={"Authorization": f"Bearer {tokens.token()}"}).status_code == 404
