"""redis-py as an ordinary consumer: XREAD in batches of 1000, details parsed. Arguments: port, entries, stream."""

import json
import sys

import redis

port, entries, stream = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
connection = redis.Redis("127.0.0.1", port)
connection.ping()
print("ready", flush=True)
if sys.stdin.readline().strip() != "go":
    sys.exit()
read, position = 0, "0-0"
while read < entries:
    [[_, batch]] = connection.xread({stream: position}, count=1000)
    for position, fields in batch:
        json.loads(fields[b"details"])
    read += len(batch)
print("done", flush=True)
sys.stdin.readline()
