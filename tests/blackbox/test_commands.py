"""The command line (contract §1): exit codes, one sentence on stderr, what is printed."""

import json
import os
import signal
import subprocess

import jwt
import pytest

import tokens
from daemon import BINARY, STREAM
from wait import until


def run(*arguments, env=None, cwd=None, stdin=None, timeout=30):
    env = {"PATH": os.environ["PATH"], "HOME": str(cwd or "/nonexistent"), "JWT_SECRET_KEY": tokens.SECRET} | (env or {})
    env = {k: v for k, v in env.items() if v is not None}
    return subprocess.run([BINARY, *map(str, arguments)], env=env, cwd=cwd, input=stdin, capture_output=True, text=True, timeout=timeout)


def one_sentence(done, code):
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    assert done.stderr.strip(), "an error is told on stderr"
    assert "panicked" not in done.stderr
    return done.stderr


def test_help_and_version():
    for command in ("", "serve", "demo", "check", "emit", "watch", "token", "user", "doctor", "health"):
        done = run(*([command] if command else []), "--help")
        assert done.returncode == 0 and "Usage" in done.stdout, command
    done = run("--version")
    assert done.returncode == 0 and done.stdout.startswith("auditcast ")
    one_sentence(run("no-such-command"), 2)


@pytest.mark.parametrize("secret", [None, "short", "your-super-secure-jwt-secret-key-here", "your-super-secret-jwt-key-here"])
def test_serve_without_a_good_secret(tmp_path, secret):
    """Exit 2, and the line that makes one; under 32 bytes or a sample text of A or B alike (§1, §10)."""
    done = run("serve", env={"JWT_SECRET_KEY": secret}, cwd=tmp_path)
    text = one_sentence(done, 2)
    assert "JWT_SECRET_KEY" in text
    if secret:
        assert secret not in text + done.stdout


@pytest.mark.parametrize(
    "text, words",
    [
        ("[monitor]\nintervall = '5s'\n", ["intervall"]),
        ("[monitor]\ninterval = '5 parsecs'\n", ["interval"]),
        ("[monitor]\ninterval = '1ms'\n", ["interval"]),
        ("[[source]]\nname = 'x'\nkind = 'telepathy'\n", ["kind"]),
        ("[[threshold]]\nname = 'own'\nmetric = 'no_such_metric'\nabove = 1\n", ["no_such_metric"]),
        ("[store\n", []),
    ],
)
@pytest.mark.parametrize("command", ["check", "serve"])
def test_a_faulty_configuration(tmp_path, command, text, words):
    """Exit 2 and file, line, key, what was expected (§1)."""
    path = tmp_path / "faulty.toml"
    path.write_text(text)
    told = one_sentence(run(command, "--config", path, cwd=tmp_path), 2)
    for word in ["faulty.toml", *words]:
        assert word in told, told


def test_check_says_where_values_come_from(tmp_path):
    path = tmp_path / "own.toml"
    path.write_text("[monitor]\nsnapshot_interval = '30s'\n")
    env = {"REDIS_URL": "redis://:the-redis-password-88@127.0.0.1:6399/0", "AUDITCAST__MONITOR__INTERVAL": "7s"}
    done = run("check", "--config", path, env=env, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "30s" in done.stdout and "7s" in done.stdout and "own.toml" in done.stdout and "AUDITCAST__MONITOR__INTERVAL" in done.stdout
    assert "the-redis-password-88" not in done.stdout + done.stderr and tokens.SECRET not in done.stdout + done.stderr


def test_token(tmp_path):
    done = run("token", "issue", "--user", "42", "--role", "ADMIN", "--permission", "audit.write", "--for", "1h", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    # Prints only the token.
    claims = jwt.decode(done.stdout.strip(), tokens.SECRET, ["HS256"], options={"verify_aud": False})
    assert claims["user_id"] == claims["sub"] == "42" and claims["exp"] - claims["iat"] == 3600 and claims["jti"]
    assert "audit.write" in claims["permissions"]
    done = run("token", "inspect", done.stdout.strip(), cwd=tmp_path)
    assert done.returncode == 0 and "42" in done.stdout


def test_token_opens_and_revoke_closes(redis_daemon):
    daemon = redis_daemon
    token = run("token", "issue", "--user", "42", "--role", "ADMIN", "--config", daemon.config_path, cwd=daemon.directory).stdout.strip()
    assert daemon.api("/alerts", token=token).status_code == 200
    done = run("token", "revoke", token, "--config", daemon.config_path, cwd=daemon.directory)
    assert done.returncode == 0, done.stderr
    jti = jwt.decode(token, options={"verify_signature": False})["jti"]
    assert daemon.redis.exists(f"jwt:blacklist:{jti}")
    until("the token is refused", lambda: daemon.api("/alerts", token=token).status_code == 401)


def test_emit(daemon):
    """Appends to a configured stream, prints the entry ids; by Redis, or the daemon's control socket."""
    client = daemon.ws().hello()
    done = run("emit", "security.injection_attempt", "--user", "77", "--detail", "ip_address=192.0.2.3", "--config", daemon.config_path, cwd=daemon.directory)
    assert done.returncode == 0, done.stderr
    ids = done.stdout.split()
    assert len(ids) == 1 and len(ids[0].split("-")) == 2
    alert = client.frame("security_alert")
    assert alert["user_id"] == "77" and alert["details"]["ip_address"] == "192.0.2.3"
    assert alert["evidence"][0].endswith(ids[0])
    lines = "".join(json.dumps({"event_type": "login_failed", "user_id": n}) + "\n" for n in range(30))
    done = run("emit", "--file", "-", "--config", daemon.config_path, cwd=daemon.directory, stdin=lines)
    assert done.returncode == 0 and len(done.stdout.split()) == 30, done.stderr
    daemon.wait_scalar("failed_logins_last_hour", 30)
    if not daemon.embedded:
        assert daemon.redis.xlen(STREAM) == 31


def test_control_socket_is_the_owner_s_alone(tmp_path, make_daemon):
    daemon = make_daemon(f"embedded:{tmp_path / 'data'}").start()
    mode = until("the socket is there", lambda: (tmp_path / "data/control.sock").exists() and (tmp_path / "data/control.sock").stat().st_mode)
    assert mode & 0o077 == 0
    daemon.stop()


def test_watch(daemon):
    env = os.environ | {"AUDITCAST_URL": daemon.public, "AUDITCAST_TOKEN": daemon.admin}
    with open(daemon.directory / "watch.stderr", "wb") as errors:
        process = subprocess.Popen([BINARY, "watch", "--json"], env=env, cwd=daemon.directory, stdout=subprocess.PIPE, stderr=errors, text=True)
    try:
        daemon.wait_metric("auditcast_connections", 1, transport="websocket")
        daemon.put({"event_type": "sql_injection", "user_id": "w1"})
        while (frame := json.loads(process.stdout.readline()))["type"] != "security_alert":
            pass
        assert frame["user_id"] == "w1"
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0


def test_health(daemon):
    assert run("health", "--config", daemon.config_path, cwd=daemon.directory,
               env={"AUDITCAST__LISTEN__OPS": daemon.ops.removeprefix("http://")}).returncode == 0  # fmt: skip
    ready = run("health", "--ready", cwd=daemon.directory, env={"AUDITCAST__LISTEN__OPS": daemon.ops.removeprefix("http://")})
    assert ready.returncode == 0, ready.stderr
    daemon.stop()
    assert run("health", cwd=daemon.directory, env={"AUDITCAST__LISTEN__OPS": daemon.ops.removeprefix("http://")}).returncode == 1


def test_doctor(redis_daemon):
    done = run("doctor", "--config", redis_daemon.config_path, cwd=redis_daemon.directory)
    assert done.returncode in (0, 1), done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) >= 5 and "panicked" not in done.stderr
    assert any("ok" in line.lower() for line in lines)
    assert tokens.SECRET not in done.stdout
    # §9: fails on an eviction policy other than noeviction.
    redis_daemon.redis.config_set("maxmemory-policy", "allkeys-lru")
    done = run("doctor", "--config", redis_daemon.config_path, cwd=redis_daemon.directory)
    assert done.returncode == 1 and any("fail" in line.lower() and "noeviction" in line for line in done.stdout.splitlines()), done.stdout


def reload(daemon, text, taken):
    """Writes the file, tells the daemon, waits until it is in force or refused; what it has logged since."""
    before = len(daemon.stderr())
    daemon.config_path.write_text(text)
    daemon.send_signal(signal.SIGHUP)
    # What was read is in force when the monitor says so, a turn later.
    for word in ["the configuration was read again", "the new settings are in force"] if taken else ["the configuration in force is kept"]:
        until(f"it says: {word}", lambda: word in daemon.stderr()[before:])
    daemon.wait_metric("auditcast_config_last_reload_successful", int(taken))
    return daemon.stderr()[before:]


def test_sighup_a_bad_file_changes_nothing_and_says_where(redis_daemon):
    """File, line, key and what was expected; what was in force is (§2)."""
    daemon = redis_daemon
    good = daemon.config_path.read_text()
    line = good.count("\n") + 2
    hashes = daemon.metrics()["auditcast_config_info"]
    rules = '\n[[threshold]]\nname = "high_failed_login_rate"\nabove = 2\n'
    for bad, words in {"\n[nonsense]\nx = 1\n": [f"node.toml:{line}", "nonsense"],
                       "\n[severity]\ndefaults = 'most'\n": [f"node.toml:{line + 1}", "severity.defaults", "full"],
                       rules + "above = 3\n": ["node.toml:"],
                       rules + '\n[[threshold]]\nname = "own"\nmetric = "no_such"\nabove = 1\n': ["node.toml:", "no_such"]}.items():  # fmt: skip
        told = reload(daemon, good + bad, False)
        for word in words:
            assert word in told, (word, told)
    daemon.config_path.unlink()
    daemon.send_signal(signal.SIGHUP)
    until("a file that is gone is told", lambda: "could not be read" in daemon.stderr() or "No such file" in daemon.stderr())
    assert daemon.ready() and daemon.metrics()["auditcast_config_info"] == hashes
    # Three failed logins are no alert: the threshold in the bad files was not taken, whole or in part.
    daemon.put(*[{"event_type": "login_failed"}] * 3)
    daemon.wait_scalar("failed_logins_last_hour", 3)
    daemon.slots(2)
    assert daemon.log() == []
    # The next good one is.
    assert "threshold" in reload(daemon, good + rules, True)
    until("what the window holds already is held against the new threshold", lambda: [a["rule"] for a in daemon.log()] == ["high_failed_login_rate"])


def test_sighup_takes_effect_while_it_runs(redis_daemon):
    daemon = redis_daemon
    good = daemon.config_path.read_text()
    client = daemon.ws().hello()
    told = reload(daemon, good + '\n[[threshold]]\nname = "high_failed_login_rate"\nabove = 2\n\n[[threshold]]\nname = "many_denied"\n'
                  'metric = "permission_violations"\nabove = 1\nseverity = "critical"\nmessage = "{value} denied"\n', True)  # fmt: skip
    assert "high_failed_login_rate" in told and "many_denied" in told and "next start" not in told
    assert daemon.metric("auditcast_alerts_total", rule="many_denied", severity="critical", status="firing") == 0
    daemon.put(*[{"event_type": "login_failed"}] * 3, *[{"event_type": "permission_denied"}] * 2)
    assert client.frame("security_alert", rule="high_failed_login_rate")["threshold"] == 2
    own = client.frame("security_alert", rule="many_denied")
    assert (own["severity"], own["message"]) == ("critical", "2 denied")
    daemon.wait_metric("auditcast_alerts_active", 1, rule="many_denied")
    # A rule that is gone resolves its alert, and does not fire any more; the client is still the same one.
    reload(daemon, good, True)
    client.frame("security_alert", rule="many_denied", status="resolved")
    assert client.code is None


def test_sighup_with_a_metric_that_is_new(redis_daemon):
    """What only a restart makes is named, and so is the threshold on it; the rest is applied."""
    daemon = redis_daemon
    good = daemon.config_path.read_text()
    text = good + '\n[metrics.refunds]\nevents = ["refund_*"]\n\n[[threshold]]\nname = "many_refunds"\nmetric = "refunds"\nabove = 1\n'
    told = reload(daemon, text + '\n[severity]\noverrides = { "data.read" = "critical" }\n', True)
    assert any("next start" in line and "refunds" in line and "many_refunds" in line for line in told.splitlines()), told
    assert "there is no metric" not in told
    client = daemon.ws().hello()
    daemon.put({"event_type": "data.read"})
    assert client.frame("security_alert")["severity"] == "critical"
    # A start writes its file anew.
    daemon.config["metrics"] = {"refunds": {"events": ["refund_*"]}}
    daemon.config["threshold"] = [{"name": "many_refunds", "metric": "refunds", "above": 1}]
    daemon.restart()
    daemon.put(*[{"event_type": "refund_made"}] * 2)
    until("the new metric fires", lambda: any(a["rule"] == "many_refunds" for a in daemon.log()))


def test_sighup_names_what_needs_a_restart(redis_daemon):
    daemon = redis_daemon
    good = daemon.config_path.read_text()
    assert 'interval = "200ms"' in good
    text = good.replace('interval = "200ms"', 'interval = "300ms"').replace('public = "127.0.0.1:0"', 'public = "127.0.0.1:1"')
    for _ in range(2):
        # Each time: it is still not in force.
        told = reload(daemon, text + '\n[severity]\noverrides = { "data.read" = "critical" }\n', True)
        line = next(line for line in told.splitlines() if "next start" in line)
        assert "monitor.interval" in line and "listen.public" in line and "severity" not in line, line
    client = daemon.ws().hello()
    daemon.put({"event_type": "data.read"})
    assert client.frame("security_alert")["severity"] == "critical"


def test_start_lines_and_logs(daemon):
    """§1: plain text on stdout, in this order; logs go to stderr."""
    names = [line.split("=")[0] for line in daemon.stdout]
    assert names == ["config", "store", "listening public", "listening ops", "ready"], daemon.stdout
    daemon.stop()
    assert [line.split("=")[0] for line in daemon.stdout] == names
    assert tokens.SECRET not in daemon.stderr()


def test_a_second_daemon_on_one_embedded_folder(tmp_path, make_daemon):
    make_daemon(f"embedded:{tmp_path / 'data'}", name="first").start()
    second = make_daemon(f"embedded:{tmp_path / 'data'}", name="second").launch()
    assert second.process.wait(15) in (1, 2)
    assert str(tmp_path / "data") in second.stderr()


def test_inspect_says_whether_a_token_may_see(redis_server, tmp_path):
    """What the store grants counts too (§10)."""
    env = {"REDIS_URL": redis_server.url}
    token = run("token", "issue", "--user", "8", "--role", "observer", env=env, cwd=tmp_path).stdout.strip()
    look = lambda: json.loads(run("token", "inspect", token, env=env, cwd=tmp_path).stdout)  # noqa: E731
    told = look()
    assert told["valid"] is True and told["may_see"] is False and "permissions:user:8" in told["hint"]
    redis_server.client().sadd("permissions:user:8", "audit.view")
    told = look()
    assert told["may_see"] is True and "hint" not in told and "audit.view" in told["permissions"]
