"""What a program that uses redis-py's cluster client does: it retries a command that failed, and nothing else.

Reads lines: `write N` writes N further keys and prints how many are acknowledged; `check` reads all of them.
"""

import sys
import time

from redis.cluster import RedisCluster
from redis.exceptions import RedisError

client = RedisCluster(host="127.0.0.1", port=int(sys.argv[1]), socket_timeout=2)
acknowledged = 0


def retry(command, *args):
    deadline = time.monotonic() + 60
    while True:
        try:
            return command(*args)
        except (RedisError, OSError) as error:
            if time.monotonic() > deadline:
                raise
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            time.sleep(0.01)


for line in sys.stdin:
    word, *rest = line.split()
    if word == "write":
        for _ in range(int(rest[0])):
            retry(client.set, f"key{acknowledged}", acknowledged)
            acknowledged += 1
        print(acknowledged, flush=True)
    elif word == "check":
        found = sum(int(retry(client.get, f"key{number}")) == number for number in range(acknowledged))
        print(f"{found} of {acknowledged}", flush=True)
