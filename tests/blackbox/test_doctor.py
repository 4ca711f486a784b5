"""`doctor` finds what is wrong with a server, a directory or a daemon, and says what to do (contract §1, §9)."""

import os

import pytest

import tokens
from servers import free_port
from test_commands import run
from wait import until

#: What the README says is enough, with the streams under `audit:`.
ACL = """reset on >acl-secret resetchannels &* ~{auditcast}:* ~security:metrics:* ~jwt:blacklist:* ~permissions:* ~rate_limit:* ~audit:* +select +info +time +eval
+evalsha +xread +xrange +xrevrange +xadd +xtrim +xlen +xinfo +hget +hset +hsetnx +hmget +hgetall +hexists +hdel +hlen +hincrby +zadd +zrem +zcard
+zscore +zrange +zrangebyscore +zrevrangebyscore +zremrangebyrank +zremrangebyscore +zpopmin +set +get +mget +del +unlink +exists +type +smembers
+scan +incrby +pttl +pexpire +subscribe +psubscribe +zmscore +sadd +srem +client|tracking""".split()


def doctor(*arguments, **options):
    """What it says, by name: [(verdict, text)]."""
    done = run("doctor", *arguments, **options)
    assert "panicked" not in done.stderr and done.returncode in (0, 1), done.stderr
    lines = {}
    for line in done.stdout.splitlines():
        verdict, rest = ("by hand", line[8:]) if line.startswith("by hand ") else (line[:4].strip(), line[5:])
        name, text = rest.split(": ", 1)
        lines.setdefault(name, []).append((verdict, text))
    assert done.returncode == int(any(v == "fail" for found in lines.values() for v, _ in found)), done.stdout
    assert tokens.SECRET not in done.stdout + done.stderr
    return lines


def verdicts(lines, name):
    return [verdict for verdict, _ in lines.get(name, [])]


def at(daemon):
    """The listeners a daemon took, for a command that reads the same file."""
    return {"AUDITCAST__LISTEN__OPS": daemon.ops.removeprefix("http://"), "AUDITCAST__LISTEN__PUBLIC": daemon.public.removeprefix("http://")}


def test_a_server_as_it_should_be(redis_server, tmp_path):
    redis_server.client().xadd("audit:events", {"event_type": "x"})
    lines = doctor("--pre", env={"REDIS_URL": redis_server.url, "AUDITCAST__LISTEN__OPS": f"127.0.0.1:{free_port()}",
                                 "AUDITCAST__LISTEN__PUBLIC": f"127.0.0.1:{free_port()}"}, cwd=tmp_path)  # fmt: skip
    for name in ("config", "secret", "store", "clock", "version", "eviction", "acl", "transport", "origins", "rate limits", "retention",
                 "listen.public", "listen.ops"):  # fmt: skip
        assert verdicts(lines, name) == ["ok"], (name, lines)
    assert "daemon" not in lines


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
def test_eviction(redis_server, tmp_path, policy):
    redis_server.client().config_set("maxmemory-policy", policy)
    (verdict, text), = doctor(env={"REDIS_URL": redis_server.url}, cwd=tmp_path)["eviction"]
    assert verdict == "fail" and policy in text and "noeviction" in text


def test_a_user_who_may_not_ask_for_info(redis_server, tmp_path):
    """A warning: what cannot be seen is not wrong."""
    redis_server.client().acl_setuser("quiet", enabled=True, passwords=["+q"], keys=["*"], channels=["*"], commands=["+@all", "-info"])
    url = redis_server.url.replace("redis://", "redis://quiet:q@")
    lines = doctor(env={"REDIS_URL": url}, cwd=tmp_path)
    (verdict, text), = lines["server"]
    assert verdict == "warn" and "noeviction" in text and "eviction" not in lines


def test_the_acl_of_the_readme_is_enough_and_less_is_named(redis_server, make_daemon, tmp_path):
    client = redis_server.client()
    client.execute_command("ACL", "SETUSER", "auditcast", *ACL)
    url = redis_server.url.replace("redis://", "redis://auditcast:acl-secret@")
    config = {"source": [{"name": "app", "kind": "stream", "streams": ["audit:events"], "start": "earliest"},
                         {"name": "keys", "kind": "keys", "pattern": "audit:event:*"}], "monitor": {"snapshot_interval": "1s"}}  # fmt: skip
    daemon = make_daemon(url, **config)
    daemon.redis = client
    daemon.start()
    daemon.put({"event_type": "sql_injection"})
    daemon.wait_metric("auditcast_source_events_total", 1, source="app")
    until("a snapshot is stored", lambda: client.keys("security:metrics:*"))
    arguments = ("--config", daemon.config_path)
    lines = doctor(*arguments, cwd=daemon.directory)
    assert verdicts(lines, "acl") == ["ok"] and verdicts(lines, "eviction") == ["ok"]
    assert verdicts(lines, "tracking") == ["ok"]
    assert not [found for found in lines.values() for verdict, _ in found if verdict == "fail"], lines
    client.execute_command("ACL", "SETUSER", "auditcast", "-client")
    (verdict, text), = doctor(*arguments, cwd=daemon.directory)["tracking"]
    assert verdict == "warn" and "+client|tracking" in text
    client.execute_command("ACL", "SETUSER", "auditcast", "resetkeys", "~{auditcast}:*", "~audit:*")
    lines = doctor(*arguments, cwd=daemon.directory)
    told = " ".join(text for verdict, text in lines["acl"] if verdict == "fail")
    assert "jwt:blacklist" in told and "permissions" in told and "security:metrics" in told and "ACL" in told


def test_keyspace_notifications(redis_server, tmp_path):
    """CONFIG is never asked: a key of our own is written, and either it is told of or not."""
    path = tmp_path / "keys.toml"
    path.write_text("[[source]]\nname = 'guide'\nkind = 'keys'\npattern = 'audit:event:*'\n")
    client = redis_server.client()
    look = lambda: doctor("--pre", "--config", path, env={"REDIS_URL": redis_server.url, "AUDITCAST__LISTEN__OPS": "127.0.0.1:0",
                                                          "AUDITCAST__LISTEN__PUBLIC": "127.0.0.1:0"}, cwd=tmp_path)["source guide"]  # fmt: skip
    (verdict, text), = look()
    assert verdict == "warn" and "notify-keyspace-events K$h" in text and "SCAN" in text
    client.config_set("notify-keyspace-events", "K$h")
    (verdict, text), = look()
    assert verdict == "ok" and "notifications are on" in text
    assert client.config_get("notify-keyspace-events")["notify-keyspace-events"] in ("K$h", "$hK", "h$K"), "looked at, not set"
    until("the probe is gone", lambda: not client.keys("jwt:blacklist:*"))


def test_directory_of_the_embedded_store(tmp_path):
    data = tmp_path / "data"
    env = {"AUDITCAST__STORE__URL": f"embedded:{data}"}
    # To look is not to make.
    lines = doctor(env=env, cwd=tmp_path)
    assert verdicts(lines, "store") == ["ok"] and "directory" not in lines and not data.exists()
    data.mkdir(mode=0o700)
    assert verdicts(doctor(env=env, cwd=tmp_path), "directory") == ["ok"]
    os.chmod(data, 0o755)
    (verdict, text), *_ = doctor(env=env, cwd=tmp_path)["directory"]
    assert verdict == "warn" and f"chmod 700 {data}" in text
    os.chmod(data, 0o777)
    assert verdicts(doctor(env=env, cwd=tmp_path), "directory")[0] == "fail"


def test_a_key_that_is_long_and_not_random(tmp_path):
    env = {"JWT_SECRET_KEY": "abababababababababababababababababababab", "AUDITCAST__STORE__URL": f"embedded:{tmp_path / 'd'}"}
    (verdict, text), = doctor(env=env, cwd=tmp_path)["secret"]
    assert verdict == "warn" and "abab" not in text


def test_post(daemon):
    daemon.put({"event_type": "login_failed"})
    daemon.slots(1)
    ask = ("--post", "--config", daemon.config_path)
    lines = doctor(*ask, env=at(daemon), cwd=daemon.directory)
    for name in ("secret", "daemon", "positions", "token", "bad token", "permissions", "feed"):
        assert verdicts(lines, name) == ["ok"], (name, lines)
    assert "store" not in lines and "listen.public" not in lines
    # Another key than the daemon's.
    lines = doctor(*ask, env=at(daemon) | {"JWT_SECRET_KEY": "another-secret-of-more-than-32-bytes!"}, cwd=daemon.directory)
    assert verdicts(lines, "token") == ["fail"] and verdicts(lines, "feed") == ["fail"] and verdicts(lines, "daemon") == ["ok"]
    # Without a word the listeners of a daemon that runs are its own.
    lines = doctor("--config", daemon.config_path, env=at(daemon), cwd=daemon.directory)
    assert verdicts(lines, "daemon") == ["ok"] and verdicts(lines, "store") == ["ok"]
    lines = doctor("--pre", "--config", daemon.config_path, env=at(daemon), cwd=daemon.directory)
    assert verdicts(lines, "listen.public") == verdicts(lines, "listen.ops") == ["fail"]
    env = at(daemon)
    daemon.stop()
    (verdict, text), = doctor(*ask, env=env, cwd=daemon.directory)["daemon"]
    assert verdict == "fail" and "auditcast serve" in text


def test_post_where_nothing_goes_forward(redis_daemon):
    daemon = redis_daemon
    env = at(daemon)
    # A store that takes no writes: nothing can be committed.
    daemon.redis.config_set("maxmemory", 1)
    until("it is not ready", lambda: not daemon.ready())
    lines = doctor("--post", "--config", daemon.config_path, env=env, cwd=daemon.directory, timeout=60)
    assert verdicts(lines, "daemon") == ["fail"] and verdicts(lines, "positions") == ["fail"]
    daemon.redis.config_set("maxmemory", 0)
    until("it is ready again", daemon.ready, 20)
