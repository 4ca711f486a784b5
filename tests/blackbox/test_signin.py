"""Sign-in for people (contract §1 `user …`, §10), as a user, a program and a browser meet it."""

import hashlib
import hmac
import json
import os
import struct
import subprocess
import time
from base64 import b32decode
from urllib.parse import parse_qs, urlparse

import jwt
import pytest

import tokens as keys
from browser import Browser
from daemon import BINARY
from test_commands import one_sentence, run
from wait import until

PASSWORD = "TestPass123!"
QUICK = {"auth": {"bcrypt_cost": 4}, "journal": {"enabled": True}}


@pytest.fixture
def house(store, make_daemon):
    return make_daemon(store, env={"RATE_LIMIT_AUTH": "1000"}, **QUICK).start()


def user(daemon, *arguments, stdin=None, code=0):
    done = run("user", *arguments, "--config", daemon.config_path, cwd=daemon.directory, stdin=stdin)
    assert done.returncode == code, (done.stdout, done.stderr)
    return done


def call(daemon, what, body=None, **options):
    return daemon.http.post(f"{daemon.public}/api/v1/auth/{what}", **({"json": body} if body is not None else {}), **options)


def login(daemon, name, password=PASSWORD, **more):
    return call(daemon, "login", {"username": name, "password": password} | more)


def code_of(secret, at=None):
    """RFC 6238 by hand."""
    digest = hmac.new(b32decode(secret + "=" * (-len(secret) % 8)), struct.pack(">Q", int(at or time.time()) // 30), hashlib.sha1).digest()
    at = digest[-1] & 15
    return f"{(struct.unpack('>I', digest[at:at + 4])[0] & 0x7FFFFFFF) % 1_000_000:06}"


def test_a_user_s_life(house):
    """Added, signed in, seen by the feed, disabled (and cut off), enabled, given another password, deleted."""
    daemon = house
    added = user(daemon, "add", "Ana", "--role", "admin", stdin=PASSWORD + "\n")
    assert "ana" in added.stdout and PASSWORD not in added.stdout + added.stderr
    one_sentence(run("user", "add", "ana", "--role", "ADMIN", "--config", daemon.config_path, cwd=daemon.directory, stdin=PASSWORD), 1)
    answer = login(daemon, "ana")
    assert answer.status_code == 200 and answer.headers["cache-control"] == "no-store"
    tokens = answer.json()
    assert set(tokens) == {"access_token", "refresh_token", "token_type", "expires_in", "refresh_expires_in"}
    assert (tokens["token_type"], tokens["expires_in"], tokens["refresh_expires_in"]) == ("Bearer", 1800, 604800)
    claims = jwt.decode(tokens["access_token"], options={"verify_signature": False})
    assert claims["username"] == "ana" and claims["role"] == "ADMIN" and claims["sub"] == claims["user_id"] and claims["jti"]

    watching = daemon.ws(token=tokens["access_token"]).hello()
    user(daemon, "disable", "ana")
    watching.closed(3503, timeout=3)
    assert daemon.api("/alerts", token=tokens["access_token"]).status_code == 401
    assert call(daemon, "refresh", {"refresh_token": tokens["refresh_token"]}).status_code == 401
    assert login(daemon, "ana").status_code == 401
    user(daemon, "enable", "ana")
    tokens = login(daemon, "ana").json()
    user(daemon, "passwd", "ana", stdin="Another-1-password\n")
    assert call(daemon, "refresh", {"refresh_token": tokens["refresh_token"]}).status_code == 401
    until("her token is refused", lambda: daemon.api("/alerts", token=tokens["access_token"]).status_code == 401, 3)
    assert login(daemon, "ana").status_code == 401 and login(daemon, "ana", "Another-1-password").status_code == 200
    session = json.loads(user(daemon, "list", "--json").stdout)["sessions"][0]
    assert session["address"] == "127.0.0.1" and set(session) == {"session_id", "address", "since", "active_at"}
    doctor = run("doctor", "--pre", "--config", daemon.config_path, cwd=daemon.directory)
    assert "1 of 1 sign in without a second factor: ana" in doctor.stdout
    listed = user(daemon, "list").stdout
    assert "ana" in listed and "active" in listed and "$2b$" not in listed
    user(daemon, "delete", "ana")
    assert login(daemon, "ana", "Another-1-password").status_code == 401
    assert "ana" not in user(daemon, "list").stdout


def test_a_second_factor(house):
    daemon = house
    user(daemon, "add", "two", "--role", "ADMIN", stdin=PASSWORD)
    # Not confirmed: nothing changes.
    shown = user(daemon, "totp", "two", stdin="000000\n", code=1)
    assert login(daemon, "two").status_code == 200
    # The secret is known only once it is printed, and a code of it is wanted then: so a process that is talked to.
    process = subprocess.Popen([BINARY, "user", "totp", "two", "--config", daemon.config_path], cwd=daemon.directory, text=True,
                               env={"PATH": os.environ["PATH"], "JWT_SECRET_KEY": keys.SECRET, "HOME": str(daemon.directory)}, stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip
    uri = urlparse(process.stdout.readline().strip())
    secret = process.stdout.readline().strip()
    assert uri.scheme == "otpauth" and parse_qs(uri.query)["secret"] == [secret] and secret not in shown.stdout
    rest, _ = process.communicate(code_of(secret) + "\n", timeout=20)
    assert process.returncode == 0 and secret not in rest
    assert login(daemon, "two").status_code == 401, "the code is missing"
    assert login(daemon, "two", totp=code_of(secret)).status_code == 401, "it was used to set it up"
    assert login(daemon, "two", totp=code_of(secret, time.time() + 30)).status_code == 200
    assert login(daemon, "two", totp=code_of(secret, time.time() + 30)).status_code == 401, "and is good once"
    user(daemon, "totp", "two", "--remove")
    assert login(daemon, "two").status_code == 200


def test_hashes_of_the_guide_s_application(house):
    daemon = house
    user(daemon, "add", "old", "--role", "ADMIN", "--hash", hashlib.sha256(b"password").hexdigest())
    assert '"legacy_password":true' in user(daemon, "list", "--json").stdout
    assert login(daemon, "old", "password").status_code == 200
    assert '"legacy_password":false' in user(daemon, "list", "--json").stdout
    for bad in ("secret", "$2b$12$tooshort"):
        told = run("user", "add", "x", "--role", "ADMIN", "--hash", bad, "--config", daemon.config_path, cwd=daemon.directory)
        assert bad not in one_sentence(told, 2)


def test_a_lock_out_and_what_is_noted_of_it(house):
    daemon = house
    user(daemon, "add", "eve", "--role", "ADMIN", stdin=PASSWORD)
    for _ in range(5):
        assert login(daemon, "eve", "wrong").status_code == 401
    answer = login(daemon, "eve")
    assert answer.status_code == 429 and 50 <= int(answer.headers["retry-after"]) <= 60
    user(daemon, "unlock", "eve")
    assert login(daemon, "eve").status_code == 200
    # auditcast's own events are counted as anybody's: five wrong ones and the locked one (alike ones of a second are one entry).
    daemon.wait_scalar("failed_logins_last_hour", lambda n: n >= 1)
    daemon.wait_scalar("active_sessions", lambda n: n >= 1)
    assert PASSWORD not in daemon.stderr()


def test_nobody_s_files_without_a_daemon(tmp_path):
    """Without a daemon `user` opens the embedded store's files itself."""
    env = {"AUDITCAST__STORE__URL": f"embedded:{tmp_path / 'data'}", "AUDITCAST__AUTH__BCRYPT_COST": "4"}
    assert run("user", "add", "ana", "--role", "ADMIN", env=env, cwd=tmp_path, stdin=PASSWORD).returncode == 0
    (tmp_path / "password").write_text("short\n")
    told = run("user", "passwd", "ana", "--password-file", tmp_path / "password", env=env, cwd=tmp_path)
    assert "8 characters" in one_sentence(told, 2) and "short" not in told.stderr
    one_sentence(run("user", "add", "x", "--role", "NOBODY", env=env, cwd=tmp_path, stdin=PASSWORD), 2)
    one_sentence(run("user", "add", "x y", "--role", "ADMIN", env=env, cwd=tmp_path, stdin=PASSWORD), 2)
    one_sentence(run("user", "passwd", "nobody", env=env, cwd=tmp_path, stdin=PASSWORD), 1)
    assert "ana" in run("user", "list", env=env, cwd=tmp_path).stdout


def test_chromium_keeps_the_cookies_of_this_machine(tmp_path, make_daemon, cleanup):
    """`__Host-` cookies are Secure: a browser takes them over plain HTTP from loopback, and from nowhere else."""
    daemon = make_daemon(f"embedded:{tmp_path / 'data'}", **QUICK).start()
    user(daemon, "add", "ana", "--role", "ADMIN", stdin=PASSWORD)
    browser = Browser(tmp_path / "browser")
    cleanup(browser.close)
    for host in ("127.0.0.1", "localhost"):
        browser.go(daemon.public.replace("127.0.0.1", host) + "/")
        browser.wait_text("")
        ask = "(what, body) => fetch(`/api/v1/${what}`, body === undefined ? {} : {method: 'POST', headers: {'Content-Type': 'application/json'}, body}).then(r => r.status)"
        sign_in = f"({ask})('auth/login', JSON.stringify({{username: 'ana', password: '{PASSWORD}', cookie: true}}))"
        assert browser.ask(f"({ask})('alerts')") == 401
        assert browser.ask(sign_in) == 200
        assert browser.ask("document.cookie") == "", "no script sees them"
        assert browser.ask(f"({ask})('alerts')") == 200
        assert browser.ask(f"({ask})('auth/refresh', '')") == 200
        assert browser.ask(f"({ask})('auth/logout', '')") == 204
        assert browser.ask(f"({ask})('alerts')") == 401
        assert browser.ask(f"({ask})('auth/refresh', '')") == 401
