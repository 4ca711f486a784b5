"""What somebody who wants to stop the daemon would send, as a process of its own: `flood.py KIND HOST PORT SECONDS COUNT SEED`.

Ends by itself, and prints what it saw as one line of JSON: statuses of HTTP answers, close codes, how much of what was done.
"""

import asyncio
import json
import random
import re
import resource
import struct
import sys
import time
from collections import Counter

import tokens

KIND, HOST, PORT, SECONDS, COUNT, SEED = sys.argv[1:7]
PORT, SECONDS, COUNT = int(PORT), float(SECONDS), int(COUNT)
END = time.monotonic() + SECONDS
SAW = Counter()
HANDSHAKE = ("GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
             "Sec-WebSocket-Key: AAECAwQFBgcICQoLDA0ODw==\r\nSec-WebSocket-Protocol: auditcast.v1\r\n")  # fmt: skip
PATHS = ["/", "/ws", "/livez", "/readyz", "/openapi.json", "/metrics", "/api/v1/alerts", "/api/v1/alerts/x", "/api/v1/stream",
         "/api/v1/metrics/current", "/api/v1/metrics/history", "/api/v1/events", "/api/v1/connections",
         "/api/v1/connections/disconnect", "/api/v1/auth/login", "/api/v1/auth/refresh", "/api/v1/auth/logout"]  # fmt: skip


def bearer(name):
    """A good token, another one each time: one of the requests signs its bearer out."""
    return f"Authorization: Bearer {tokens.token(user_id=f'mallory-{name}')}"


def left():
    return END - time.monotonic()


async def connected():
    return await asyncio.wait_for(asyncio.open_connection(HOST, PORT), 10)


def ended(writer):
    writer.transport.abort()


def answer(head):
    match = re.match(rb"HTTP/1\.[01] (\d{3})", head)
    SAW[f"status {match[1].decode()}" if match else "no answer"] += 1
    return match and int(match[1])


async def slow_heads(_):
    """A head that never ends, a byte at a time."""
    while left() > 0:
        try:
            reader, writer = await connected()
            SAW["begun"] += 1
            for byte in HANDSHAKE.encode() * 100:
                writer.write(bytes([byte]))
                await writer.drain()
                if left() <= 0:
                    break
                await asyncio.sleep(0.2)
            ended(writer)
        except (OSError, asyncio.TimeoutError):
            SAW["ended by the other side"] += 1


async def half_open(number):
    """A connection on which nothing is said."""
    while left() > 0:
        try:
            reader, writer = await connected()
            SAW["begun"] += 1
            while left() > 0:
                if not await asyncio.wait_for(reader.read(1000), max(left(), 0.01)):
                    SAW["ended by the other side"] += 1
                    break
            ended(writer)
        except (OSError, asyncio.TimeoutError):
            pass


async def attempts(number):
    """COUNT connections a second: nothing, garbage, or a handshake without a token."""
    start, made, chance = time.monotonic(), 0, random.Random(int(SEED) + number)
    # 20 of these share the rate.
    while left() > 0:
        ahead = start + made * 20 / COUNT - time.monotonic()
        if ahead > 0:
            await asyncio.sleep(ahead)
        made += 1
        SAW["begun"] += 1
        asyncio.ensure_future(attempt(chance.randrange(3)))


async def attempt(kind):
    try:
        reader, writer = await connected()
        if kind == 1:
            writer.write(b"\x16\x03\x01 garbage\r\n\r\n")
        elif kind == 2:
            writer.write((HANDSHAKE + "Authorization: Bearer a.b.c\r\n\r\n").encode())
            answer(await asyncio.wait_for(reader.read(64), 10))
        ended(writer)
    except (OSError, asyncio.TimeoutError):
        SAW["not connected"] += 1


def frame(chance):
    """A frame of any size and kind, whole or not, masked or not."""
    opcode = chance.choice([0, 1, 1, 1, 2, 8, 9, 10, chance.randrange(16)])
    first = (0x80 if chance.random() < 0.8 else 0) | (chance.randrange(8) << 4 if chance.random() < 0.1 else 0) | opcode
    text = chance.choice([
        b'{"type":"ping","id":1}', b'{"type":"subscribe","min_severity":"high"}', b'{"type":"subscribe","types":["*"],"events":"low"}',
        b'{"type":"auth","token":"a.b.c"}', b'{"type":"refresh","token":"a.b.c"}', b'{"type":1}', b"[" * 2000, b"{}", b"\xff\xfe",
        chance.randbytes(chance.choice([0, 1, 10, 125, 126, 127, 1000])), b"x" * chance.choice([16_384, 16_385, 65_535, 65_536, 100_000]),
    ])  # fmt: skip
    if opcode >= 8 and chance.random() < 0.8:
        text = text[:125]
    size = len(text) if chance.random() < 0.95 else chance.choice([0, 1, 2**31, 2**63, 2**64 - 1])
    masked = 0x80 if chance.random() < 0.95 else 0
    if size < 126:
        head = bytes([first, masked | size])
    elif size < 65_536:
        head = bytes([first, masked | 126]) + struct.pack(">H", size)
    else:
        head = bytes([first, masked | 127]) + struct.pack(">Q", size)
    key = chance.randbytes(4) if masked else b""
    if masked:
        text = bytes(b ^ k for b, k in zip(text, key * (len(text) // 4 + 1)))
    whole = head + key + text
    return whole if chance.random() < 0.95 else whole[: chance.randrange(len(whole) + 1)]


async def frames(number):
    """Somebody with a good token who sends what nobody should."""
    chance = random.Random(f"{SEED} frames {number}")
    while left() > 0:
        try:
            reader, writer = await connected()
            writer.write(f"{HANDSHAKE}{bearer(number)}\r\n\r\n".encode())
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
            if answer(head) == 101:
                for _ in range(chance.randrange(1, 40)):
                    writer.write(frame(chance))
                    SAW["frames"] += 1
                    if left() <= 0:
                        break
                    await asyncio.wait_for(writer.drain(), 5)
                    await asyncio.sleep(0)
                try:
                    await asyncio.wait_for(reader.read(100_000), 0.05)
                except asyncio.TimeoutError:
                    pass
            ended(writer)
        except (OSError, asyncio.TimeoutError, asyncio.IncompleteReadError):
            SAW["ended by the other side"] += 1


def request(chance):
    """A request that is almost right, or not at all."""
    if chance.random() < 0.1:
        return chance.randbytes(chance.randrange(1, 3000))
    path = chance.choice(PATHS)
    if chance.random() < 0.5:
        names = ["after", "limit", "order", "status", "since", "min_severity", "types", "active", "token", "exclude", "%ff", "x"]
        values = ["", "0", "-1", "1", "99999999999999999999", "earliest", "7-00c0ffee", "%00", "%f0%28", "*" * 300, "true", "high"]
        path += "?" + "&".join(f"{chance.choice(names)}={chance.choice(values)}" for _ in range(chance.randrange(1, 4)))
    method = chance.choice(["GET", "GET", "POST", "POST", "DELETE", "PUT", "HEAD", "OPTIONS", "TRACE", "PATCH", "get", "X" * 40])
    body = chance.choice([b"", b"{}", b"[]", b"null", b"{", b"[" * 5000, b'{"event_type":"x.y"}', b'{"event_type":1}', b'{"username":"a","password":"b"}',
                          b'{"refresh_token":"x"}', b"\x00" * 100, chance.randbytes(200), b'[{"event_type":"a"},5]', b'{"user_id":"nobody"}'])  # fmt: skip
    kind = chance.choice(["application/json", "application/x-ndjson", "text/plain", "", "application/json; charset=utf-8"])
    headers = [f"Host: {chance.choice(['x', 'x', '', '[::1]', 'a b'])}", bearer("requests") if chance.random() < 0.7 else "X: y"]
    headers += [f"Content-Type: {kind}"] if kind else []
    length = chance.choice([len(body)] * 12 + [0, len(body) + 1, 2**40, -1])
    headers += [chance.choice([f"Content-Length: {length}"] * 9 + ["Transfer-Encoding: chunked", "Content-Length: 1\r\nContent-Length: 2"])]
    headers += [chance.choice(["Cookie: __Host-auditcast=x", "Origin: null", "X-Forwarded-For: 1.2.3.4", "Expect: 100-continue", "Connection: close",
                               "Upgrade: websocket", "Range: bytes=0-1", "X-Long: " + "y" * chance.choice([10, 9000, 40_000])])]  # fmt: skip
    version = chance.choice(["HTTP/1.1"] * 8 + ["HTTP/1.0", "HTTP/2.0", "HTTP/9"])
    return f"{method} {path} {version}\r\n".encode() + "\r\n".join(headers).encode() + b"\r\n\r\n" + body


async def requests(number):
    chance = random.Random(f"{SEED} requests {number}")
    while left() > 0:
        try:
            reader, writer = await connected()
            writer.write(request(chance))
            SAW["requests"] += 1
            await asyncio.wait_for(writer.drain(), 5)
            if chance.random() < 0.5:
                writer.write_eof()
            try:
                answer(await asyncio.wait_for(reader.read(64), 0.5))
            except asyncio.TimeoutError:
                SAW["waited for"] += 1
            ended(writer)
        except (OSError, asyncio.TimeoutError):
            SAW["ended by the other side"] += 1


async def main():
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    kinds = {"slow_heads": (slow_heads, COUNT), "half_open": (half_open, COUNT), "attempts": (attempts, 20),
             "fuzz": (None, COUNT)}  # fmt: skip
    work, number = kinds[KIND]
    tasks = [(frames if n % 2 else requests)(n) if work is None else work(n) for n in range(number)]
    await asyncio.gather(*tasks)
    print(json.dumps(SAW))


asyncio.run(main())
