"""Kills ``reground serve`` fifty times while it answers; each time it starts again and answers.

    python tests/fifty_kills.py FOLDER

FOLDER keeps the log of requests: after every kill its lines are whole but for at most the last, and
the next server goes on with it. What is asked before and after the kills is answered alike.
"""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import httpx2

from reground.data.images import data_url
from reground.tinyworld import scenes as synth

KILLS = 50
SAMPLE = synth.sample("referring", seed=7, index=0)
ASKED = {"images": [data_url(synth.render(SAMPLE.images[0].path))], "text": SAMPLE.question}


def main() -> None:
    """Kill at random points, and say what came of it."""
    log, draw, texts = Path(sys.argv[1], "log.jsonl"), random.Random(0), set()
    for kill in range(KILLS):
        server, url = _started(log)
        texts.add(httpx2.post(f"{url}/v1/ground", json=ASKED, timeout=60).json()["text"])
        askers = [threading.Thread(target=_ask_on, args=[url]) for _ in range(8)]
        for each in askers:
            each.start()
        time.sleep(draw.uniform(0, 1.5))
        server.send_signal(signal.SIGKILL)
        server.wait()
        for each in askers:
            each.join()
        lines = log.read_bytes().split(b"\n")
        assert all(json.loads(line)["status"] for line in lines[:-1] if line), f"kill {kill}"
        print(f"kill {kill + 1}: {len(lines) - 1} lines are whole", flush=True)
    assert len(texts) == 1, texts
    print("all started again and answered alike")


def _started(log: Path) -> tuple[subprocess.Popen[str], str]:
    line = [sys.executable, "-m", "reground", "serve", "--port", "0", "--log-requests", str(log)]
    server = subprocess.Popen(line, stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    told = next(text for text in server.stderr if "http://" in text)
    return server, "http://" + told.partition("http://")[2].split("/")[0]


def _ask_on(url: str) -> None:
    with suppress(httpx2.HTTPError):
        while True:
            httpx2.post(f"{url}/v1/ground", json=ASKED, timeout=60)


if __name__ == "__main__":
    main()
