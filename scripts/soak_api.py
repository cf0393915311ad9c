"""Loads the HTTP API as many users at once do, and counts: is every job done, in its order, within bounds, and every bad request refused?

python scripts/soak_api.py [--jobs 100] [--at-once 50] [--bad 200] [--upload-mb 2] [key=value ...]

Starts `python app.py --no-page` with the prior that ships and settings that take a moment (key=value changes them), sends the pictures
at once with bad requests between them, and prints a line of JSON. Exit code 1 where anything was lost, out of order or answered otherwise.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import io
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image, ImageDraw

ROOT = Path(__file__).resolve().parents[1]
SMALL = ("total_steps=1", "denoise_steps=1", "init_steps=4", "num_pts=150", "video_frames=0", "video_size=32")
SMALLER = ("batch_size_min=4", "batch_size_max=4", "mesh_resolution=32", "texture_size=64", "device=cpu")
BAD = (
    {},
    {"prompt": "an egg", "seed": -1},
    {"prompt": "xyzzy"},
    {"picture": "%%%"},
    {"picture": "aGVsbG8="},
    {"prompt": "an egg", "preset": "huge"},
    {"pictures": ["aGVsbG8=", "aGVsbG8="], "azimuth": [0]},
    [],
)
PATHS = ("/v1/jobs/{id}/files/../picture", "/v1/jobs/{id}/files/%2fetc%2fpasswd", "/v1/jobs/..%2f..%2fetc/files/passwd", "/status/..")


def picture(number: int) -> str:
    """A disc of a colour of its own, in base64."""
    image = Image.new("RGBA", (96, 96), (0, 0, 0, 0))
    ImageDraw.Draw(image).ellipse((16, 16, 80, 80), fill=((37 * number) % 256, (91 * number) % 256, 120, 255))
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def ask(port: int, method: str, path: str, body: object = None, padding: int = 0) -> tuple[int, bytes]:
    """Status and bytes of an answer. padding: spaces after the body, of a large upload."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    try:
        data = None if body is None else json.dumps(body).encode() + b" " * padding
        connection.request(method, path, data, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def resident_mib(process: int) -> float:
    """Memory of a process now; 0 where the system does not say."""
    try:
        text = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in text.splitlines() if line.startswith("VmRSS")), 0.0)


class Memory(threading.Thread):
    """Watches how much a process takes."""

    def __init__(self, process: int) -> None:
        super().__init__(daemon=True)
        self.process, self.most, self.ended = process, 0.0, threading.Event()

    def run(self) -> None:
        while not self.ended.wait(0.05):
            self.most = max(self.most, resident_mib(self.process))


def soak(port: int, process: int, options: argparse.Namespace) -> dict[str, object]:
    """What came of it."""
    before = resident_mib(process)
    memory = Memory(process)
    memory.start()
    faults: list[str] = []
    start = time.perf_counter()

    def submit(number: int) -> str | None:
        status, data = ask(port, "POST", "/v1/jobs", {"picture": picture(number), "name": f"disc {number}"}, int(options.upload_mb * 1e6))
        if status != 202:
            faults.append(f"job {number}: {status} {data[:200]!r}")
            return None
        return json.loads(data)["id"]

    def refused(number: int) -> bool:
        status, data = ask(port, "POST", "/v1/jobs", BAD[number % len(BAD)])
        told = status == 400 and set(json.loads(data)) == {"error"} and b"Traceback" not in data
        if not told:
            faults.append(f"bad request {number}: {status} {data[:200]!r}")
        return told

    with ThreadPoolExecutor(options.at_once) as users, ThreadPoolExecutor(8) as others:
        bad = [others.submit(refused, number) for number in range(options.bad)]
        ids = list(users.map(submit, range(options.jobs)))
        uploaded = time.perf_counter() - start
        count = sum(one.result() for one in bad)
    left = {id for id in ids if id}
    ended: dict[str, dict] = {}
    while left:
        time.sleep(0.5)
        for state in json.loads(ask(port, "GET", "/v1/jobs")[1])["jobs"]:
            if state["status"] in ("done", "failed", "cancelled"):
                ended[state["id"]] = state
        left -= ended.keys()
    seconds = time.perf_counter() - start
    files = 0
    for id, state in ended.items():
        if state["status"] != "done":
            faults.append(f"{id}: {state['status']}: {state['error']}")
            continue
        name = next(name for name in state["files"] if name.endswith("_model.glb"))
        status, data = ask(port, "GET", state["files"][name].replace(" ", "%20"))
        files += status == 200 and data[:4] == b"glTF"
    for path in PATHS:
        status, data = ask(port, "GET", path.format(id=next(iter(ended))))
        if status != 404 or b"root:" in data:
            faults.append(f"{path}: {status}")
    memory.ended.set()
    memory.join()
    return {
        "jobs": options.jobs,
        "done": sum(state["status"] == "done" for state in ended.values()),
        "meshes fetched": files,
        "bad requests refused": count,
        "of": options.bad,
        "seconds until all were taken": round(uploaded, 1),
        "seconds until all were done": round(seconds, 1),
        "memory before MiB": round(before),
        "most memory MiB": round(memory.most),
        "faults": faults,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=100, help="default: 100")
    parser.add_argument("--at-once", type=int, default=50, help="uploads at the same time (default: 50)")
    parser.add_argument("--bad", type=int, default=200, help="requests that are to be refused (default: 200)")
    parser.add_argument("--upload-mb", type=float, default=2.0, help="size of each upload (default: 2)")
    options, words = parser.parse_known_args()
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        port = door.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "app.py", "--no-page", f"--port={port}", f"--queue={options.jobs}", f"--results={folder}", "--quiet"]
        with subprocess.Popen([*command, *SMALL, *SMALLER, *words], cwd=ROOT, env=os.environ) as server:
            try:
                for _ in range(600):
                    try:
                        ask(port, "GET", "/health")
                        break
                    except OSError:
                        time.sleep(0.2)
                found = soak(port, server.pid, options)
            finally:
                server.terminate()
                server.wait(60)
    print(json.dumps(found))
    whole = found["done"] == found["meshes fetched"] == options.jobs and found["bad requests refused"] == options.bad
    return 0 if whole and not found["faults"] else 1


if __name__ == "__main__":
    sys.exit(main())
