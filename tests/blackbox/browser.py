"""A headless Chromium over the DevTools protocol: goes to a page, asks it, takes its picture."""

import base64
import json
import shutil
import signal
import subprocess

import httpx
from websockets.sync.client import connect

from wait import until


class Browser:
    def __init__(self, folder, width=1280, height=900):
        binary = shutil.which("chromium")
        assert binary, "there is no chromium on this machine; tests/run install brings it"
        folder.mkdir(parents=True, exist_ok=True)
        self.log = open(folder / "chromium.log", "wb")
        self.process = subprocess.Popen(
            [binary, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
             "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--no-proxy-server", "--disable-extensions",
             "--remote-debugging-port=0", f"--window-size={width},{height}", f"--user-data-dir={folder / 'profile'}", "about:blank"],
            stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, start_new_session=True,
        )  # fmt: skip
        port_file = folder / "profile/DevToolsActivePort"
        port = until("Chromium listens", lambda: port_file.exists() and port_file.read_text().splitlines()[0], 30)

        def page():
            targets = httpx.get(f"http://127.0.0.1:{port}/json/list", trust_env=False).json()
            return next(t["webSocketDebuggerUrl"] for t in targets if t["type"] == "page")

        self.port = port
        self._attach(until("Chromium has a page", page, 20))

    def _attach(self, url):
        self.socket = connect(url, max_size=2**26, proxy=None, ping_interval=None, compression=None, legacy=True)
        self.next_id = 0
        #: What the page complained of: console errors, exceptions, refusals of the content security policy.
        self.complaints = []
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def tab(self, url):
        """Another tab of the same browser; it ends with it."""
        target = httpx.put(f"http://127.0.0.1:{self.port}/json/new?{url}", trust_env=False).json()
        other = object.__new__(Browser)
        other._attach(target["webSocketDebuggerUrl"])
        return other

    def call(self, method, **params):
        self.next_id += 1
        self.socket.send(json.dumps({"id": self.next_id, "method": method, "params": params}))
        while True:
            message = json.loads(self.socket.recv(timeout=30))
            if message.get("id") == self.next_id:
                assert "error" not in message, message
                return message["result"]
            self._event(message)

    def _event(self, message):
        params = message.get("params", {})
        if message.get("method") == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(params["exceptionDetails"])[:500])
        elif message.get("method") == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.complaints.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")
        elif message.get("method") == "Runtime.consoleAPICalled" and params["type"] == "error":
            self.complaints.append(json.dumps(params["args"])[:500])

    def go(self, url):
        result = self.call("Page.navigate", url=url)
        assert "errorText" not in result, result

    def ask(self, expression):
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def until(self, what, expression, timeout=15):
        """Waits until a JavaScript expression is true."""
        try:
            return until(what, lambda: self.ask(expression), timeout, every=0.05)
        except AssertionError as error:
            raise AssertionError(f"{error}; the page says: {self.text()[:1500]!r}; complaints: {self.complaints}") from None

    def key(self, name):
        """A key as a person presses it: `Tab`, `Enter`, `Escape`."""
        codes = {"Tab": 9, "Enter": 13, "Escape": 27}
        base = {"key": name, "code": name, "windowsVirtualKeyCode": codes[name]}
        self.call("Input.dispatchKeyEvent", type="keyDown", **base, **({"text": "\r"} if name == "Enter" else {}))
        self.call("Input.dispatchKeyEvent", type="keyUp", **base)

    def type(self, text):
        """Into what has the focus."""
        self.call("Input.insertText", text=text)

    def size(self, width, height, mobile=False):
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=mobile)

    def text(self):
        return self.ask("document.body ? document.body.innerText : ''") or ""

    def wait_text(self, text, timeout=15):
        try:
            return until(f"the page says {text!r}", lambda: text in self.text(), timeout, every=0.1)
        except AssertionError as error:
            raise AssertionError(f"{error}; the page says: {self.text()[:1500]!r}; complaints: {self.complaints}") from None

    def screenshot(self, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    def close(self):
        self.socket.close()
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(5)
        self.log.close()
