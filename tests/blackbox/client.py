"""An independent WebSocket client of the feed (contract §5): one thread reads, everything that came is kept in order."""

import asyncio
import json
import threading
import time
from urllib.parse import urlencode

from websockets.asyncio.client import connect as connect_asyncio
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

import tokens

PROTOCOL = "auditcast.v1"


class OverTls:
    """The same calls, on one thread for all connections: the other client reads with one thread and writes with another, and before
    3.13 Python loses bytes of a TLS socket that is used like that."""

    loop = None

    def __init__(self, url, **options):
        if OverTls.loop is None:
            OverTls.loop = asyncio.new_event_loop()
            threading.Thread(target=OverTls.loop.run_forever, daemon=True).start()
        del options["legacy"]

        async def connecting():
            return await connect_asyncio(url, **options)

        self.connection = self._wait(connecting())

    @staticmethod
    def _wait(coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, OverTls.loop).result()

    def recv(self):
        return self._wait(self.connection.recv())

    def send(self, text):
        self._wait(self.connection.send(text))

    def close(self):
        self._wait(self.connection.close())


class Client:
    """Connects at once. A refusal over HTTP raises `websockets.exceptions.InvalidStatus`."""

    def __init__(self, base, token=None, how="header", query=None, origin=None, protocols=(PROTOCOL,), headers=None, **options):  # fmt: skip
        headers = dict(headers or {})
        protocols = list(protocols or ())
        if token is None and how is not None:
            token = tokens.token()
        if how == "header":
            headers["Authorization"] = f"Bearer {token}"
        elif how == "subprotocol":
            protocols.append(f"auditcast.token.{token}")
        elif how == "cookie":
            headers["Cookie"] = f"__Host-auditcast={token}"
        elif how == "query":
            query = dict(query or {}) | {"token": token}
        url = base.replace("http://", "ws://") + "/ws" + (f"?{urlencode(query)}" if query else "")
        options = {"open_timeout": 10, "close_timeout": 2, "max_size": 2**24, "compression": None, "proxy": None,
                   "ping_interval": None, "legacy": True} | options  # fmt: skip
        self.frames = []
        self.times = []
        self.code = None
        self.reason = None
        self.error = None
        self.changed = threading.Condition()
        opening = OverTls if "ssl" in options else connect
        self.socket = opening(url, origin=origin, subprotocols=protocols or None, additional_headers=headers, **options)
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()
        if how == "frame":
            try:
                self.send(type="auth", token=token)
            except ConnectionClosed:
                # Refused before the token was there; `closed` tells why.
                pass

    def _read(self):
        try:
            while True:
                frame = json.loads(self.socket.recv())
                with self.changed:
                    self.frames.append(frame)
                    self.times.append(time.time())
                    self.changed.notify_all()
        except ConnectionClosed as closed:
            close = closed.rcvd or closed.sent
            with self.changed:
                self.code = close.code if closed.rcvd else 1006
                self.reason = close.reason if closed.rcvd else ""
                self.changed.notify_all()
        except Exception as error:  # noqa: BLE001: shown by the test that waits
            with self.changed:
                self.error = error
                self.code = 1006
                self.reason = repr(error)
                self.changed.notify_all()

    def send(self, **frame):
        self.socket.send(json.dumps(frame))

    def _wait(self, what, check, timeout):
        deadline = time.monotonic() + timeout
        with self.changed:
            while True:
                value = check()
                if value:
                    return value
                left = deadline - time.monotonic()
                if left <= 0 or (self.code is not None and not check()):
                    raise AssertionError(f"{what}: not within {timeout} s; closed: {self.code} {self.reason!r}; frames: {self.frames[-8:]}")
                self.changed.wait(min(left, 0.2))

    def frame(self, type=None, timeout=10, **members):  # noqa: A002: the member's name
        """The first frame with these members, waited for."""
        wanted = members | ({"type": type} if type else {})
        return self._wait(f"frame {wanted}", lambda: next(iter(self.all(**wanted)), None), timeout)

    def at_least(self, count, timeout=10, **wanted):
        return self._wait(f"{count} frames {wanted}", lambda: (self.all(**wanted) if len(self.all(**wanted)) >= count else None), timeout)

    def all(self, **wanted):
        return [f for f in list(self.frames) if all(f.get(k) == v for k, v in wanted.items())]

    def alerts(self, **wanted):
        return self.all(type="security_alert", **wanted)

    def closed(self, code=None, timeout=10):
        """(code, reason) of the server's close frame, waited for."""
        self._wait("close frame", lambda: self.code is not None, timeout)
        if code is not None:
            assert self.code == code, f"closed with {self.code} {self.reason!r}, expected {code}; frames: {self.frames[-4:]}"
        return self.code, self.reason

    def hello(self):
        self.frame("hello")
        self.frame("subscribed")
        return self

    @property
    def last_pos(self):
        return next((f["pos"] for f in reversed(list(self.frames)) if "pos" in f), None)

    def close(self):
        self.socket.close()
        self.thread.join(5)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
