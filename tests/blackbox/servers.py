"""Real servers of the tests' own, on free ports, in their own folders, on 127.0.0.1."""

import os
import shutil
import signal
import socket
import subprocess
import threading

import redis

from wait import until


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class RedisServer:
    """A redis-server that is ours alone: it can be stopped, killed, frozen and started again on its data."""

    def __init__(self, directory, binary=None, password=None, durable=True, save=True, port=None):
        self.directory = directory
        os.makedirs(directory, exist_ok=True)
        self.binary = binary or shutil.which("redis-server")
        assert self.binary, "there is no redis-server on this machine; tests/run install brings it"
        self.password = password
        self.port = port or free_port()
        self.durable = durable
        self.save = save
        self.process = None

    @property
    def url(self):
        auth = f":{self.password}@" if self.password else ""
        return f"redis://{auth}127.0.0.1:{self.port}/0"

    def start(self, wait=True, extra=()):
        assert self.process is None
        arguments = [
            self.binary, "--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(self.directory),
            "--save", "", "--appendonly", "yes" if self.durable else "no", "--appendfsync", "always",
            "--repl-diskless-sync-delay", "0",
        ]  # fmt: skip
        if self.password:
            arguments += ["--requirepass", self.password, "--masterauth", self.password]
        log = open(os.path.join(self.directory, "redis.log"), "ab")
        self.process = subprocess.Popen([*arguments, *extra], stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        log.close()
        if wait:
            until(f"redis-server answers on {self.port}", lambda: self.client().ping(), 15)
        return self

    def client(self, **options):
        options = {"decode_responses": True, "socket_timeout": 10, "password": self.password} | options
        return redis.Redis(host="127.0.0.1", port=self.port, **options)

    def send_signal(self, number):
        self.process.send_signal(number)

    def stop(self, number=signal.SIGTERM):
        if self.process is None:
            return
        self.process.send_signal(signal.SIGCONT)
        self.process.send_signal(number)
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(5)
        self.process = None

    def kill(self):
        self.stop(signal.SIGKILL)

    def restart(self, number=signal.SIGTERM):
        self.stop(number)
        self.start()


class Switch:
    """A TCP forwarder whose target can be changed or cut: stands for the address that moves at a failover."""

    def __init__(self, target_port):
        self.target = target_port
        self.pairs = set()
        self.lock = threading.Lock()
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = self.listener.getsockname()[1]
        self.open = True
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while self.open:
            try:
                near, _ = self.listener.accept()
            except OSError:
                return
            if self.target is None:
                near.close()
                continue
            try:
                far = socket.create_connection(("127.0.0.1", self.target), 2)
                far.settimeout(None)
            except OSError:
                near.close()
                continue
            with self.lock:
                self.pairs.add((near, far))
            for one, other in ((near, far), (far, near)):
                threading.Thread(target=self._copy, args=(one, other), daemon=True).start()

    def _copy(self, one, other):
        try:
            while data := one.recv(65536):
                other.sendall(data)
        except OSError:
            pass
        for s in (one, other):
            try:
                s.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def cut(self):
        """Ends every connection."""
        with self.lock:
            pairs, self.pairs = self.pairs, set()
        for pair in pairs:
            for s in pair:
                try:
                    s.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass
                s.close()

    def switch(self, target_port):
        self.target = target_port
        self.cut()

    def close(self):
        self.open = False
        self.listener.close()
        self.cut()
