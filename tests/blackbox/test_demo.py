"""`auditcast demo`: the whole product with nothing installed, and its page in a real browser (contract §1)."""

import re
import signal
import subprocess
import threading
import time

import httpx
import pytest

from browser import Browser
from client import Client
from daemon import BINARY, REPOSITORY
from wait import until

SHOTS = REPOSITORY / "target/test-logs"


class Demo:
    def __init__(self, folder, *arguments):
        folder.mkdir()
        self.started = time.monotonic()
        self.lines = []
        self.errors = open(folder / "demo.stderr", "wb")
        # An environment without any setting, as on a fresh machine.
        self.process = subprocess.Popen([BINARY, "demo", "--port", "0", *arguments], cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                        stderr=self.errors, text=True, env={"PATH": "/usr/bin:/bin", "HOME": str(folder), "TMPDIR": str(folder)})  # fmt: skip
        threading.Thread(target=self._read, daemon=True).start()
        self.base = self.match(r"(http://[\w.\[\]:]+:\d+)")
        self.token = self.match(r"(eyJ[\w-]+\.[\w-]+\.[\w-]+)")
        self.link = self.match(r"(http://\S+#\S*eyJ[\w-]+\.[\w-]+\.[\w-]+\S*)")

    def _read(self):
        for line in self.process.stdout:
            self.lines.append(line)

    def match(self, pattern):
        return until(f"demo prints {pattern}", lambda: re.search(pattern, "".join(self.lines)), 15)[1]

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        try:
            return self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError("demo did not end within 15 s of Ctrl-C") from None
        finally:
            self.errors.close()


@pytest.fixture
def demo(tmp_path, cleanup):
    running = Demo(tmp_path / "demo")
    cleanup(running.stop)
    return running


@pytest.fixture
def browser(tmp_path, cleanup):
    running = Browser(tmp_path / "browser")
    cleanup(running.close)
    return running


def alerts(demo, **params):
    answer = httpx.get(f"{demo.base}/api/v1/alerts", params=params, headers={"Authorization": f"Bearer {demo.token}"}, trust_env=False)
    assert answer.status_code == 200, answer.text
    return answer.json()["alerts"]


def test_fires_within_20_s_and_resolves_later(demo):
    client = Client(demo.base, demo.token)
    client.frame("hello")
    fired = client._wait("a threshold fires", lambda: client.alerts(kind="threshold", status="firing"), 20 - (time.monotonic() - demo.started))[0]
    assert time.monotonic() - demo.started < 20
    # A line per alert.
    until("the alert is printed", lambda: any(fired["message"] in line for line in demo.lines), 3)
    resolved = client._wait("it resolves", lambda: client.alerts(alert_id=fired["alert_id"], status="resolved"), 120)[0]
    assert resolved["message"].startswith("Resolved: ")
    # The attacks that the demo names.
    assert client._wait("event alerts", lambda: client.alerts(kind="event"), 60)
    assert demo.stop() == 0
    assert b"panicked" not in open(demo.errors.name, "rb").read()


def test_the_page(demo, browser):
    browser.go(demo.link)
    until("a threshold has fired", lambda: [a for a in alerts(demo) if a["kind"] == "threshold"], 25)
    message = [a for a in alerts(demo) if a["kind"] == "threshold"][0]["message"]
    browser.wait_text(message, 10)
    SHOTS.mkdir(parents=True, exist_ok=True)
    browser.screenshot(SHOTS / "demo.png")
    # The token is not left in the address bar, where a screen share would show it.
    assert "eyJ" not in browser.ask("location.search")
    assert browser.complaints == []


def test_the_page_asks_for_a_token_and_says_that_one_is_bad(demo, browser):
    browser.go(demo.base + "/")
    until("there is a field for the token", lambda: browser.ask("!!document.querySelector('input, textarea')"), 10)
    headers = httpx.get(demo.base + "/", trust_env=False).headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy or "default-src 'self'" in policy
    assert "unsafe-inline" not in policy and "unsafe-eval" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert "no-store" in headers.get("cache-control", "") or "no-cache" in headers.get("cache-control", "")


def test_markup_in_an_event_stays_text(store, make_daemon, browser):
    """§6.6: nothing an event contains forges markup."""
    daemon = make_daemon(store).start()
    browser.go(f"{daemon.public}/#token={daemon.admin}")
    evil = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
    daemon.put({"event_type": "sql_injection", "user_id": evil, "username": evil, "message": "said " + evil, "details": {evil: evil}})
    browser.wait_text("said <img", 15)
    assert browser.ask("document.title") != "owned"
    assert browser.ask("document.querySelectorAll('img[src=x]').length") == 0


def test_the_page_resumes_after_a_restart(redis_server, make_daemon, browser):
    daemon = make_daemon(redis_server, listen={"public": "127.0.0.1:0"}).start()
    port = daemon.public.rsplit(":", 1)[1]
    browser.go(f"{daemon.public}/#token={daemon.admin}")
    daemon.put({"event_type": "sql_injection", "user_id": "1", "message": "before the restart"})
    browser.wait_text("before the restart")
    daemon.stop()
    daemon.put({"event_type": "sql_injection", "user_id": "1", "message": "while it was away"})
    daemon.config["listen"]["public"] = f"127.0.0.1:{port}"
    daemon.start()
    browser.wait_text("while it was away", 60)
    assert browser.text().count("before the restart") >= 1


def test_the_token_opens_what_an_admin_may_see(demo):
    assert isinstance(alerts(demo), list)
    answer = httpx.get(f"{demo.base}/api/v1/metrics/current", headers={"Authorization": f"Bearer {demo.token}"}, trust_env=False)
    assert answer.status_code == 200 and {"timestamp", "metrics", "sources"} <= set(answer.json())
