"""The edge under attack: whatever is sent from elsewhere, 50 good clients get their alerts, memory stays where it is, nothing breaks.

The attacks come from a process of their own (`flood.py`). Short forms; AUDITCAST_LONG=1: minutes of each.
"""

import json
import re
import shutil
import ssl
import subprocess
import sys
import time
from pathlib import Path

import pytest

import tokens
from client import Client
from crowd import Crowd
from daemon import BINARY, REPOSITORY
from wait import until

#: Resident memory that no attack may go beyond.
MEMORY_MAX = 400 << 20
#: An alert at the client (contract §5: 1 s); of a debug build that shares two cores with the attack, twice that.
LATEST = 2.0


def flood(daemon, kind, seconds, count, seed=7):
    address = daemon.public.removeprefix("http://").rsplit(":", 1)
    script = Path(__file__).with_name("flood.py")
    arguments = [kind, *address, str(seconds), str(count), str(seed)]
    return subprocess.Popen([sys.executable, script, *arguments], stdout=subprocess.PIPE, text=True)


@pytest.mark.timeout(420)
@pytest.mark.parametrize("kind, short, long", [
    ("slow_heads", (4, 300), (60, 1000)),
    ("half_open", (4, 1500), (30, 5000)),
    ("attempts", (4, 500), (20, 1000)),
    ("fuzz", (6, 16), (300, 16)),
])  # fmt: skip
def test_good_clients_are_served_meanwhile(redis_server, make_daemon, cleanup, figures, long_run, kind, short, long):
    seconds, count = long if long_run else short
    # A crowd's members answer no pings.
    daemon = make_daemon(redis_server, listen={"header_timeout": "2s"}, limits={"rate_connections": 1_000_000}, feed={"idle_timeout": "1h"}).start()
    crowd = Crowd(daemon, [tokens.token(user_id=f"good-{n}") for n in range(50)])
    cleanup(crowd.leave)
    attack = flood(daemon, kind, seconds, count)
    cleanup(attack.kill)
    late, memory, number = [], daemon.rss(), 0
    while attack.poll() is None:
        number += 1
        daemon.put({"event_type": "auth.suspicious_activity", "user_id": f"u{number}"})
        sent = time.monotonic()
        wanted = f'"user_id":"u{number}"'.encode()
        there = lambda: all(any(wanted in payload for _, payload in member.frames[-8:]) for member in crowd.members)  # noqa: E731
        crowd.until(f"alert {number} is with all of them", there)
        late.append(time.monotonic() - sent)
        memory = max(memory, daemon.rss())
        until_next = time.monotonic() + 0.3
        while (wait := until_next - time.monotonic()) > 0:
            crowd.turn(wait)
    saw = json.loads(attack.stdout.read())
    late.sort()
    figures(f"{kind}: {saw}; {number} alerts to 50 clients, median {late[len(late) // 2] * 1000:.0f} ms, "
            f"latest {late[-1] * 1000:.0f} ms; {memory >> 20} MiB")  # fmt: skip
    assert attack.returncode == 0 and sum(saw.values()) > 0, saw
    assert late[-1] <= LATEST, late[-5:]
    assert memory < MEMORY_MAX
    assert not [status for status in saw if status.startswith("status 5") and status != "status 503"], saw
    assert not any(member.ended for member in crowd.members)
    assert daemon.api("/alerts").status_code == 200
    assert daemon.ready()
    daemon.no_panic()


@pytest.mark.timeout(900)
def test_schemathesis(redis_server, make_daemon, long_run):
    """The API against its own document. Long: it brings forty packages, which are installed beside the suite's own."""
    if not long_run:
        return
    place = REPOSITORY / "target/schemathesis"
    if not (place / "bin/schemathesis").exists():
        subprocess.run([sys.executable, "-m", "venv", place], check=True)
        subprocess.run([place / "bin/pip", "install", "--quiet", "schemathesis==4.32.5"], check=True)
    daemon = make_daemon(redis_server, env={"RATE_LIMIT_AUTH": "1000000"}, limits={"rate_connections": 1_000_000}).start()
    done = subprocess.run(
        [place / "bin/schemathesis", "run", f"{daemon.public}/openapi.json", "--checks", "not_a_server_error", "--seed", "7",
         "--header", f"Authorization: Bearer {daemon.admin}", "--request-timeout", "10", "--max-examples", "50",
         "--exclude-path", "/api/v1/stream", "--exclude-path", "/ws", "--url", daemon.public],
        capture_output=True, text=True, timeout=800)  # fmt: skip
    print(done.stdout[-6000:], done.stderr[-2000:])
    assert done.returncode == 0, done.stdout[-4000:]
    assert daemon.ready()


class Certificates:
    """An authority, and certificates of it for localhost."""

    def __init__(self, directory):
        assert shutil.which("openssl"), "there is no openssl on this machine; tests/run install brings it"
        directory.mkdir()
        self.directory = directory
        self.ca, self.certificate, self.key = (directory / name for name in ("ca.pem", "cert.pem", "key.pem"))
        self.number = 0
        self.openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30", "-subj", "/CN=a test's own",
                     "-keyout", directory / "ca.key", "-out", self.ca)  # fmt: skip
        self.renew()

    def openssl(self, *arguments):
        done = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    def renew(self, days=30):
        """Another certificate in the same files, put there by renaming, certificate first. Its serial number."""
        self.number += 1
        new = self.directory / "new"
        self.openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=localhost",
                     "-keyout", f"{new}.key", "-out", f"{new}.csr")  # fmt: skip
        Path(f"{new}.ext").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
        self.openssl("x509", "-req", "-in", f"{new}.csr", "-CA", self.ca, "-CAkey", self.directory / "ca.key", "-days", days,
                     "-set_serial", self.number, "-extfile", f"{new}.ext", "-out", f"{new}.pem")  # fmt: skip
        Path(f"{new}.pem").rename(self.certificate)
        Path(f"{new}.key").rename(self.key)
        return self.number

    def context(self):
        return ssl.create_default_context(cafile=self.ca)

    def section(self):
        return {"certificate": str(self.certificate), "key": str(self.key)}


def serial(daemon, context):
    import socket

    host, port = daemon.public.removeprefix("https://").rsplit(":", 1)
    with socket.create_connection((host, int(port)), 10) as tcp, context.wrap_socket(tcp, server_hostname="localhost") as tls:
        return int(tls.getpeercert()["serialNumber"], 16)


@pytest.fixture
def certificates(tmp_path):
    return Certificates(tmp_path / "certificates")


def secure(make_daemon, store, certificates, **config):
    listen = {"public_tls": certificates.section(), "ops_tls": certificates.section()}
    daemon = make_daemon(store, listen=listen, **config)
    daemon.http.close()
    import httpx

    daemon.http = httpx.Client(timeout=10, trust_env=False, verify=certificates.context())
    return daemon.start()


@pytest.mark.timeout(180)
def test_a_new_certificate_disturbs_nobody(redis_server, make_daemon, certificates, figures, long_run):
    """Connections live on, new handshakes get the new one; a bad one changes nothing and is told."""
    daemon = secure(make_daemon, redis_server, certificates, limits={"connections_per_user": 2000})
    assert daemon.public.startswith("https://") and daemon.ops.startswith("https://")
    context = certificates.context()
    address = daemon.public.replace("https://", "wss://")
    clients = [Client(address, daemon.admin, ssl=context).hello() for _ in range(300 if long_run else 40)]
    sent = 0

    def alert():
        nonlocal sent
        sent += 1
        daemon.put({"event_type": "auth.suspicious_activity", "user_id": f"u{sent}"})
        started = time.monotonic()
        for client in clients:
            client.frame("security_alert", user_id=f"u{sent}")
        return time.monotonic() - started

    late = [alert()]
    assert serial(daemon, context) == 1
    for number in range(2, 5):
        certificates.renew()
        if number == 2:
            # Noticed by itself.
            until("the new certificate is shown", lambda: serial(daemon, context) == 2, 15)
        else:
            daemon.send_signal(1)
            until("the new certificate is shown", lambda number=number: serial(daemon, context) == number)
        late.append(alert())
    good = certificates.certificate.read_bytes()
    certificates.certificate.write_text("no certificate")
    daemon.send_signal(1)
    until("the log says so", lambda: "the certificate in use is kept" in daemon.stderr())
    daemon.wait_metric("auditcast_config_last_reload_successful", 0)
    assert serial(daemon, context) == 4
    late.append(alert())
    certificates.certificate.write_bytes(good)
    assert not [client.code for client in clients if client.code is not None]
    figures(f"{len(clients)} connections over TLS through 3 certificates, {sent} alerts, latest {max(late) * 1000:.0f} ms; {daemon.rss() >> 20} MiB")
    for client in clients:
        client.close()


def test_commands_speak_tls(redis_server, make_daemon, certificates, tmp_path):
    daemon = secure(make_daemon, redis_server, certificates, source=[{"name": "app", "kind": "stream", "streams": ["audit:events"], "start": "earliest"}])
    env = daemon.env() | {"AUDITCAST__LISTEN__OPS": daemon.ops.removeprefix("https://"), "AUDITCAST__LISTEN__PUBLIC": daemon.public.removeprefix("https://")}

    def run(*arguments, **more):
        return subprocess.run([BINARY, "--config", daemon.config_path, *arguments], env=env | more, capture_output=True, text=True, timeout=60)

    assert run("health", "--ready").returncode == 0, "by the configured certificate"
    assert run("health", "--url", daemon.ops).returncode == 1, "nobody vouches for it"
    assert run("health", "--url", daemon.ops, "--ca", str(certificates.ca)).returncode == 0
    assert run("health", "--url", daemon.ops, AUDITCAST_CA=str(certificates.ca)).returncode == 0
    post = run("doctor", "--post")
    assert "wss://" in post.stdout and post.returncode == 0, post.stdout + post.stderr
    assert "by hand dashboard: " in post.stdout
    pre = run("doctor", "--pre", AUDITCAST__LISTEN__OPS="127.0.0.1:0", AUDITCAST__LISTEN__PUBLIC="127.0.0.1:0",
              AUDITCAST__LISTEN__EXTERNAL_URL="https://audit.example")  # fmt: skip
    assert "ok   listen.public_tls: " in pre.stdout and re.search("is good for (29|30) days", pre.stdout), pre.stdout
    assert "does not name audit.example" in pre.stdout and "by hand tests: " in pre.stdout, pre.stdout
    certificates.renew(days=5)
    assert "warn listen.ops_tls: " in run("doctor", "--pre").stdout
    certificates.key.write_text("x")
    broken = run("check")
    assert broken.returncode == 2 and "listen.public_tls: " in broken.stderr, broken.stderr
