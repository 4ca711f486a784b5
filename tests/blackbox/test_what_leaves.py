"""Nothing that is secret leaves the process (issue 4, show 8): everything runs at TRACE with secrets that are known here, by every way in and
with them in every wrong place; then none of them, in any usual spelling, stands in what the daemon and its commands said or stored."""

import base64
import json
import re
import signal
import subprocess
import urllib.parse

import pytest
from websockets.exceptions import InvalidStatus

import people
import tokens
from daemon import BINARY, STREAM
from servers import RedisServer
from wait import until

SECRET = "jwt-key-Zq7vKx2mWn9pLd4sRt6yBc8f/+hJ3uE5"
PREVIOUS = "previous-key-Hs3kVb8nQm5xTz1wYc6gPd9r/+aL4"
REDIS = "redis-pw-Nf6tGj2k"
ENCRYPTION = base64.b64encode(b"0123456789abcdefENCRYPTION-key!!").decode()
EVIL = "opSesame"


def spellings(secret):
    """As it is, escaped, and in the encodings that something may have put it into."""
    raw = secret.encode()
    forms = {secret, json.dumps(secret)[1:-1], secret.replace("/", "\\/"), urllib.parse.quote(secret), urllib.parse.quote(secret, safe=""), urllib.parse.quote_plus(secret),
             raw.hex(), raw.hex().upper(), ", ".join(str(b) for b in raw[:12])}  # fmt: skip
    # Wherever it stands in what was encoded: the characters that do not depend on its neighbours.
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        for shift in range(3):
            text = encode(b"x" * shift + raw).decode().rstrip("=")
            forms.add(text[(0, 2, 3)[shift]:-2])
    return {form for form in forms if len(form) >= 8}


class Hunt:
    """What is secret, and what was said."""

    def __init__(self):
        self.secrets, self.said = {}, {}

    def secret(self, name, value):
        assert len(value) >= 6, (name, value)
        self.secrets[name] = value
        return value

    def heard(self, where, text):
        self.said[where] = self.said.get(where, "") + text

    def found(self):
        return sorted({(name, where, form[:4] + "…", re.sub(r"\s+", " ", text[max(0, text.find(form) - 160):text.find(form)])) for name, value in self.secrets.items()
                       for form in spellings(value) for where, text in self.said.items() if form in text})  # fmt: skip


def command(hunt, daemon, *arguments, stdin="", env=None):
    """A command at TRACE; what it says is heard."""
    done = subprocess.run([BINARY, "--config", daemon.config_path, *arguments], env=daemon.env() | {"AUDITCAST__LOG__LEVEL": "trace"} | (env or {}), input=stdin,
                          capture_output=True, text=True, timeout=60)  # fmt: skip
    hunt.heard(f"`{' '.join(arguments[:2])}`", done.stdout + done.stderr)
    return done


def redis_values(client):
    """Every key and value of auditcast's own, as text."""
    found = []
    for key in client.scan_iter(match="{auditcast}*", count=1000):
        kind = client.type(key)
        read = {"string": client.get, "hash": client.hgetall, "set": client.smembers, "zset": lambda k: client.zrange(k, 0, -1), "list": lambda k: client.lrange(k, 0, -1),
                "stream": client.xrange}[kind]  # fmt: skip
        found.append(f"{key} {json.dumps(read(key), default=list)}")
    return "\n".join(found)


def refused(daemon, **options):
    """The body of a refusal by HTTP."""
    with pytest.raises(InvalidStatus) as refusal:
        daemon.ws(**options)
    return (refusal.value.response.body or b"").decode()


@pytest.mark.parametrize("engine", ["redis", "embedded"])
def test_nothing_that_is_secret(engine, tmp_path, cleanup, make_daemon):
    hunt = Hunt()
    for name, value in {"JWT secret": SECRET, "previous secret": PREVIOUS, "Redis password": REDIS, "ENCRYPTION_KEY": ENCRYPTION}.items():
        hunt.secret(name, value)
    previous = tmp_path / "previous"
    previous.write_text(PREVIOUS + "\n")
    env = {"JWT_SECRET_KEY": SECRET, "AUDITCAST__AUTH__PREVIOUS_SECRETS_FILE": str(previous), "ENCRYPTION_KEY": ENCRYPTION, "RUST_LOG": "trace", "RATE_LIMIT_AUTH": "1000"}
    if engine == "redis":
        server = RedisServer(tmp_path / "redis", password=REDIS)
        cleanup(server.stop)
        server.start()
        daemon = make_daemon(server, env=env | {"REDIS_PASSWORD": REDIS}, store={"url": f"redis://127.0.0.1:{server.port}/0"}, auth=people.FAST,
                             log={"level": "trace"}, journal={"enabled": True}, monitor={"snapshot_interval": "1s"})  # fmt: skip
    else:
        daemon = make_daemon(f"embedded:{tmp_path / 'store'}", env=env, auth=people.FAST, log={"level": "trace"}, journal={"enabled": True},
                             source=[{"name": "app", "kind": "stream", "streams": [STREAM], "start": "earliest"}])  # fmt: skip
    daemon.admin = hunt.secret("admin's token", tokens.token(secret=SECRET))
    daemon.start()
    watcher = daemon.ws(query={"events": "low", "metrics": "true"}).hello()

    # People, and what they type.
    password = hunt.secret("password", people.PASSWORD + "-Kq9")
    wrong = hunt.secret("wrong password", "Wrong-Horse-55-Zt")
    for name in ("eve", "bob"):
        assert command(hunt, daemon, "user", "add", name, "--role", "ADMIN", "--password-file", "-", stdin=password + "\n").returncode == 0
    # It prints the secret, once: what it says is not heard.
    factor = hunt.secret("second factor", people.second_factor(daemon, "bob"))
    origin = {"Origin": daemon.public}
    login = lambda body, **options: daemon.api("/auth/login", "POST", token=False, json=body, **options)  # noqa: E731
    for body in ({"username": "eve", "password": wrong}, {"username": wrong, "password": password}, {"username": "bob", "password": password, "totp": "000000"},
                 {"username": "eve", "password": [password]}, {"username": "eve", "password": password, "unknown": wrong}):  # fmt: skip
        answer = login(body)
        assert answer.status_code in (400, 401), answer.text
        hunt.heard("errors", answer.text)
    good = login({"username": "bob", "password": password, "totp": people.code(factor)}).json()
    access, refresh = hunt.secret("access token", good["access_token"]), hunt.secret("refresh token", good["refresh_token"])
    again = daemon.api("/auth/refresh", "POST", token=False, json={"refresh_token": refresh}).json()
    hunt.secret("second access token", again["access_token"])
    hunt.secret("second refresh token", again["refresh_token"])
    cookie = login({"username": "eve", "password": password, "cookie": True}, headers=origin)
    # Where a token has to be: `Set-Cookie`, and nothing else of that answer.
    jar = dict(re.match(r"([^=]+)=([^;]*)", line).groups() for line in cookie.headers.get_list("set-cookie"))
    for name, value in jar.items():
        hunt.secret(f"cookie {name}", value)
    hunt.heard("answers", cookie.text)
    cookies = {"Cookie": "; ".join(f"{k}={v}" for k, v in jar.items())}
    hunt.heard("errors", daemon.api("/auth/refresh", "POST", token=False, json={"refresh_token": refresh}).text)  # Used before: its family ends.

    # Every way in, with good tokens and with bad ones.
    old = hunt.secret("token of the previous secret", tokens.token(secret=PREVIOUS, user_id="old"))
    bad = hunt.secret("token of nobody", tokens.token(secret="x" * 40, user_id="nobody"))
    late = hunt.secret("expired token", tokens.token(secret=SECRET, expires_in=-500))
    for how in ("header", "subprotocol", "cookie", "frame"):
        client = daemon.ws(token=old, how=how).hello()
        client.send(type="refresh", id="r", token=old)
        client.frame("ok", id="r")
        client.send(type="refresh", id="s", token=bad)
        client.send(type="auth", id="t", token=old)
        client.send(type=old, id="u")
        client.socket.send(f"no object {old} {password}")
        client.frame("error", id="u")
        hunt.heard("frames", json.dumps(client.frames))
        client.close()
    for token in (bad, late, access):
        hunt.heard("errors", refused(daemon, token=token) + daemon.api("/alerts", token=token).text)
        client = daemon.ws(token=token, how="cookie")
        client.closed()
        hunt.heard("frames", json.dumps(client.frames) + client.reason)
    hunt.heard("errors", refused(daemon, how="query", token=old))
    with daemon.http.stream("GET", f"{daemon.public}/api/v1/stream?active=true", headers={"Authorization": f"Bearer {old}"}) as answer:
        hunt.heard("frames", next(answer.iter_text()))
    hunt.heard("answers", daemon.http.get(f"{daemon.public}/api/v1/alerts", headers=cookies).text)

    # In the wrong place.
    ask = lambda method, path, **options: hunt.heard("errors", daemon.http.request(method, daemon.public + path, **options).text)  # noqa: E731
    quoted = urllib.parse.quote(password, safe="")
    for path in (f"/api/v1/alerts?after={quoted}", f"/api/v1/alerts?token={old}", f"/api/v1/{quoted}", f"/{old}", f"/api/v1/alerts/{old}", f"/ws?{quoted}={old}",
                 f"/api/v1/alerts?{quoted}=1", f"/api/v1/metrics/history?since={quoted}"):  # fmt: skip
        ask("GET", path, headers={"Authorization": f"Bearer {daemon.admin}"})
    for headers in ({"Authorization": f"Basic {base64.b64encode(f'eve:{password}'.encode()).decode()}"}, {"Authorization": f"Bearer {password}"},
                    {"Cookie": f"__Host-auditcast={password}"}, {"Authorization": daemon.admin}, {"X-Password": password, "User-Agent": old, "Origin": f"https://{EVIL}{old[:40]}"}):  # fmt: skip
        ask("GET", "/api/v1/alerts", headers=headers)
    for body in (f'{{"password": "{password}"', f'"{password}"', f'[{{"password": "{password}", "event_type": 7}}]', json.dumps({"user_id": password, "token": old}), old):
        for path in ("/api/v1/events", "/api/v1/connections/disconnect", "/api/v1/auth/refresh", "/api/v1/auth/logout", "/api/v1/auth/login"):
            ask("POST", path, content=body, headers={"Authorization": f"Bearer {daemon.admin}", "Content-Type": "application/json"})

    # In events, by the names that the contract masks, in each shape; and in one that cannot be read.
    members = ("password", "passwd", "secret", "token", "access_token", "refresh_token", "authorization", "cookie", "api_key", "totp", "Api_Key", "PASSWORD")
    values = {member: hunt.secret(f"member {member}", f"{EVIL}-{n}-{member[::-1]}") for n, member in enumerate(members)}
    event = {"event_type": "sql_injection", "user_id": "1", "details": values | {"deep": [{"er": values}]}} | values
    answer = daemon.api("/events", "POST", json=[event, {"event_type": "login_failed"} | values])
    assert answer.json()["accepted"] == 2
    hunt.heard("answers", answer.text)
    if engine == "redis":
        flat = {k: v if isinstance(v, str) else json.dumps(v) for k, v in event.items()}
        daemon.redis.xadd(STREAM, flat)
        daemon.redis.xadd(STREAM, {"data": json.dumps(event)})
    # `emit` writes to the application's own stream, which is theirs.
    assert command(hunt, daemon, "emit", "sql_injection", "--user", "2", *[a for m in members[:6] for a in ("--detail", f"{m}={values[m]}")]).returncode == 0
    watcher.at_least(2 if engine == "embedded" else 4, type="security_alert")

    # Commands, good and bad.
    command(hunt, daemon, "check")
    command(hunt, daemon, "doctor")
    command(hunt, daemon, "user", "list", "--json")
    command(hunt, daemon, "user", "passwd", "eve", "--password-file", "-", stdin=hunt.secret("weak password", "weakweak") + "\n")
    for token in (old, bad, late, password):
        command(hunt, daemon, "token", "inspect", env={"AUDITCAST_TOKEN": token})
    command(hunt, daemon, "token", "revoke", env={"AUDITCAST_TOKEN": old})
    command(hunt, daemon, "check", env={"JWT_SECRET_KEY": hunt.secret("short secret", "short-Qw8")})
    command(hunt, daemon, "check", env={"REDIS_URL": f"redis://:{REDIS}@127.0.0.1:notaport/0"})
    command(hunt, daemon, "check", env={"AUDITCAST__AUTH__SECRET": '["' + SECRET + '"'})

    # A reload, good and bad.
    kept = daemon.config_path.read_text()
    daemon.config_path.write_text(kept + '\n[privacy]\nmask = ["pin"]\n')
    daemon.send_signal(signal.SIGHUP)
    until("it is read again", lambda: "was read again" in daemon.stderr())
    daemon.config_path.write_text(kept + f'\n[nonsense]\nsecret = "{password}"\n')
    daemon.send_signal(signal.SIGHUP)
    until("it is not taken", lambda: "in force is kept" in daemon.stderr())
    daemon.config_path.write_text(kept)

    signed_out = daemon.http.post(f"{daemon.public}/api/v1/auth/logout", json={}, headers=origin | cookies)
    assert signed_out.status_code == 204
    until("it is in the journal", lambda: watcher.all(type="security_event", event_type="config.reload_failed"))
    daemon.slots(3)
    hunt.heard("frames", json.dumps(watcher.frames))
    hunt.heard("/metrics", daemon.get_ops("/metrics").text + daemon.get_ops("/readyz").text)
    for path in ("/alerts?limit=1000", "/alerts?status=firing", "/metrics/current", "/metrics/history", "/connections"):
        hunt.heard("answers", daemon.api(path).text)
    if engine == "redis":
        hunt.heard("auditcast's own keys", redis_values(daemon.redis))
    watcher.close()
    assert daemon.stop() == 0
    hunt.heard("stdout", "\n".join(daemon.stdout))
    hunt.heard("log", daemon.stderr())
    assert "TRACE" in hunt.said["log"] or "DEBUG" in hunt.said["log"], "it was not asked to say much"
    # The hunt can find: it does where the secret has to be.
    hunt.heard("proof", cookie.headers["set-cookie"])
    found = [f for f in hunt.found() if f[1] != "proof"]
    assert any(f[1] == "proof" for f in hunt.found())
    assert found == [], "\n".join(map(str, found))
