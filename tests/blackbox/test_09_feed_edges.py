"""The feed's edges (contract §5): who gets in by which way, what a frame may be, what happens to the slow."""

import asyncio
import json
import signal
import socket
import struct
import threading
import time

import httpx
import pytest
from websockets.asyncio.client import connect as connect_async
from websockets.exceptions import InvalidStatus
from websockets.frames import Frame, Opcode

import tokens
from client import Client
from daemon import STREAM
from wait import until

WAYS = ["header", "subprotocol", "cookie", "frame"]
HIGH = {"event_type": "security.injection_attempt", "user_id": "1"}
OBSERVER = {"permissions": ["session.view", "data.view"], "role": "OBSERVER"}


def refused(daemon, status, how="header", token=None, contains="", **options):
    """The upgrade is refused over HTTP."""
    with pytest.raises(InvalidStatus) as caught:
        daemon.ws(token, how, **options)
    assert caught.value.response.status_code == status
    assert contains in caught.value.response.body.decode()


def closed_with(daemon, code, how, token=None, contains="", **options):
    """The upgrade succeeds, then comes one error frame and the close, because browsers cannot see an HTTP refusal."""
    client = daemon.ws(token, how, **options)
    got, reason = client.closed(timeout=10)
    assert got == code, (got, reason, client.frames)
    errors = client.all(type="error")
    assert len(errors) == 1 and errors[0]["code"] and errors[0]["message"], client.frames
    assert contains in reason, reason
    assert client.all(type="hello") == []


# Ways in


@pytest.mark.parametrize("how", WAYS)
def test_each_way_a_token_can_come(daemon, how):
    client = daemon.ws(how=how).hello()
    hello = client.frames[0]
    assert hello["type"] == "hello" and client.frames[1]["type"] == "subscribed"
    assert {"version", "connection", "node", "time", "user", "permissions", "expires_at", "ping_interval_ms", "head", "limits", "reconnect"} <= set(hello)
    assert {"frame_bytes", "events_rate", "connections_per_user"} <= set(hello["limits"]) and hello["limits"]["frame_bytes"] == 16384
    assert {"min_ms", "max_ms"} <= set(hello["reconnect"])
    assert client.socket.subprotocol == "auditcast.v1"
    assert client.frames[1]["recovered"] is True
    daemon.put(HIGH)
    client.frame("security_alert")


def test_no_subprotocol_is_accepted_and_a_token_item_alone_is_not(daemon):
    client = daemon.ws(protocols=None).hello()
    assert client.socket.subprotocol is None
    refused(daemon, 400, how="subprotocol", protocols=None)


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("fault", ["bad", "expired", "other key", "none", "no exp", "observer"])
def test_refused(redis_daemon, how, fault):
    daemon = redis_daemon
    token = {
        "bad": "not.a.token",
        "expired": tokens.token(expires_in=-120),
        "other key": tokens.token(secret="another-key-0123456789abcdef-0123456789"),
        "none": tokens.token(secret="", algorithm="none"),
        "no exp": tokens.token(exp=None),
        "observer": tokens.token(**OBSERVER),
    }[fault]
    if how == "header":
        refused(daemon, 403 if fault == "observer" else 401, token=token)
    else:
        # 3005: get a new one first, then come back.
        closed_with(daemon, {"observer": 3507, "expired": 3005}.get(fault, 3500), how, token)
    assert daemon.metric("auditcast_auth_failures_total") >= 1


@pytest.mark.parametrize("how", WAYS)
def test_blacklisted(redis_daemon, how):
    token = tokens.token(jti="blocked-1")
    redis_daemon.redis.set("jwt:blacklist:blocked-1", "logout", ex=600)
    if how == "header":
        refused(redis_daemon, 401, token=token, contains="blacklisted")
    else:
        closed_with(redis_daemon, 3503, how, token, contains="blacklisted")


def test_no_token(redis_server, make_daemon):
    daemon = make_daemon(redis_server, feed={"auth_timeout": "1s"}).start()
    started = time.monotonic()
    closed_with(daemon, 3502, how=None)
    assert 0.5 < time.monotonic() - started < 4


def test_permission_by_the_store_or_by_role_is_enough(redis_daemon):
    daemon = redis_daemon
    daemon.redis.sadd("permissions:user:77", "audit.view")
    daemon.redis.hset("permissions:user:78", mapping={"admin.access": "true", "audit.view": "false"})
    daemon.redis.set("permissions:user:79", json.dumps(["audit.view"]))
    for user in ("77", "78", "79"):
        with daemon.ws(tokens.token(user_id=user, **OBSERVER)) as client:
            client.hello()
    with daemon.ws(tokens.token(user_id=80, permissions=[], role="admin")) as client:
        assert "audit.view" in client.frame("hello")["permissions"]


@pytest.mark.parametrize("how", ["query", "header"])
def test_token_in_the_query_is_refused(daemon, how):
    refused(daemon, 400, how=how, query={"token": tokens.token()})


@pytest.mark.parametrize("how", WAYS)
def test_foreign_origin(daemon, how):
    if how == "header":
        refused(daemon, 403, origin="https://evil.example")
    else:
        try:
            closed_with(daemon, 3507, how, origin="https://evil.example")
        except InvalidStatus as error:
            assert error.response.status_code == 403


def test_own_and_listed_origins(redis_server, make_daemon):
    daemon = make_daemon(redis_server, env={"CORS_ORIGINS": "https://front.example, https://other.example"}).start()
    for origin in (None, daemon.public, "https://front.example", "https://other.example"):
        with daemon.ws(origin=origin) as client:
            client.hello()
    refused(daemon, 403, origin="https://front.example.evil.test")


@pytest.mark.parametrize("query", [{"min_severity": "worst"}, {"kinds": "bogus"}, {"after": "no position!"}, {"events": "loud"}, {"active": "perhaps"}])
def test_bad_parameters(daemon, query):
    refused(daemon, 400, query=query)


def test_too_many_connections_of_one_user(redis_server, make_daemon):
    daemon = make_daemon(redis_server, limits={"connections_per_user": 3}).start()
    first = [daemon.ws(tokens.token(user_id="5")).hello() for _ in range(3)]
    refused(daemon, 429, token=tokens.token(user_id="5"))
    closed_with(daemon, 3504, "subprotocol", tokens.token(user_id="5"))
    other = daemon.ws(tokens.token(user_id="6")).hello()
    daemon.wait_metric("auditcast_connections", 4, transport="websocket")
    first[0].close()
    daemon.wait_metric("auditcast_connections", 3, transport="websocket")
    assert other.code is None
    daemon.ws(tokens.token(user_id="5")).hello()


def test_expires_and_refresh(redis_daemon):
    daemon = redis_daemon
    short = daemon.ws(tokens.token(expires_in=3)).hello()
    renewed = daemon.ws(tokens.token(expires_in=3)).hello()
    renewed.send(type="refresh", id="r1", token=tokens.token(expires_in=600))
    assert "expires_at" in renewed.frame("ok", id="r1")
    # For the same user only.
    renewed.send(type="refresh", id="r2", token=tokens.token(user_id="somebody-else"))
    assert renewed.frame("error", id="r2")["code"] in ("forbidden", "bad_request")
    short.closed(3005, timeout=8)
    assert renewed.code is None


# Frames


def test_frame_of_17_kib(daemon):
    client = daemon.ws().hello()
    client.socket.send(json.dumps({"type": "ping", "id": "x" * 17 * 1024}))
    client.closed(1009)


def test_frame_of_16_kib(daemon):
    client = daemon.ws().hello()
    client.socket.send(json.dumps({"type": "ping", "id": "p"}).ljust(16_384))
    client.frame("pong", id="p")


def test_binary_frame(daemon):
    client = daemon.ws().hello()
    client.socket.send(b'{"type":"ping"}')
    client.closed(1003)


def test_invalid_utf8(daemon):
    client = daemon.ws().hello()
    with client.socket.protocol_mutex:
        client.socket.socket.sendall(Frame(Opcode.TEXT, b'{"type":"\xff\xfe"}').serialize(mask=True))
    client.closed(1007)


def test_unknown_type_and_what_is_not_json(daemon):
    client = daemon.ws().hello()
    client.send(type="dance", id="1")
    assert client.frame("error", id="1")["code"] == "unknown_type"
    client.send(type="subscribe", id="2", min_severity="worst")
    assert client.frame("error", id="2")["code"] in ("bad_request", "bad_filter")
    client.send(type="ping", id="3")
    assert client.frame("pong", id="3")["head"] is not None
    # What is not a JSON object gets `error`, the tenth time 3501.
    with daemon.ws() as other:
        other.hello()
        for text in ("{", "nonsense", "[1]", "1", '"x"', "null", "{]", "}", "{}{"):
            other.socket.send(text)
        assert {f["code"] for f in other.at_least(9, type="error")} == {"bad_json"}
        other.send(type="ping", id="still")
        other.frame("pong", id="still")
        other.socket.send("{")
        other.closed(3501)


def test_subscribe_filters_and_goes_on_from_where_it_is(daemon):
    client = daemon.ws(query={"min_severity": "critical"}).hello()
    daemon.put(HIGH | {"user_id": "hidden"}, HIGH | {"user_id": "shown", "severity": "critical"})
    client.frame("security_alert", user_id="shown")
    client.send(type="subscribe", id="s2", types=["security.*"], kinds=["event"])
    client.frame("subscribed", id="s2")
    daemon.put(HIGH | {"user_id": "two"}, {"event_type": "auth.suspicious_activity", "user_id": "other-type"}, HIGH | {"user_id": "three"})
    client.frame("security_alert", user_id="three")
    # Nothing skipped, nothing repeated.
    assert [a["user_id"] for a in client.alerts()] == ["shown", "two", "three"]


def test_resume_replays_in_order_and_once(daemon):
    client = daemon.ws().hello()
    daemon.put(*[HIGH | {"user_id": f"a{n}"} for n in range(5)])
    client.at_least(5, type="security_alert")
    pos = client.alerts()[1]["pos"]
    client.close()
    daemon.put(*[HIGH | {"user_id": f"b{n}"} for n in range(5)])
    with daemon.ws(query={"after": pos}) as resumed:
        assert resumed.frame("subscribed")["recovered"] is True
        resumed.frame("security_alert", user_id="b4")
        assert [a["user_id"] for a in resumed.alerts()] == ["a2", "a3", "a4", "b0", "b1", "b2", "b3", "b4"]
    with daemon.ws(query={"after": "earliest"}) as whole:
        assert len(whole.at_least(10, type="security_alert")) == 10
        assert [a["pos"] for a in whole.alerts()] == [a["pos"] for a in daemon.log()]
    # A position of nowhere: the truth, and everything that is kept.
    with daemon.ws(query={"after": "zz-0000.unknown"}) as lost:
        subscribed = lost.frame("subscribed")
        assert subscribed["recovered"] is False and subscribed["reason"] in ("unknown_position", "expired")
        assert all(a.get("replayed") is True for a in lost.at_least(10, type="security_alert"))


def test_active_first(store, make_daemon):
    daemon = make_daemon(store, monitor={"event_alert_ttl": "2s"}).start()
    daemon.put(HIGH | {"user_id": "old"})
    until("the first has resolved", lambda: [a for a in daemon.log() if a["status"] == "resolved"], 10)
    daemon.put(*[{"event_type": "login_failed"}] * 51)
    until("the threshold fires", lambda: [a for a in daemon.log() if a["kind"] == "threshold"])
    with daemon.ws(query={"active": "true"}) as client:
        alert = client.frame("security_alert")
        assert alert["rule"] == "high_failed_login_rate" and alert["replayed"] is True
        client.send(type="ping", id="p")
        client.frame("pong", id="p")
        assert len(client.alerts()) == 1


def test_position_before_a_ping(redis_server, make_daemon):
    """The cursor moves without a frame: a filtered client is told, so that its resume is short."""
    daemon = make_daemon(redis_server, feed={"ping_interval": "1s"}).start()
    client = daemon.ws(query={"min_severity": "critical"}).hello()
    daemon.put(HIGH)
    until("it is in the log", daemon.log)
    assert client.frame("position", timeout=5)["pos"] == daemon.log()[-1]["pos"]
    assert client.alerts() == []


def test_no_pong_closes(redis_server, make_daemon):
    daemon = make_daemon(redis_server, feed={"ping_interval": "1s", "idle_timeout": "5s"}).start()
    sock, _ = handshake(daemon)
    sock.settimeout(30)
    started = time.monotonic()
    data = b""
    try:
        while chunk := sock.recv(65536):
            data += chunk
    except OSError:
        pass
    # Silence closes, by default after 60 s, with 3012.
    assert 4 < time.monotonic() - started < 10
    assert struct.pack(">H", 3012) in data


def test_events_are_off_unless_asked_for_and_a_burst_tells_its_gap(redis_server, make_daemon):
    daemon = make_daemon(redis_server, feed={"events_rate": 50}).start()
    quiet = daemon.ws().hello()
    loud = daemon.ws(query={"events": "low"}).hello()
    daemon.put(*[{"event_type": "data.read", "details": {"n": n}} for n in range(1000)], HIGH)
    loud.frame("security_alert")
    quiet.frame("security_alert")
    loud.frame("gap", feed="events", timeout=15)
    until("each event was sent or told of", lambda: len(loud.all(type="security_event")) + sum(f["missed"] for f in loud.all(type="gap")) >= 1001, 30)
    assert len(loud.all(type="security_event")) + sum(f["missed"] for f in loud.all(type="gap", feed="events")) == 1001
    assert quiet.all(type="security_event") == [] and quiet.all(type="gap") == []


# The slow


def handshake(daemon, query="", receive_buffer=4096, token=None):
    """A raw socket behind a finished upgrade, with a small receive buffer."""
    host, port = daemon.public.removeprefix("http://").split(":")
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    sock.connect((host, int(port)))
    sock.sendall((f"GET /ws{query} HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                  f"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: auditcast.v1\r\n"
                  f"Authorization: Bearer {token or tokens.token()}\r\n\r\n").encode())  # fmt: skip
    head = b""
    while b"\r\n\r\n" not in head:
        head += sock.recv(1)
    assert head.startswith(b"HTTP/1.1 101"), head
    return sock, head


def frames_of(data):
    """(opcode, payload) of unmasked frames; what is cut off at the end is left out."""
    frames, at = [], 0
    while at + 2 <= len(data):
        opcode, size = data[at] & 15, data[at + 1] & 127
        start = at + 2
        if size == 126:
            size, start = struct.unpack(">H", data[at + 2:at + 4])[0], at + 4
        elif size == 127:
            size, start = struct.unpack(">Q", data[at + 2:at + 10])[0], at + 10
        if start + size > len(data):
            break
        frames.append((opcode, data[start:start + size]))
        at = start + size
    return frames


@pytest.mark.timeout(300)
def test_a_client_that_stops_reading(redis_server, make_daemon, long_run, figures):
    """Told, closed with 3008, memory does not grow, and 50 others see no delay."""
    seconds = 60 if long_run else 15
    daemon = make_daemon(redis_server, feed={"ring": 2000}).start()
    message = "m" * 500
    slow, _ = handshake(daemon, "?events=low")
    before = daemon.rss()
    delays, stop = [], threading.Event()
    sent = 0

    async def reader(n):
        headers = {"Authorization": f"Bearer {tokens.token(user_id=str(n // 10))}"}
        url = daemon.public.replace("http://", "ws://") + "/ws"
        async with connect_async(url, additional_headers=headers, subprotocols=["auditcast.v1"], proxy=None, ping_interval=None, open_timeout=20) as ws:
            seen = 0
            while not stop.is_set() or seen < sent:
                try:
                    frame = json.loads(await asyncio.wait_for(ws.recv(), 0.5))
                except TimeoutError:
                    continue
                if frame["type"] == "security_alert" and frame["kind"] == "event" and frame["status"] == "firing":
                    arrived = int(frame["evidence"][0].rsplit("/", 1)[1].split("-")[0]) / 1000
                    delays.append(time.time() - arrived)
                    seen += 1

    def write():
        nonlocal sent
        n = 0
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            pipe = daemon.redis.pipeline(transaction=False)
            for _ in range(20):
                pipe.xadd(STREAM, {"event_type": "data.read", "message": message})
            # Types in turn, so that none has over 100 in a slot.
            for _ in range(2):
                pipe.xadd(STREAM, {"event_type": f"attempt{n % 7}.attack_detected", "message": message})
                n += 1
            pipe.execute()
            sent = n
            stop.wait(0.05)
        stop.set()

    async def run():
        readers = [asyncio.create_task(reader(n)) for n in range(50)]
        until("all are in", lambda: daemon.metric("auditcast_connections", transport="websocket") >= 1, 10)
        while daemon.metric("auditcast_connections", transport="websocket") < 51:
            await asyncio.sleep(0.05)
        threading.Thread(target=write, daemon=True).start()
        await asyncio.wait_for(asyncio.gather(*readers), seconds + 30)

    asyncio.run(run())
    daemon.wait_metric("auditcast_disconnects_total", 1, 90, code="3008")
    grown = daemon.rss() - before
    delays.sort()
    figures(f"{sent} alerts to 50 others, delay p50 {delays[len(delays) // 2] * 1e3:.0f} ms, p99 "
            f"{delays[len(delays) * 99 // 100] * 1e3:.0f} ms, worst {delays[-1] * 1e3:.0f} ms, memory {grown / 2**20:+.1f} MiB")  # fmt: skip
    assert len(delays) == 50 * sent
    assert delays[-1] < 1.0
    assert grown < 64 * 2**20
    # It can read what was sent to it: whole frames, it was told that it lags, and it can resume from its last position.
    slow.settimeout(10)
    data = b""
    try:
        while chunk := slow.recv(1 << 20):
            data += chunk
    except OSError:
        pass
    frames = [json.loads(payload) for opcode, payload in frames_of(data) if opcode == 1]
    positions = [f["pos"] for f in frames if "pos" in f]
    with daemon.ws(query={"after": positions[-1] if positions else "earliest"}) as resumed:
        subscribed = resumed.frame("subscribed")
        assert subscribed["recovered"] is True
        alerts = [f for f in frames if f["type"] == "security_alert" and f["status"] == "firing"]
        resumed.at_least(sent - len(alerts), 60, type="security_alert", status="firing")
        every = [f["pos"] for f in alerts + resumed.alerts(status="firing")]
        assert len(every) == len(set(every)) == sent


# Server-Sent Events


def test_server_sent_events(daemon):
    headers = {"Authorization": f"Bearer {daemon.admin}"}
    with httpx.stream("GET", f"{daemon.public}/api/v1/stream", headers=headers, timeout=20, trust_env=False) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["x-accel-buffering"] == "no"
        lines = answer.iter_lines()
        first = next(lines)
        assert first, "first byte at once"
        daemon.put(HIGH | {"user_id": "s1"}, HIGH | {"user_id": "s2"})
        event, ident, alerts = None, None, []
        for line in lines:
            if line.startswith("event:"):
                event = line[6:].strip()
            elif line.startswith("id:"):
                ident = line[3:].strip()
            elif line.startswith("data:") and event == "security_alert":
                alerts.append(json.loads(line[5:]))
                assert alerts[-1]["pos"] == ident
                if len(alerts) == 2:
                    break
    # Last-Event-ID wins over after.
    with httpx.stream("GET", f"{daemon.public}/api/v1/stream?after=earliest", headers=headers | {"Last-Event-ID": alerts[0]["pos"]}, timeout=20,
                      trust_env=False) as answer:  # fmt: skip
        for line in answer.iter_lines():
            if line.startswith("data:") and '"security_alert"' in line:
                assert json.loads(line[5:])["user_id"] == "s2"
                break


def test_server_sent_events_are_refused_over_http(redis_daemon):
    for token, status in (("bad", 401), (tokens.token(**OBSERVER), 403)):
        answer = httpx.get(f"{redis_daemon.public}/api/v1/stream", headers={"Authorization": f"Bearer {token}"}, trust_env=False)
        assert answer.status_code == status


def test_two_nodes_give_one_feed(redis_server, make_daemon):
    """A position of one node means the same on the other."""
    nodes = [make_daemon(redis_server, name=name).start() for name in ("first", "second")]
    clients = [Client(node.public).hello() for node in nodes]
    nodes[0].put(*[HIGH | {"user_id": str(n)} for n in range(10)])
    seen = [[(f["pos"], f["alert_id"]) for f in c.at_least(10, type="security_alert")] for c in clients]
    assert seen[0] == seen[1]
    with nodes[1].ws(query={"after": seen[0][4][0]}) as resumed:
        assert [(f["pos"], f["alert_id"]) for f in resumed.at_least(5, type="security_alert")] == seen[0][5:]


def test_lost_events_that_cannot_be_told_yet_hold_nobody_up(redis_server, make_daemon):
    """A viewer loses live events and subscribes anew while the store does not answer: the node rests all the same."""
    daemon = make_daemon(redis_server, feed={"events_rate": 5}).start()
    client = daemon.ws(query={"events": "low"}).hello()
    client.frame("subscribed")
    stop = threading.Event()

    def write():
        own = redis_server.client()
        while not stop.is_set():
            own.xadd(STREAM, {"event_type": "data.read"})
            time.sleep(0.005)

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    try:
        # Twice, so that there is a moment before which the next loss is not told.
        until("losses are told", lambda: len(client.all(type="gap", feed="events")) >= 2, 15)
        redis_server.send_signal(signal.SIGSTOP)
        for n in range(2):
            client.send(type="subscribe", id=f"s{n}", after="earliest", events="low")
        time.sleep(1.5)  # past that moment
        before = daemon.cpu_seconds()
        time.sleep(2)
        used = daemon.cpu_seconds() - before
        assert used < 1, f"{used} s of CPU in 2 s without anything to do"
    finally:
        redis_server.send_signal(signal.SIGCONT)
        stop.set()
    writer.join(10)
    client.frame("subscribed", id="s0")
    daemon.put(HIGH)
    client.frame("security_alert")
