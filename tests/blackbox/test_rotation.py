"""Keys change while clients are connected and load runs: no connection is lost by it, who holds a token of before gets in as long as
its secret is listed, and nobody after (contract §10; `auth.previous_secrets`, SIGHUP)."""

import json
import signal
import threading

import tokens
from crowd import Crowd
from test_commands import run
from wait import until

CONNECTIONS = 300
OLD, NEW = (f"rotation-{name}-key-0123456789abcdef-0123456789" for name in ("old", "new"))


def made(secret, user, **claims):
    return tokens.token(secret=secret, user_id=str(user), **claims)


def reload(daemon):
    """SIGHUP, and the line that says it was done."""
    before = daemon.stderr().count("the configuration was read again")
    daemon.send_signal(signal.SIGHUP)
    until("the configuration is read again", lambda: daemon.stderr().count("the configuration was read again") > before)


def test_a_secret_is_rotated_under_load(make_daemon, redis_server, cleanup, figures, tmp_path):
    secret, previous = tmp_path / "secret", tmp_path / "previous"
    secret.write_text(OLD + "\n")
    previous.write_text("")
    daemon = make_daemon(redis_server, env={"JWT_SECRET_KEY": None, "JWT_SECRET_KEY_FILE": str(secret),
                                            "AUDITCAST__AUTH__PREVIOUS_SECRETS_FILE": str(previous)})  # fmt: skip
    daemon.start()
    crowd = Crowd(daemon, [made(OLD, n // 10) for n in range(CONNECTIONS)])
    cleanup(crowd.leave)

    # Load: alerts to everybody, and API requests of one who changes the token when told to.
    api = {"token": made(OLD, "api"), "answers": 0, "refused": 0}
    stop = threading.Event()

    def load():
        n = 0
        while not stop.is_set():
            n += 1
            daemon.put({"event_type": "security.injection_attempt", "user_id": str(n)})
            answer = daemon.api("/alerts?limit=1", token=api["token"])
            api["answers"] += 1
            api["refused"] += answer.status_code != 200

    loader = threading.Thread(target=load)
    loader.start()

    def enters(token, **how):
        client = daemon.ws(token, **how)
        client.hello()
        client.close()

    def refused(token):
        answer = daemon.api("/alerts", token=token)
        assert answer.status_code == 401 and "signature" in answer.json()["detail"], answer.text
        assert daemon.ws(token, how="subprotocol").closed(3500)

    def alerts():
        return min(sum(text.get("type") == "security_alert" for text in member.texts()) for member in crowd.members)

    def all_there():
        """Everybody gets what is new, and nobody was closed."""
        seen = alerts()
        crowd.until("everybody gets another alert", lambda: alerts() > seen, 20)
        assert not any(member.ended or member.code for member in crowd.members)

    try:
        all_there()
        refused(made(NEW, "early"))
        secret.write_text(NEW)
        previous.write_text(OLD + "\n")
        reload(daemon)
        all_there()
        enters(made(OLD, "holder"))
        enters(made(NEW, "newcomer"))
        for n, member in enumerate(crowd.members[:10]):
            # A frame of the crowd's is short; this one is long.
            say_long(member, type="refresh", id=f"r{n}", token=made(NEW if n % 2 else OLD, n // 10))
        crowd.until("renewed by either", lambda: all(answer(m, f"r{n}") for n, m in enumerate(crowd.members[:10])))
        assert all(answer(m, f"r{n}")["type"] == "ok" for n, m in enumerate(crowd.members[:10]))
        inspected = run("token", "inspect", made(OLD, "x"), "--config", daemon.config_path, cwd=daemon.directory,
                        env={"JWT_SECRET_KEY": None, "JWT_SECRET_KEY_FILE": str(secret), "AUDITCAST__AUTH__PREVIOUS_SECRETS_FILE": str(previous)})  # fmt: skip
        assert json.loads(inspected.stdout)["key"] == "auth.previous_secrets[0]", inspected.stdout

        api["token"] = made(NEW, "api")
        until("the load has its new token", lambda before=api["answers"]: api["answers"] > before + 1)
        previous.write_text("\n")
        reload(daemon)
        all_there()
        refused(made(OLD, "holder"))
        enters(made(NEW, "newcomer"))
        say_long(crowd.members[-1], type="refresh", id="late", token=made(OLD, (CONNECTIONS - 1) // 10))
        crowd.until("the late one is answered", lambda: answer(crowd.members[-1], "late"))
        assert answer(crowd.members[-1], "late")["type"] == "error"
        all_there()

        # A bad change changes nothing.
        secret.write_text("short")
        daemon.send_signal(signal.SIGHUP)
        until("it is told", lambda: "the configuration in force is kept" in daemon.stderr())
        enters(made(NEW, "newcomer"))
    finally:
        stop.set()
        loader.join()
    assert api["refused"] == 0, api
    assert daemon.metric("auditcast_connections", transport="websocket") == CONNECTIONS
    closed = sum(value for labels, value in daemon.metrics()["auditcast_disconnects_total"] if labels["code"] not in ("other", "3500"))
    assert closed == 0
    shown = daemon.stderr() + "\n".join(daemon.stdout)
    assert OLD not in shown and NEW not in shown
    figures(f"{CONNECTIONS} connections through a rotation under load: none closed; {api['answers']} API requests meanwhile, none refused")


def say_long(member, **frame):
    payload = json.dumps(frame).encode()
    member.socket.sendall(bytes([0x81, 0x80 | 126]) + len(payload).to_bytes(2, "big") + bytes(4) + payload)


def answer(member, ident):
    return next((text for text in member.texts() if text.get("id") == ident), None)
