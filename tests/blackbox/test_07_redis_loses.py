"""What Redis itself loses, refuses or cannot give (contract §6.1, §6.5, §6.7): each is told once, other sources go on, it mends itself."""

import time

from websockets.exceptions import InvalidStatus

from daemon import STREAM
from servers import Switch
from wait import holds, until

GOOD = "audit:good"
SOURCES = [{"name": "app", "kind": "stream", "streams": [STREAM], "start": "earliest"},
           {"name": "good", "kind": "stream", "streams": [GOOD], "start": "earliest"}]  # fmt: skip
HIGH = {"event_type": "security.injection_attempt", "user_id": "1"}
LOW = {"event_type": "data.read", "user_id": "1"}


def gaps(daemon):
    return [a for a in daemon.log() if a["rule"] == "audit_gap" and a["status"] == "firing"]


def wait_gap(daemon, reasons, source="app"):
    found = until(f"audit_gap for one of {reasons}", lambda: [a for a in gaps(daemon) if a["details"]["source"] == source], 15)
    assert len(found) == 1, found
    gap = found[0]
    assert gap["details"]["reason"] in reasons, gap
    assert gap["severity"] == "high" and gap["kind"] == "rule" and gap["event_type"] == "audit_gap"
    return gap


def alive(daemon, stream=STREAM, user="still-alive", timeout=15, **fields):
    """An event of now becomes an alert."""
    entry = daemon.redis.xadd(stream, HIGH | {"user_id": user}, **fields)
    until(f"an alert for {entry} of {stream}", lambda: [a for a in daemon.log() if a.get("user_id") == user], timeout)
    return entry


def test_stream_deleted_and_made_anew_with_smaller_ids(redis_server, make_daemon):
    daemon = make_daemon(redis_server, source=SOURCES).start()
    client = daemon.ws().hello()
    daemon.put(*[LOW] * 10)
    daemon.wait_metric("auditcast_source_events_total", 10, source="app")
    pipe = daemon.redis.pipeline()
    pipe.delete(STREAM)
    pipe.xadd(STREAM, HIGH | {"user_id": "first-of-new"}, id="5-1")
    pipe.xadd(STREAM, HIGH | {"user_id": "second-of-new"}, id="6-1")
    pipe.execute()
    # The new stream is read whole; XREAD with the old position would wait for ever, without an error.
    client.frame("security_alert", user_id="first-of-new", timeout=15)
    client.frame("security_alert", user_id="second-of-new")
    wait_gap(daemon, ("rewound", "reset"))
    daemon.wait_metric("auditcast_source_gaps_total", 1, source="app")
    alive(daemon)
    alive(daemon, GOOD, "good-source")
    assert daemon.ready()
    assert len([a for a in daemon.log() if a["kind"] == "event"]) == 4


def test_stream_deleted_and_not_made_anew(redis_server, make_daemon):
    """A stream that does not exist is empty; made anew with greater ids it goes on."""
    daemon = make_daemon(redis_server, source=SOURCES).start()
    daemon.put(*[LOW] * 10)
    daemon.wait_metric("auditcast_source_events_total", 10, source="app")
    daemon.redis.delete(STREAM)
    daemon.slots(5)
    assert daemon.ready()
    alive(daemon)


def test_replica_promoted_without_the_last_writes(make_redis, make_daemon):
    master, replica = make_redis("master"), make_redis("replica")
    link = Switch(master.port)
    replica.client().replicaof("127.0.0.1", link.port)
    until("the replica follows", lambda: replica.client().info("replication")["master_link_status"] == "up", 20)
    switch = Switch(master.port)
    daemon = make_daemon(f"redis://127.0.0.1:{switch.port}/0", source=SOURCES)
    daemon.redis = master.client()
    daemon.start()
    client = daemon.ws().hello()
    daemon.put(*[HIGH | {"user_id": f"kept{n}"} for n in range(5)])
    client.at_least(5, type="security_alert")
    written = master.client().info("replication")["master_repl_offset"]
    until("the replica has it all", lambda: replica.client().info("replication")["slave_repl_offset"] >= written)
    # What comes now never reaches the replica.
    link.switch(None)
    daemon.put(*[HIGH | {"user_id": f"lost{n}"} for n in range(5)])
    client.at_least(10, type="security_alert")
    seen = [(a["pos"], a["alert_id"]) for a in client.alerts()]
    last_seen = client.last_pos
    switch.switch(None)
    master.kill()
    replica.client().replicaof("NO", "ONE")
    switch.switch(replica.port)
    daemon.redis = replica.client()

    # §4: told, once; the promoted stream is behind the position.
    wait_gap(daemon, ("rewound", "reset"))
    until("ready again", daemon.ready, 20)
    alive(daemon)
    # §5: clients are told the truth about their position: either everything since is there, or `recovered` is false and all is replayed.
    with daemon.ws(query={"after": last_seen}) as resumed:
        subscribed = resumed.frame("subscribed")
        resumed.frame("security_alert", user_id="still-alive")
        resumed.frame("security_alert", rule="audit_gap")
        if subscribed["recovered"]:
            # The node put back what the log lost, at the positions it had.
            assert {p for p, _ in seen} <= {a["pos"] for a in daemon.log()}
            assert not {a["alert_id"] for a in resumed.alerts(status="firing")} & {i for _, i in seen}
        else:
            assert subscribed["reason"] in ("expired", "unknown_position")
            assert any(a.get("replayed") for a in resumed.alerts())
    # Nothing twice.
    firing = [a["alert_id"] for a in daemon.log() if a["status"] == "firing"]
    assert len(firing) == len(set(firing))
    switch.close()
    link.close()


def test_flushall(redis_server, make_daemon):
    daemon = make_daemon(redis_server, source=SOURCES).start()
    client = daemon.ws().hello()
    daemon.put(*[HIGH | {"user_id": f"u{n}"} for n in range(3)])
    client.at_least(3, type="security_alert")
    pos = client.last_pos
    daemon.redis.flushall()
    until("ready again", lambda: daemon.ready(exclude="source"), 20)
    alive(daemon, timeout=20)
    alive(daemon, GOOD, "good-source")
    wait_gap(daemon, ("rewound", "reset"))
    with daemon.ws(query={"after": pos}) as resumed:
        subscribed = resumed.frame("subscribed")
        resumed.frame("security_alert", user_id="still-alive")
        assert subscribed["recovered"] or subscribed["reason"] in ("expired", "unknown_position")
    firing = [a["alert_id"] for a in daemon.log() if a["status"] == "firing"]
    assert len(firing) == len(set(firing))


def test_id_of_the_year_2100(redis_server, make_daemon):
    daemon = make_daemon(redis_server, source=SOURCES).start()
    client = daemon.ws().hello()
    daemon.redis.xadd(STREAM, HIGH | {"user_id": "future"}, id="4102444800000-0")
    clock = client.frame("security_alert", rule="audit_clock")
    assert clock["severity"] == "high" and clock["details"]["source"] == "app"
    # Every id of this stream is from the future now; the events count now, and alert.
    for n in range(3):
        daemon.redis.xadd(STREAM, HIGH | {"user_id": f"later{n}"})
    client.frame("security_alert", user_id="later2")
    daemon.put(*[{"event_type": "login_failed"}] * 5)
    daemon.wait_scalar("failed_logins_last_hour", 5)
    # Once per source and hour.
    daemon.slots(5)
    assert len(client.alerts(rule="audit_clock", status="firing")) == 1
    alive(daemon, GOOD, "good-source")
    assert daemon.ready()
    # §3: such an entry is a dead letter too.
    letters = daemon.redis.xrange("{auditcast}:deadletter")
    assert any(f["entry"] == "4102444800000-0" and f["source"] == "app" for _, f in letters), letters


def test_a_string_among_the_streams(redis_server, make_daemon):
    redis_server.client().set(STREAM, "not a stream")
    daemon = make_daemon(redis_server, source=SOURCES)
    daemon.launch().listening()
    until("readiness tells of the source", lambda: daemon.get_ops("/readyz").status_code == 503 and not daemon.get_ops("/readyz").json()["ready"], 10)
    # §6.5: left out, the node can serve.
    until("everything else is well", lambda: daemon.ready(exclude="source"), 10)
    assert daemon.get_ops("/livez").status_code == 200
    alive(daemon, GOOD, "good-source")
    wait_gap(daemon, ("unreadable",))
    client = daemon.ws().hello()
    status = client.frame("source_status", source="app")
    assert status["status"] in ("down", "stalled") and status["since"]
    assert client.frame("source_status", source="good")["status"] == "ok"
    daemon.redis.delete(STREAM)
    alive(daemon)
    client.frame("source_status", source="app", status="ok", timeout=15)
    until("ready again", daemon.ready, 10)
    assert len(gaps(daemon)) == 1


def told(daemon, *words):
    lines = [line for line in daemon.stderr().splitlines() if any(word.lower() in line.lower() for word in words)]
    return lines


def test_wrong_password(make_redis, make_daemon):
    server = make_redis(password="the-right-one-5e61")
    daemon = make_daemon(server.url.replace("the-right-one-5e61", "the-wrong-one-77aa"), source=SOURCES)
    daemon.redis = server.client()
    daemon.launch().listening()
    until("not ready", lambda: daemon.get_ops("/readyz").status_code == 503)
    assert daemon.get_ops("/livez").status_code == 200
    until("it is told", lambda: told(daemon, "password", "WRONGPASS", "auth"), 10)
    # §6.7: nobody new gets in.
    assert daemon.api("/alerts").status_code == 503
    holds("still there", lambda: daemon.process.poll() is None, 2)
    assert "ready" not in daemon.stdout
    # One clear line, not one per try; and never a secret.
    assert len(told(daemon, "WRONGPASS", "password")) <= 3, daemon.stderr()
    assert "the-wrong-one" not in daemon.stderr()
    daemon.redis.config_set("requirepass", "the-wrong-one-77aa")
    daemon.redis = server.client(password="the-wrong-one-77aa")
    server.password = "the-wrong-one-77aa"
    until("ready by itself", daemon.ready, 20)
    daemon.line("ready", 10)
    alive(daemon)


def test_without_eval(redis_server, make_daemon):
    """§9: it ends with 1 and one sentence."""
    redis_server.client().acl_setuser("app", enabled=True, passwords=["+q"], keys=["*"], channels=["*"], commands=["+@all", "-eval", "-evalsha"])
    daemon = make_daemon(redis_server.url.replace("redis://", "redis://app:q@"), source=SOURCES)
    daemon.launch().listening()
    assert daemon.process.wait(15) == 1
    assert "ready" not in daemon.stdout
    last = daemon.stderr().splitlines()[-1]
    assert "EVAL" in last and "ACL" in last, daemon.stderr()


def test_down_at_start_and_later(make_redis, make_daemon, long_run):
    outage = 60 if long_run else 6
    server = make_redis(start=False)
    daemon = make_daemon(server, source=SOURCES)
    daemon.launch().listening()
    until("not ready", lambda: daemon.get_ops("/readyz").status_code == 503)
    holds("alive while the store is not there", lambda: daemon.get_ops("/livez").status_code == 200, 2)
    assert daemon.metric("auditcast_store_up") == 0
    assert daemon.api("/alerts").status_code == 503
    try:
        daemon.ws()
        raise AssertionError("somebody got in without a store")
    except InvalidStatus as refused:
        assert refused.response.status_code == 503 and "Retry-After" in refused.response.headers
    server.start()
    until("ready by itself", daemon.ready, 20)
    daemon.line("ready", 10)
    assert daemon.metric("auditcast_store_up") == 1
    client = daemon.ws().hello()
    alive(daemon, user="before")

    server.stop()
    until("not ready", lambda: not daemon.ready(), 10)
    until("the store is seen to be down", lambda: daemon.metric("auditcast_store_up") == 0, 10)
    # §6.7: who is in stays.
    holds("who is in stays", lambda: client.code is None and daemon.get_ops("/livez").status_code == 200, outage)
    assert daemon.api("/alerts").status_code == 503
    server.start()
    until("ready by itself", daemon.ready, 30)
    alive(daemon, user="after")
    client.frame("security_alert", user_id="after")
    assert daemon.metric("auditcast_store_reconnects_total") >= 1
    assert gaps(daemon) == []
    # A failure is told once, not at each try.
    assert len(told(daemon, "refused")) <= 6, told(daemon, "refused")


def test_token_expires_while_the_store_is_down(redis_server, make_daemon):
    import tokens

    daemon = make_daemon(redis_server).start()
    client = daemon.ws(tokens.token(expires_in=4)).hello()
    redis_server.stop()
    started = time.monotonic()
    client.closed(3005, timeout=10)
    assert time.monotonic() - started < 6
