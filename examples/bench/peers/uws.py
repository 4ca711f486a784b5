"""uWebSockets through socketify: what a client of /publish says goes to all of /ws."""

import os
import threading

from socketify import App, OpCode


def watch_parent():
    # The pipe ends with whoever started this.
    while os.read(0, 1024):
        pass
    os._exit(0)


threading.Thread(target=watch_parent, daemon=True).start()
app = App()
HELLO = '{"type":"hello"}'


def subscriber(ws):
    ws.subscribe("alerts")
    ws.send(HELLO, OpCode.TEXT)


def publisher(ws):
    ws.send(HELLO, OpCode.TEXT)


def publish(ws, message, opcode):
    app.publish("alerts", message, OpCode.TEXT)


LIMITS = {
    "compression": 0,
    "max_payload_length": 1 << 20,
    "idle_timeout": 0,
    "max_backpressure": 64 << 20,
    "send_pings_automatically": False,
}
app.ws("/ws", {**LIMITS, "open": subscriber, "message": lambda ws, message, opcode: None})
app.ws("/publish", {**LIMITS, "open": publisher, "message": publish})
app.listen({"port": 0, "host": "127.0.0.1"}, lambda config: print(f"listening 127.0.0.1:{config.port}", flush=True))
# Its own loop alone: app.run() would turn asyncio's beside it, without a rest for the first seconds.
app.loop.uv_loop.run()
