"""Asking a teacher for chains: behind a server that misbehaves and kills, and as fast as it goes.

    python benchmarks/teacher.py --server http://127.0.0.1:8000/v1 --out docs/results/teacher.json

First ``--samples`` scenes, three chains each, from a server with faults (teacher_server.py), while
the asking process is killed ten times: no call that was stored may be asked again, every call is
answered and verified in the end, and the server's log bills what the database holds and, once more,
what was on its way when a kill came. Then as many calls
from a server that answers at once: requests per second, and the memory of this process over time.
With ``--server`` also a few from a real one, which serves the shipped tiny model as ``tiny``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from common import parser, publish
from teacher_server import MODEL

from reground.config import load
from reground.io import read_jsonl
from reground.teacher.ask import ask, open_store
from reground.teacher.rows import TeacherCall
from reground.teacher.settings import TeachConfig, Verify
from reground.teacher.store import Store
from reground.teacher.verify import verify

CHAINS = 3
KILLS = 10
CONCURRENCY = 32
PRICES = {"prompt_price": 2.5, "completion_price": 10.0}


def main() -> None:
    """Run both parts, print and keep one object."""
    command_line = parser(__doc__)
    command_line.add_argument("--samples", type=int, default=5000)
    command_line.add_argument("--server", metavar="URL", help="a real server of the tiny model")
    asked = command_line.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        misbehaving = _killed(Path(folder), asked.samples)
        print(json.dumps(misbehaving), flush=True)
        instant = _fast(Path(folder), asked.samples)
        real = _real(Path(folder), asked.server) if asked.server else None
    config = {
        "samples": asked.samples,
        "chains": CHAINS,
        "kills": KILLS,
        "concurrency": CONCURRENCY,
        "faults": "10 % 429, 5 % 500, 2 % cut, 1 % invalid JSON, 1 % late by 1 to 3 s",
    }
    figures = {"misbehaving": misbehaving, "instant": instant, "real server": real}
    publish(figures, out=asked.out, config=config, seed=41)


def _settings(folder: Path, name: str, samples: int, port: int) -> list[str]:
    prices = [f"teacher.{key}={value}" for key, value in PRICES.items()]
    return [
        f"store={folder / name}.db",
        "data=synth:referring",
        f"limit={samples}",
        f"teacher.url=http://127.0.0.1:{port}/v1",
        f"teacher.model={MODEL}",
        f"teacher.concurrency={CONCURRENCY}",
        f"ask.n={CHAINS}",
        *prices,
    ]


@contextmanager
def _serving(*arguments: str) -> Iterator[int]:
    """A server in a process of its own; its port."""
    script = Path(__file__).with_name("teacher_server.py")
    command = [sys.executable, str(script), *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.terminate()


def _killed(folder: Path, samples: int) -> dict[str, Any]:
    log, total = folder / "requests.jsonl", samples * CHAINS
    kills, unclean, begin = 0, 0, time.perf_counter()
    with _serving("--faults", "--log", str(log)) as port:
        settings = _settings(folder, "killed", samples, port)
        command = [sys.executable, "-m", "reground", "teach", "ask", *settings]
        with open_store(load(TeachConfig, None, settings)) as store:
            while store.counts().answered.get("ask", 0) < total:
                process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
                enough = total * (kills + 1) // (KILLS + 1)
                while process.poll() is None:
                    time.sleep(0.02)
                    if kills < KILLS and store.counts().answered.get("ask", 0) >= enough:
                        process.kill()
                        kills += 1
                        break
                unclean += process.wait() not in (0, -9)
            figures = _compared(store, log)
    assert kills == KILLS, f"{kills} kills; the run was too short"
    return figures | {
        "kills": kills,
        "runs that failed some calls": unclean,
        "seconds": round(time.perf_counter() - begin, 1),
    }


def _compared(store: Store, log: Path) -> dict[str, Any]:
    """The database beside the server's log; asserts that nothing was asked twice or lost."""
    calls = {_seed(call): call for call in store.calls(stage="ask") if call.state == "answered"}
    rows = list(read_jsonl(log, dict))
    again = [row for row in rows if row["at"] > calls[row["seed"]].at]
    asked_by = Counter(call.sample for call in calls.values())
    assert set(asked_by.values()) == {CHAINS} and len(asked_by) == store.counts().samples
    assert not again, f"{len(again)} requests for calls that were stored"
    answered = [row for row in rows if row["fault"] is None]
    stored, billed = store.counts().cost, sum(_cost(row["tokens"]) for row in answered)
    lost = sum(_cost(row["tokens"]) for row in _lost(answered))
    assert abs(billed - stored - lost) < 1e-6, f"{billed} billed, {stored} stored, {lost} lost"
    return {
        "samples": store.counts().samples,
        "answered": len(calls),
        "requests": len(rows),
        "faults": dict(Counter(row["fault"] for row in rows if row["fault"])),
        "asked again though stored": len(again),
        "answered, but killed before stored": len(answered) - len(calls),
        "attempts recorded": sum(call.attempts for call in calls.values()),
        "cost": round(stored, 6),
        "cost by the server's log": round(billed, 6),
        "cost of answers on their way": round(lost, 6),
        "verdicts": dict(verify(store, Verify())),
    }


def _lost(answered: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The answers that were sent and never stored: of each call all but the last."""
    last = {row["seed"]: number for number, row in enumerate(answered)}
    return [row for number, row in enumerate(answered) if last[row["seed"]] != number]


def _seed(call: TeacherCall) -> int:
    return zlib.crc32(f"0/{call.sample}/{call.number}".encode()) >> 1  # as teacher.ask makes it


def _cost(tokens: list[int]) -> float:
    return (tokens[0] * PRICES["prompt_price"] + tokens[1] * PRICES["completion_price"]) / 1e6


def _fast(folder: Path, samples: int) -> dict[str, Any]:
    total, seen = samples * CHAINS, 0
    memory: dict[int, float] = {}

    def watch(_: TeacherCall) -> None:
        nonlocal seen
        seen += 1
        if seen % (total // 5) == 0:
            memory[seen] = _resident_mib()

    with _serving() as port:
        config = load(TeachConfig, None, _settings(folder, "fast", samples, port))
        with open_store(config) as store:
            wall, cpu = time.perf_counter(), time.process_time()
            done = ask(store, config, watch=watch)
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    assert done.left == 0
    return {
        "requests": total,
        "requests per second": round(total / wall, 1),
        "core milliseconds a request": round(1000 * cpu / total, 2),
        "resident MiB after requests": memory,
        "load of the machine": round(os.getloadavg()[0], 1),
    }


def _real(folder: Path, url: str) -> dict[str, Any]:
    """A model that was never taught to teach: what it writes is rejected, with a reason."""
    prompt = folder / "plain.txt"
    prompt.write_text("$question $boxes\n")
    settings = [
        f"store={folder / 'real.db'}",
        "data=synth:referring",
        "limit=20",
        f"teacher.url={url}",
        "teacher.model=tiny",
        f"ask.prompt={prompt}",
        f"ask.n={CHAINS}",
        "ask.max_tokens=96",
    ]
    config = load(TeachConfig, None, settings)
    with open_store(config) as store:
        done = ask(store, config)
        assert done.left == 0
        calls = [call for call in store.calls(stage="ask") if call.state == "answered"]
        return {
            "samples": store.counts().samples,
            "answered": len(calls),
            "completion tokens": sum(call.completion_tokens for call in calls),
            "verdicts": dict(verify(store, Verify())),
        }


def _resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20, 1)


if __name__ == "__main__":
    main()
