"""A revoked token's connections are closed within two seconds, thousands of them without a request for each (contract §5, §6.7)."""

import os
import time

import pytest

import tokens
from crowd import Crowd
from test_commands import run

AT_MOST = 2.0


def many(count):
    """A token each, of twenty to a user."""
    jtis = [f"crowd-{n}" for n in range(count)]
    return jtis, [tokens.token(user_id=str(n // 20), jti=jti) for n, jti in enumerate(jtis)]


def calls(client):
    """Commands by name, as often as they were called."""
    return {name.removeprefix("cmdstat_"): stat["calls"] for name, stat in client.info("commandstats").items()}


def cut(daemon, cleanup, count, revoke):
    """Opens `count`, revokes each fourth by `revoke(jtis)`; gives seconds to the last close frame, and seconds it all took to come in."""
    jtis, all_tokens = many(count)
    began = time.monotonic()
    crowd = Crowd(daemon, all_tokens)
    cleanup(crowd.leave)
    came_in = time.monotonic() - began
    bad, good = crowd.members[::4], [m for n, m in enumerate(crowd.members) if n % 4]
    quiet = [len(member.frames) for member in good]
    since = time.monotonic()
    revoke(jtis[::4])
    crowd.until("the revoked are closed", lambda: all(member.code for member in bad), 10)
    last = max(member.closed_at for member in bad) - since
    assert {(m.code, "blacklisted" in m.reason) for m in bad} == {(3503, True)}
    assert all(m.texts()[-1]["type"] == "bye" and m.texts()[-1]["reconnect"] is False for m in bad)
    assert last < AT_MOST, f"{last:.3f} s"
    # The others have heard nothing at all of it, and are there.
    assert [len(member.frames) for member in good] == quiet
    for member in good:
        member.say(type="ping", id=1)
    crowd.until("the others answer", lambda: all(m.texts()[-1]["type"] == "pong" for m in good), 10)
    daemon.wait_metric("auditcast_connections", len(good), transport="websocket")
    assert daemon.metric("auditcast_disconnects_total", code="3503") == len(bad)
    return last, came_in


def test_500_of_2000_are_cut_at_once(redis_daemon, cleanup, figures):
    redis = redis_daemon.redis
    cost = {}

    def revoke(jtis):
        cost["before"] = calls(redis)
        pipe = redis.pipeline(transaction=False)
        for jti in jtis:
            pipe.set(f"jwt:blacklist:{jti}", "1", ex=3600)
        pipe.execute()

    last, came_in = cut(redis_daemon, cleanup, 2000, revoke)
    after = calls(redis)
    asked = {name: n - cost["before"].get(name, 0) for name, n in after.items() if n != cost["before"].get(name, 0)}
    assert asked.pop("set") == 500
    # What the daemon asks because of it; whatever else is in the list it asks anyway, with or without revocations.
    exists = asked.get("exists", 0)
    figures(f"2000 connections ({came_in:.1f} s to come in), 500 tokens revoked: the last close frame after {last * 1000:.0f} ms; "
            f"it cost {exists} EXISTS; all commands meanwhile: {asked}")  # fmt: skip
    assert exists <= 20, asked


@pytest.mark.parametrize("variable", ["AUDITCAST_REDIS62_SERVER", "AUDITCAST_VALKEY_SERVER"], ids=["Redis 6.2", "Valkey"])
def test_every_engine_tells(variable, make_redis, make_daemon, cleanup):
    engine = make_redis(binary=os.environ[variable])
    daemon = make_daemon(engine).start()
    last, _ = cut(daemon, cleanup, 100, lambda jtis: [daemon.redis.set(f"jwt:blacklist:{jti}", "1", ex=60) for jti in jtis])
    assert last < 0.9, "told, not looked up every second"
    assert "does not tell" not in daemon.stderr()


def test_a_command_revokes_at_once(daemon):
    """`token revoke` with a token and with an id, while the daemon runs on either store."""
    whole, by_id, other = (daemon.ws(tokens.token(jti=jti)).hello() for jti in ("whole", "by-id", "other"))
    env = {"JWT_SECRET_KEY": tokens.SECRET}
    done = run("token", "revoke", tokens.token(jti="whole"), "--config", daemon.config_path, env=env, cwd=daemon.directory)
    assert done.returncode == 0, done.stderr
    done = run("token", "revoke", "--jti", "by-id", "--config", daemon.config_path, env=env, cwd=daemon.directory)
    assert done.returncode == 0, done.stderr
    for client in (whole, by_id):
        assert "blacklisted" in client.closed(3503)[1]
    other.send(type="ping", id=1)
    other.frame("pong")
