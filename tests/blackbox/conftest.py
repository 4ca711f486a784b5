"""Fixtures: stores, daemons, and their end. What a test started is stopped, whatever happened; a panic fails it."""

import os
import subprocess

import pytest

from daemon import Daemon
from servers import RedisServer


def pytest_sessionfinish(session):
    """`passed failed` for tests/run, from the process that collects (not from xdist's workers)."""
    path = os.environ.get("AUDITCAST_COUNTS")
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if path and reporter and not hasattr(session.config, "workerinput"):
        counts = {key: len(reporter.stats.get(key, [])) for key in ("passed", "failed", "error")}
        with open(path, "w") as file:
            file.write(f"{counts['passed']} {counts['failed'] + counts['error']}\n")


@pytest.fixture
def figures(record_property):
    """Tells what was measured; shown at the end of the run, also where tests run in several processes."""
    return lambda text: record_property("figures", text)


def pytest_terminal_summary(terminalreporter):
    for reports in list(terminalreporter.stats.values()):
        for report in reports:
            for name, text in getattr(report, "user_properties", []) if getattr(report, "when", "") == "call" else []:
                if name == "figures":
                    terminalreporter.write_line(f"{report.nodeid.split('::')[-1]}: {text}")


@pytest.fixture
def cleanup():
    """Functions that are called at the end, last first; the first failure is told after all were called."""
    stack = []
    yield stack.append
    failure = None
    while stack:
        try:
            stack.pop()()
        except BaseException as error:  # noqa: BLE001: told below
            failure = failure or error
    if failure:
        raise failure


@pytest.fixture
def redis_server(tmp_path, cleanup):
    """A running redis-server of this test's own."""
    server = RedisServer(tmp_path / "redis")
    cleanup(server.stop)
    return server.start()


@pytest.fixture
def make_redis(tmp_path, cleanup):
    def make(name="redis", start=True, **options):
        server = RedisServer(tmp_path / name, **options)
        cleanup(server.stop)
        return server.start() if start else server

    return make


@pytest.fixture
def make_daemon(tmp_path, cleanup):
    """A node on a store's URL or a RedisServer; not started."""

    def make(store, /, name="node", env=None, **config):
        url = store if isinstance(store, str) else store.url
        daemon = Daemon(tmp_path / name, url, env=env, name=name, **config)
        if isinstance(store, RedisServer):
            daemon.redis = store.client()
        cleanup(daemon.http.close)
        cleanup(lambda: end(daemon))
        return daemon

    return make


def end(daemon):
    """Stops a daemon that the test left running. A drain that hangs is a failure of test_11, not of every test."""
    if daemon.process is None:
        return
    daemon.process.send_signal(18)
    daemon.process.terminate()
    try:
        daemon.process.wait(10)
    except subprocess.TimeoutExpired:
        daemon.process.kill()
        daemon.process.wait(5)
    daemon.process = None
    daemon.no_panic()


@pytest.fixture(params=["redis", "embedded"])
def store(request, tmp_path):
    """Each of the two engines: a RedisServer, or an `embedded:` URL."""
    if request.param == "redis":
        return request.getfixturevalue("redis_server")
    return f"embedded:{tmp_path / 'embedded'}"


@pytest.fixture
def daemon(store, make_daemon):
    """A started node on either engine, with the suite's defaults."""
    return make_daemon(store).start()


@pytest.fixture
def redis_daemon(redis_server, make_daemon):
    return make_daemon(redis_server).start()


def pytest_runtest_makereport(item, call):
    """A failure shows the end of each daemon's log."""
    if call.when != "teardown" and call.excinfo is not None:
        base = item.funcargs.get("tmp_path")
        for path in sorted(base.glob("*/*.stderr")) if base else []:
            text = path.read_text(errors="replace")
            if text:
                item.add_report_section(call.when, f"log of {path.stem}", text[-4000:])


@pytest.fixture(scope="session")
def long_run():
    """AUDITCAST_LONG=1: outages, floods and slow clients take minutes."""
    return os.environ.get("AUDITCAST_LONG", "0") == "1"
