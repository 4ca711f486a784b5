"""SIGTERM: every client is told, spread out, and resumes without a loss (contract §5, architecture "Stopping")."""

import asyncio
import json
import signal
import time

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

import tokens
from wait import until

CLIENTS = 200


async def follow(base, token, frames, connected):
    """One client until the close; gives the close code and when it came."""
    options = {"additional_headers": {"Authorization": f"Bearer {token}"}, "subprotocols": ["auditcast.v1"], "proxy": None,
               "ping_interval": None, "open_timeout": 20, "compression": None}  # fmt: skip
    async with connect(base.replace("http://", "ws://") + "/ws", **options) as socket:
        try:
            while True:
                frame = json.loads(await socket.recv())
                frames.append(frame)
                if frame["type"] == "subscribed":
                    connected()
        except ConnectionClosed as closed:
            return (closed.rcvd.code if closed.rcvd else 1006), time.monotonic()


def test_200_clients(store, make_daemon):
    daemon = make_daemon(store, feed={"drain_window": "3s"}, limits={"connections_per_user": 20}).start()
    heard = [[] for _ in range(CLIENTS)]

    async def run():
        count = 0
        everybody = asyncio.Event()

        def connected():
            nonlocal count
            count += 1
            if count == CLIENTS:
                everybody.set()

        tasks = [asyncio.create_task(follow(daemon.public, tokens.token(user_id=str(n // 10)), heard[n], connected)) for n in range(CLIENTS)]
        await asyncio.wait_for(everybody.wait(), 60)
        assert daemon.metric("auditcast_connections", transport="websocket") == CLIENTS
        await asyncio.to_thread(daemon.put, {"event_type": "security.injection_attempt", "user_id": "1"})
        stopped = time.monotonic()
        daemon.send_signal(signal.SIGTERM)
        return stopped, await asyncio.wait_for(asyncio.gather(*tasks), 30)

    stopped, ends = asyncio.run(run())
    code = daemon.stop(None)
    assert code == 0, daemon.stderr()[-2000:]
    # §5: each gets `bye`, then the close frame; 3001 is reconnect.
    byes = [[f for f in frames if f["type"] == "bye"] for frames in heard]
    assert all(len(b) == 1 for b in byes), [len(b) for b in byes]
    assert {b[0]["code"] for b in byes} == {3001} and all(b[0]["reconnect"] is True for b in byes)
    assert {c for c, _ in ends} == {3001}
    retries = sorted(b[0]["retry_in_ms"] for b in byes)
    assert len(set(retries)) > CLIENTS // 4, "spread out"
    assert retries[-1] - retries[0] > 1000 and retries[-1] <= 60_000
    assert max(at for _, at in ends) - stopped < 3 + 10
    # Nothing lost for those who resume: the event put before the signal is there for each, before or after.
    daemon.start()
    until("the alert is in the log", lambda: daemon.log(), 10)
    for frames in heard[::20]:
        if any(f["type"] == "security_alert" for f in frames):
            continue
        head = next(f for f in frames if f["type"] == "subscribed")["head"]
        pos = next((f["pos"] for f in reversed(frames) if "pos" in f), head)
        with daemon.ws(query={"after": pos}) as client:
            assert client.frame("subscribed")["recovered"] is True
            assert client.frame("security_alert")["event_type"] == "security.injection_attempt"
    assert len(daemon.log()) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_ends_clean_and_gives_the_lease_back(redis_server, make_daemon, number):
    first = make_daemon(redis_server, name="first", store={"lease_ttl": "20s"}).start()
    second = make_daemon(redis_server, name="second", store={"lease_ttl": "20s"}).start()
    assert first.metric("auditcast_active") == 1 and second.metric("auditcast_active") == 0
    assert first.stop(number) == 0
    # The lease was given back, its end was not waited for.
    second.wait_metric("auditcast_active", 1, 15)


def test_not_ready_while_it_drains(redis_daemon):
    with redis_daemon.ws():
        redis_daemon.send_signal(signal.SIGTERM)

        def not_ready():
            try:
                return redis_daemon.get_ops("/readyz").status_code == 503
            except Exception:  # noqa: BLE001: it has ended already, which is not ready either
                return True

        until("/readyz is 503 or gone", not_ready, 5)
    assert redis_daemon.stop(None) == 0
