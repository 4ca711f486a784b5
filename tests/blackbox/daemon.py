"""Starts `auditcast serve` as a user would, and asks it from outside: command line, listeners, nothing else."""

import json
import os
import re
import signal
import subprocess
import threading
import time
from pathlib import Path

import httpx

import tokens
from client import Client
from wait import until

REPOSITORY = Path(__file__).resolve().parents[2]
BINARY = Path(os.environ.get("AUDITCAST_BINARY", REPOSITORY / "target/debug/auditcast"))
STREAM = "audit:events"

#: Short times, so that a test need not wait for what the contract leaves to configuration.
DEFAULTS = {
    "store": {"lease_ttl": "1500ms"},
    "listen": {"public": "127.0.0.1:0", "ops": "127.0.0.1:0"},
    "monitor": {"interval": "200ms", "max_source_lag": "1s"},
    # Tests count events: what the daemon says about itself is the subject of tests of its own.
    "journal": {"enabled": False},
    "source": [{"name": "app", "kind": "stream", "streams": [STREAM], "start": "earliest"}],
}


def merge(base, over):
    if not (isinstance(base, dict) and isinstance(over, dict)):
        return over
    merged = dict(base)
    for key, value in over.items():
        merged[key] = merge(base[key], value) if key in base else value
    return merged


def toml(value, path=()):
    """TOML of nested dicts, and lists of dicts (`[[…]]`)."""
    if not path or isinstance(value, dict):
        plain = {k: v for k, v in value.items() if not isinstance(v, dict) and not (isinstance(v, list) and v and isinstance(v[0], dict))}
        lines = [f"[{'.'.join(path)}]"] if path else []
        lines += [f"{json.dumps(k) if not re.fullmatch(r'[A-Za-z0-9_-]+', k) else k} = {json.dumps(v)}" for k, v in plain.items()]
        for key, inner in value.items():
            if isinstance(inner, dict):
                lines.append(toml(inner, (*path, key)))
            elif isinstance(inner, list) and inner and isinstance(inner[0], dict):
                for item in inner:
                    lines.append(toml(item, (*path, key)).replace(f"[{'.'.join((*path, key))}]", f"[[{'.'.join((*path, key))}]]", 1))
        return "\n".join(lines) + "\n"
    raise TypeError(value)


class Daemon:
    """One node. `config` is laid over `DEFAULTS`; `store` is a URL."""

    def __init__(self, directory, store, /, env=None, name="node", **config):
        self.directory = Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        self.name = name
        self.store = store
        self.config = merge(merge(DEFAULTS, {"store": {"url": store}}), config)
        self.config_path = self.directory / f"{name}.toml"
        self.stderr_path = self.directory / f"{name}.stderr"
        self.extra_env = env or {}
        self.process = None
        self.stdout = []
        self.lines = threading.Condition()
        self.public = self.ops = None
        self.http = httpx.Client(timeout=10, trust_env=False)
        self.admin = tokens.token()

    @property
    def embedded(self):
        return self.store.startswith("embedded:")

    def env(self):
        env = {"PATH": os.environ["PATH"], "HOME": str(self.directory), "JWT_SECRET_KEY": tokens.SECRET, "RUST_BACKTRACE": "1",
               "RATE_LIMIT_GENERAL": "1000000"} | self.extra_env  # fmt: skip
        return {k: v for k, v in env.items() if v is not None}

    def launch(self):
        """Starts the process without waiting for anything."""
        assert self.process is None
        assert BINARY.exists(), f"{BINARY} is not built"
        self.config_path.write_text(toml(self.config))
        self.stdout = []
        self.public = self.ops = None
        errors = open(self.stderr_path, "ab")
        self.process = subprocess.Popen([BINARY, "serve", "--config", self.config_path], cwd=self.directory, env=self.env(),
                                        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, text=True)  # fmt: skip
        errors.close()
        threading.Thread(target=self._read_stdout, args=(self.process,), daemon=True).start()
        return self

    def _read_stdout(self, process):
        for line in process.stdout:
            with self.lines:
                self.stdout.append(line.rstrip("\n"))
                self.lines.notify_all()
        with self.lines:
            self.lines.notify_all()

    def line(self, start, timeout=15):
        """What follows `start` on stdout, waited for (contract §1)."""
        deadline = time.monotonic() + timeout
        with self.lines:
            while True:
                for line in self.stdout:
                    if line.startswith(start):
                        return line[len(start):]
                left = deadline - time.monotonic()
                if left <= 0 or self.process.poll() is not None and not self.lines.wait(0.2):
                    raise AssertionError(f"no line `{start}` on stdout: {self.stdout}; exit {self.process.poll()}; stderr: {self.stderr()[-3000:]}")
                self.lines.wait(min(left, 0.2))

    def listening(self, timeout=15):
        self.public = self.line("listening public=", timeout)
        self.ops = self.line("listening ops=", timeout)
        return self

    def start(self, timeout=20, readyz=True):
        self.launch().listening(timeout)
        self.line("ready", timeout)
        if readyz:
            try:
                until(f"{self.name} is ready", self.ready, timeout)
            except AssertionError as error:
                raise AssertionError(f"{error}; /readyz says {self.get_ops('/readyz').text}") from None
        return self

    # The process

    def stderr(self):
        return self.stderr_path.read_text(errors="replace") if self.stderr_path.exists() else ""

    def send_signal(self, number):
        self.process.send_signal(number)

    def stop(self, number=signal.SIGTERM, timeout=20):
        """The exit code; panics anywhere on the way fail the test. `number` None: it has been told already."""
        if self.process is None:
            return None
        if self.process.poll() is None and number is not None:
            self.process.send_signal(signal.SIGCONT)
            self.process.send_signal(number)
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(5)
            self.process = None
            raise AssertionError(f"{self.name} did not end within {timeout} s of signal {number}; stderr: {self.stderr()[-3000:]}") from None
        self.process = None
        self.no_panic()
        return code

    def kill(self):
        self.stop(signal.SIGKILL)

    def restart(self, number=signal.SIGTERM):
        self.stop(number)
        return self.start()

    def no_panic(self):
        text = self.stderr()
        assert "panicked at" not in text, text[max(0, text.find("panicked at") - 300):][:3000]

    def rss(self):
        """Resident memory, bytes."""
        with open(f"/proc/{self.process.pid}/status") as status:
            return int(re.search(r"VmRSS:\s+(\d+) kB", status.read())[1]) * 1024

    def cpu_seconds(self):
        """What the process has used, of all cores."""
        with open(f"/proc/{self.process.pid}/stat") as stat:
            fields = stat.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    # Asking

    def get_ops(self, path):
        return self.http.get(self.ops + path)

    def api(self, path, method="GET", token=None, **options):
        headers = options.pop("headers", {})
        if token is not False:
            headers = {"Authorization": f"Bearer {token or self.admin}"} | headers
        return self.http.request(method, f"{self.public}/api/v1{path}", headers=headers, **options)

    def ws(self, token=None, how="header", **options):
        return Client(self.public, token if token is not None else self.admin, how, **options)

    def metrics(self):
        """`/metrics` as {name: [(labels, value)]}."""
        found = {}
        for line in self.get_ops("/metrics").text.splitlines():
            if line and not line.startswith("#"):
                match = re.fullmatch(r'([A-Za-z_:][\w:]*)(?:\{(.*)\})? (\S+)', line)
                assert match, line
                labels = dict(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', match[2] or ""))
                found.setdefault(match[1], []).append((labels, float(match[3])))
        return found

    def metric(self, name, **labels):
        """The sum over series with these labels; None where there is no such series."""
        values = [value for have, value in self.metrics().get(name, []) if all(have.get(k) == v for k, v in labels.items())]
        return sum(values) if values else None

    def wait_metric(self, name, check, timeout=10, **labels):
        wanted = check if callable(check) else (lambda value: value == check)
        seen = []

        def reached():
            seen[:] = [self.metric(name, **labels)]
            return seen[0] is not None and wanted(seen[0])

        try:
            until(f"{name}{labels or ''} on {self.name}", reached, timeout)
        except AssertionError as error:
            raise AssertionError(f"{error}; value: {seen}") from None
        return seen[0]

    def slots(self, count=2, timeout=10):
        """Waits until so many further slots were closed: what could have happened by now has."""
        before = self.metric("auditcast_slots_closed_total")
        self.wait_metric("auditcast_slots_closed_total", lambda now: now >= before + count, timeout)

    def current(self):
        return self.api("/metrics/current").raise_for_status().json()

    def scalar(self, name):
        return self.current()["metrics"].get(name)

    def wait_scalar(self, name, value, timeout=10):
        check = value if callable(value) else (lambda now: now == value)
        seen = []

        def reached():
            seen[:] = [self.scalar(name)]
            return check(seen[0])

        try:
            until(f"{name} is {value} on {self.name}", reached, timeout)
        except AssertionError as error:
            raise AssertionError(f"{error}; value: {seen}") from None
        return seen[0]

    def log(self, **params):
        """The whole alert log by `GET /alerts`, page by page (contract §7)."""
        frames, after = [], None
        while True:
            answer = self.api("/alerts", params=params | ({"after": after} if after else {})).raise_for_status().json()
            frames += answer["alerts"]
            if not answer.get("next") or not answer["alerts"]:
                return frames
            after = answer["next"]

    def ready(self, exclude=None):
        return self.get_ops("/readyz" + (f"?exclude={exclude}" if exclude else "")).status_code == 200

    # Events in

    def put(self, *events, stream=STREAM):
        """Events into the store: XADD of flat fields, or the HTTP intake where there is no Redis. Gives the ids."""
        if not self.embedded:
            pipe = self.redis.pipeline(transaction=False)
            for event in events:
                pipe.xadd(stream, {k: v if isinstance(v, str) else json.dumps(v) for k, v in event.items()})
            return pipe.execute()
        ids = []
        for start in range(0, len(events), 100):
            answer = self.api("/events", "POST", json=list(events[start:start + 100]))
            assert answer.status_code == 200, answer.text
            assert not answer.json()["rejected"], answer.text
            ids += answer.json()["ids"]
        return ids

    redis = None
