"""What a server costs beside offline evaluation, and how long clients wait.

    pip install litserve==0.2.19
    python benchmarks/serving.py --out docs/results/serving.json

Drawn scenes are asked of the shipped model: offline in one call, of ``reground serve`` by 1 to 128
clients at a time, and of LitServe around the same ``Grounder.ground``, which answers one question
after another. The sides take turns; every server is a process of its own, and the clients' costs
are on the same cores. Then ``--soak`` questions are asked of one server, whose memory is read on
the way.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
from common import parser, publish, spread

from reground.data.images import data_url
from reground.tinyworld import scenes as synth

CLIENTS = (1, 8, 32, 128)
SEED = 7
# A process of its own: what one call over all samples takes, the model loaded and warm.
OFFLINE = """
import sys, tempfile, time
from pathlib import Path
from reground.evaluation.evaluate import evaluate
from reground.evaluation.predicting.question import Question
def took(count):
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        question = Question(model="tiny", data="synth:referring", seed=7, limit=count)
        evaluate(Path(folder, "out"), question)
    return time.perf_counter() - begin
took(8)
few, most = took(8), took(int(sys.argv[1]) + 8)
print(most - few)
"""
# One question after another, as a server without batches answers.
LITSERVE = """
import base64, io, sys
import litserve
from PIL import Image
class Ground(litserve.LitAPI):
    def setup(self, device):
        from reground.api import Grounder
        self.grounder = Grounder.from_pretrained("tiny")
    def decode_request(self, request):
        data = base64.b64decode(request["images"][0].partition(",")[2])
        return Image.open(io.BytesIO(data)).convert("RGB"), request["text"]
    def predict(self, asked):
        return self.grounder.ground([asked[0]], asked[1])
    def encode_response(self, found):
        return {"boxes": [{"box": box.xyxy} for box in found.answer.boxes], "text": found.text}
if __name__ == "__main__":
    api = Ground(api_path="/v1/ground")
    server = litserve.LitServer(api, accelerator="cpu", timeout=300)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False)
"""


@dataclass(frozen=True, slots=True)
class Server:
    """A server that runs: its address, and its process."""

    url: str
    pid: int

    @property
    def mib(self) -> float:
        """Resident memory of the process now."""
        status = Path(f"/proc/{self.pid}/status").read_text(encoding="utf-8")
        line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
        return int(line.split()[1]) / 1024


def main() -> None:
    """Measure all sides in turns, then a server over many questions."""
    command_line = parser(__doc__, repeats=3)
    command_line.add_argument("--questions", type=int, default=512)
    command_line.add_argument("--soak", type=int, default=5_000)
    asked = command_line.parse_args()
    bodies = [_body(index) for index in range(asked.questions)]
    turns = [_turn(bodies) for _ in range(asked.repeats)]
    with _ours() as server:
        soak = _soaked(server, bodies, asked.soak)
    figures = {
        "ratio to offline at 32 clients": spread(
            [turn["reground 32"]["per_s"] / turn["offline"]["per_s"] for turn in turns]
        ),
        "ratio to one by one at 32 clients": spread(
            [turn["reground 32"]["per_s"] / turn["litserve 32"]["per_s"] for turn in turns]
        ),
        "sides": {
            side: {what: spread([turn[side][what] for turn in turns]) for what in turns[0][side]}
            for side in turns[0]
        },
        "soak": soak,
    }
    config = {"questions": asked.questions, "soak": asked.soak, "repeats": asked.repeats}
    publish(figures, out=asked.out, config=config, seed=SEED)


def _body(index: int) -> bytes:
    sample = synth.sample("referring", seed=SEED, index=index)
    image = data_url(synth.render(sample.images[0].path))
    return json.dumps({"images": [image], "text": sample.question}).encode()


def _turn(bodies: Sequence[bytes]) -> dict[str, dict[str, float]]:
    line = [sys.executable, "-c", OFFLINE, str(len(bodies))]
    done = subprocess.run(line, check=True, stdout=subprocess.PIPE, text=True)
    found = {"offline": {"per_s": len(bodies) / float(done.stdout.split()[-1])}}
    with _ours() as server:
        for clients in CLIENTS:
            share = bodies if clients > 1 else bodies[: len(bodies) // 4]
            found[f"reground {clients}"] = _asked(server, share, clients)
    with _litserve() as server:
        found["litserve 32"] = _asked(server, bodies, 32)
    print(json.dumps(found), file=sys.stderr)
    return found


def _asked(server: Server, bodies: Sequence[bytes], clients: int) -> dict[str, float]:
    """Questions a second, and the seconds that half and 99 of 100 clients wait at most."""
    waits: list[float] = []
    with httpx2.Client(timeout=300, limits=httpx2.Limits(max_connections=clients)) as client:

        def ask(body: bytes) -> None:
            begin = time.perf_counter()
            _answer(client, server, body)
            waits.append(time.perf_counter() - begin)

        for body in bodies[:2]:  # warm
            _answer(client, server, body)
        begin = time.perf_counter()
        with ThreadPoolExecutor(clients) as pool:
            list(pool.map(ask, bodies))
        took = time.perf_counter() - begin
    percentiles = statistics.quantiles(waits, n=100)
    return {"per_s": len(bodies) / took, "p50_s": percentiles[49], "p99_s": percentiles[98]}


def _answer(client: httpx2.Client, server: Server, body: bytes) -> None:
    reply = client.post(
        f"{server.url}/v1/ground", content=body, headers={"Content-Type": "application/json"}
    )
    assert reply.status_code == 200, reply.text


def _soaked(server: Server, bodies: Sequence[bytes], count: int) -> dict[str, Any]:
    """The memory of a server after each tenth of ``count`` questions by 32 clients."""
    endless = itertools.cycle(bodies)
    tenths = []
    for _ in range(10):
        _asked(server, list(itertools.islice(endless, count // 10)), 32)
        tenths.append(round(server.mib, 1))
    return {"questions": count, "mib": tenths}


def _ours() -> Any:
    line = [sys.executable, "-m", "reground", "serve", "--port", "0", "--max-waiting", "512"]
    return _running(line, says="tiny at ")


@contextmanager
def _litserve() -> Iterator[Server]:
    script = Path("runs/serving/litserve_app.py")
    script.parent.mkdir(parents=True, exist_ok=True)
    script.write_text(LITSERVE, encoding="utf-8")
    with _running([sys.executable, str(script), "8399"], port=8399) as server:
        yield server


@contextmanager
def _running(
    line: Sequence[str], *, says: str | None = None, port: int | None = None
) -> Iterator[Server]:
    """A server in a process group of its own, once it answers; ``says`` precedes its address."""
    process = subprocess.Popen(
        line, stderr=subprocess.PIPE if says else None, text=True, start_new_session=True
    )
    try:
        url = f"http://127.0.0.1:{port}"
        if says:
            assert process.stderr is not None
            told = next(text for text in process.stderr if says in text)
            url = told.partition(says)[2].split("/ ")[0].strip()
        for _ in range(600):
            try:
                httpx2.get(f"{url}/health")
                break
            except httpx2.TransportError:
                time.sleep(0.1)
        yield Server(url, process.pid)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


if __name__ == "__main__":
    main()
