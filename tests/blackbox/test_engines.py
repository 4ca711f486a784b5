"""The oldest Redis that is promised (6.2) and Valkey do the same as the machine's own (contract §2, §9)."""

import os

import pytest

FOLDER = "AUDITCAST_REDIS62_SERVER", "AUDITCAST_VALKEY_SERVER"


@pytest.fixture(params=FOLDER, ids=["Redis 6.2", "Valkey"])
def engine(request, make_redis):
    binary = os.environ.get(request.param)
    assert binary, f"{request.param} is not set: tests/run sets it"
    return make_redis(binary=binary)


def test_spine(engine, make_daemon):
    daemon = make_daemon(engine).start()
    client = daemon.ws().hello()
    daemon.put(*[{"event_type": "auth.failed_login", "user_id": "1"}] * 51, {"event_type": "sql_injection", "user_id": "2"}, {"bad": "entry"})
    client.frame("security_alert", rule="high_failed_login_rate")
    client.frame("security_alert", user_id="2")
    daemon.wait_metric("auditcast_source_invalid_total", 1, source="app")
    pos = client.last_pos
    daemon.kill()
    daemon.put(*[{"event_type": "sql_injection", "user_id": f"n{n}"} for n in range(5)])
    daemon.start()
    with daemon.ws(query={"after": pos}) as resumed:
        assert resumed.frame("subscribed")["recovered"] is True
        assert [a["user_id"] for a in resumed.at_least(5, type="security_alert")] == [f"n{n}" for n in range(5)]
    assert daemon.scalar("failed_logins_last_hour") == 51
    assert daemon.redis.xlen("{auditcast}:deadletter") == 1


def test_a_minimal_acl_is_enough(engine, make_daemon):
    """§9: nothing outside the prefix but what is named; never CONFIG, KEYS, MONITOR, FLUSH, functions."""
    admin = engine.client()
    admin.execute_command("ACL", "SETUSER", "auditcast", "on", ">pw", "~{auditcast}*", "~audit:*", "~security:metrics:*", "~jwt:blacklist:*",
                          "~permissions:*", "~rate_limit:*", "&*", "+@all", "-config", "-keys", "-monitor", "-flushall", "-flushdb",
                          *(["-function", "-fcall"] if admin.info("server").get("redis_version", "6").split(".")[0] != "6" else []))  # fmt: skip
    daemon = make_daemon(engine.url.replace("redis://", "redis://auditcast:pw@"))
    daemon.redis = admin
    daemon.start()
    client = daemon.ws().hello()
    daemon.put({"event_type": "sql_injection", "user_id": "2"})
    client.frame("security_alert")
    assert daemon.redis.acl_log() == []
