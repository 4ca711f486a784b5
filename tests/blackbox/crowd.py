"""A crowd of WebSocket clients in one thread, by hand: a library's client costs more than what is measured here."""

import json
import selectors
import socket
import time
from urllib.parse import urlsplit


class Member:
    """One connection: what came is kept as frames (opcode, payload)."""

    def __init__(self, address, token):
        self.token = token
        self.socket = socket.create_connection(address, 10)
        request = (f"GET /ws HTTP/1.1\r\nHost: {address[0]}:{address[1]}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                   f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAECAwQFBgcICQoLDA0ODw==\r\nSec-WebSocket-Protocol: auditcast.v1\r\n"
                   f"Authorization: Bearer {token}\r\n\r\n")  # fmt: skip
        self.socket.sendall(request.encode())
        self.bytes = b""
        self.head = None
        self.frames = []
        self.code = None
        self.reason = ""
        self.closed_at = None
        self.ended = False

    def say(self, **frame):
        """A text frame under the mask 0."""
        payload = json.dumps(frame).encode()
        assert len(payload) < 126
        self.socket.sendall(bytes([0x81, 0x80 | len(payload), 0, 0, 0, 0]) + payload)

    def read(self):
        try:
            data = self.socket.recv(65536)
        except ConnectionError:
            data = b""
        if not data:
            self.ended = True
        self.bytes += data
        if self.head is None:
            head, end, rest = self.bytes.partition(b"\r\n\r\n")
            if not end:
                return
            assert head.startswith(b"HTTP/1.1 101"), self.bytes[:400]
            self.head, self.bytes = head, rest
        while len(self.bytes) >= 2:
            size, start = self.bytes[1], 2
            if size == 126:
                size, start = int.from_bytes(self.bytes[2:4], "big"), 4
            assert size != 127
            if len(self.bytes) < start + size:
                return
            opcode, payload, self.bytes = self.bytes[0] & 15, self.bytes[start:start + size], self.bytes[start + size:]
            if opcode == 8:
                self.closed_at = time.monotonic()
                self.code, self.reason = int.from_bytes(payload[:2], "big"), payload[2:].decode()
                # As RFC 6455 wants it: the same back, and the server closes.
                self.socket.sendall(bytes([0x88, 0x82, 0, 0, 0, 0]) + payload[:2])
            self.frames.append((opcode, payload))

    def texts(self):
        return [json.loads(payload) for opcode, payload in self.frames if opcode == 1]


class Crowd:
    """As many members as tokens, all in when this returns."""

    def __init__(self, daemon, all_tokens, at_once=200):
        url = urlsplit(daemon.public)
        self.selector = selectors.DefaultSelector()
        self.members = []
        for start in range(0, len(all_tokens), at_once):
            part = [Member((url.hostname, url.port), token) for token in all_tokens[start:start + at_once]]
            for member in part:
                self.selector.register(member.socket, selectors.EVENT_READ, member)
            self.members += part
            self.until("they are subscribed", lambda part=part: all(len(m.frames) >= 2 for m in part))

    def turn(self, seconds):
        for key, _ in self.selector.select(seconds):
            key.data.read()
            if key.data.ended:
                self.selector.unregister(key.data.socket)

    def until(self, what, check, timeout=30):
        deadline = time.monotonic() + timeout
        while not check():
            assert time.monotonic() < deadline, f"not within {timeout} s: {what}"
            self.turn(0.05)

    def leave(self):
        for member in self.members:
            member.socket.close()
        self.selector.close()
