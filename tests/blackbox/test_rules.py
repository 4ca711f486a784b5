"""Rules over one entity, from outside: built-in ones and one of a file; once, with evidence, across a restart and a reload."""

import signal

from wait import until

RULE = """
[[rule]]
name = "payroll"
kind = "count"
events = ["payroll_*"]
where = 'details.amount > 1000'
by = ["user"]
window = "1h"
at_least = 3
severity = "critical"
message = "{user} touched payroll {value} times"

[[test]]
rule = "payroll"
name = "three"
events = [{ event_type = "payroll.paid", user_id = "7", details = { amount = 2000 }, times = 3 }]
fires = ["7"]

[[test]]
rule = "payroll"
name = "two"
events = [{ event_type = "payroll.paid", user_id = "7", details = { amount = 2000 }, times = 2 }]
fires = []
"""


def failed(user):
    return {"event_type": "auth.failed_login", "user_id": user, "details": {"ip_address": "192.0.2.7"}}


def test_success_after_failures(daemon):
    client = daemon.ws(query={"filter": 'rule = "success_after_failures"'}).hello()
    daemon.put(*[failed("eve")] * 5, *[failed("ann")] * 4, {"event_type": "AUTH_SUCCESS", "user_id": "ann"}, {"event_type": "AUTH_SUCCESS", "user_id": "eve"})
    alert = client.frame("security_alert")
    assert alert["kind"] == "rule" and alert["severity"] == "high" and alert["status"] == "firing"
    assert alert["message"] == "eve signed in after 5 failed logins in 10m"
    assert alert["user_id"] == "eve" and alert["details"]["entity"] == {"user": "eve"} and alert["window"] == "10m"
    assert len(alert["evidence"]) == 6 and all("/" in entry for entry in alert["evidence"])
    daemon.slots(2)
    assert len(client.alerts()) == 1
    assert daemon.metric("auditcast_alerts_active", rule="success_after_failures") == 1


def test_a_rule_of_a_file_goes_on_after_a_restart_and_a_reload(store, make_daemon):
    daemon = make_daemon(store, rules={"dir": "rules"})
    rules = daemon.directory / "rules"
    rules.mkdir(exist_ok=True)
    (rules / "own.toml").write_text(RULE)
    daemon.start()
    paid = {"event_type": "payroll.paid", "user_id": "7", "details": {"amount": 2000}}
    daemon.put(paid, dict(paid, details={"amount": 10}))
    daemon.slots(2)
    daemon.stop()
    daemon.start()
    daemon.put(paid)
    daemon.slots(2)
    # Another severity is no other rule: what it has seen counts on.
    before = len(daemon.stderr())
    (rules / "own.toml").write_text(RULE.replace("critical", "high"))
    daemon.send_signal(signal.SIGHUP)
    until("the new rule is in force", lambda: "the new settings are in force" in daemon.stderr()[before:])
    assert daemon.log() == []
    daemon.put(paid)
    until("it fires", daemon.log)
    [alert] = daemon.log()
    assert (alert["rule"], alert["severity"], alert["message"]) == ("payroll", "high", "7 touched payroll 3 times")
    assert len(alert["evidence"]) == 3 and alert["value"] == alert["threshold"] == 3
