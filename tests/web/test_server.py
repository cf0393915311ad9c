"""The server over real sockets: raw paths, many at once, clients that hang up, and `python app.py` from its start to its end."""

import base64
import contextlib
import http.client
import io
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from batch_bench import WORDS, view_of
from fake_priors import tiny_micro_prior

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
from web_serving import free_port, serving, until

from microdreamer.core.errors import Stopped, UserError
from microdreamer.web import api, server
from microdreamer.web.jobs import Jobs

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(os.name == "nt", reason="sends signals")


def ask(port, method, path, body=None, timeout=60, **headers):
    """Status and bytes of an answer; the path goes over the wire as it is."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        data = None if body is None else json.dumps(body).encode()
        connection.request(method, path, data, {"Content-Type": "application/json"} | headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


class Quick:
    """Jobs that write a file at once, or wait at the gate; the order in which they came."""

    def __init__(self, maker):
        self.config, self.prior = maker.config, maker.prior
        self.gate, self.seen = threading.Event(), []
        self.gate.set()

    def __call__(self, job):
        self.seen.append(job.request.prompt)
        while not self.gate.wait(0.01):
            if job.should_stop():
                raise Stopped
        if job.request.prompt == "fail":
            raise UserError("as was asked for")
        path = job.folder / "object_model.glb"
        path.write_bytes(b"glTF" + job.id.encode())
        return {path.name: path}


@pytest.fixture
def quick(maker, tmp_path):
    """The port of a server with such jobs, the maker and the jobs."""
    maker = Quick(maker)
    jobs = Jobs(maker, tmp_path / "jobs", most_waiting=1000)
    with serving(api.create_api(jobs, maker)) as port:
        yield port, maker, jobs
    jobs.close(10)


@pytest.fixture(scope="module")
def picture(prior):
    buffer = io.BytesIO()
    view_of(prior).save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()


TRAVERSALS = [
    "../picture",
    "..%2fpicture",
    "%2e%2e/picture",
    "..%5cpicture",
    "..\\picture",
    "picture",
    "%2fetc%2fpasswd",
    "/etc/passwd",
    "//etc/passwd",
    "object_model.glb%00",
    "object_model.glb%00.txt",
    "./object_model.glb",
    "object_model.glb/",
    "object_model.glb/.",
    "....//picture",
    "%252e%252e%252fpicture",
    "..%c0%afpicture",
    "../../../../../../etc/passwd",
    "../files/object_model.glb",
    "",
]


def test_no_path_leaves_a_jobs_files(quick, picture):
    port, _, jobs = quick
    id = json.loads(ask(port, "POST", "/v1/jobs", {"picture": picture})[1])["id"]
    until(lambda: jobs.state(id).status == "done")
    assert ask(port, "GET", f"/v1/jobs/{id}/files/object_model.glb") == (200, b"glTF" + id.encode())
    for name in TRAVERSALS:
        status, data = ask(port, "GET", f"/v1/jobs/{id}/files/{name}")
        assert status == 404 and json.loads(data).keys() == {"error"}, name
    for other in ("..", f"../{id}", f"x/../{id}", "%2e%2e", f"..%2fjobs%2f{id}", "*", "", f"{id}%00", f"{id}/../{id}"):
        for path in (f"/v1/jobs/{other}/files/object_model.glb", f"/status/{other}", f"/v1/jobs/{other}/files/picture"):
            status, data = ask(port, "GET", path)
            assert status in (404, 405) and b"glTF" not in data, path


def test_fifty_uploads_at_once_are_taken_in_bounds_and_none_is_lost(quick, picture):
    """Each of 10 MB, of which a few are in memory at a time."""
    port, maker, jobs = quick
    maker.gate.clear()
    body = json.dumps({"picture": picture + " " * 10_000_000}).encode()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def send(_):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        connection.request("POST", "/v1/jobs", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())

    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(send, range(50)))
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert {status for status, _ in answers} == {202}
    ids = [state["id"] for _, state in answers]
    assert len(set(ids)) == 50 and {path.name for path in jobs.folder.iterdir()} == set(ids)
    print(f"memory grew by {grown:.0f} MiB")
    assert grown < 600  # all at once would be more than two gigabytes
    maker.gate.set()
    until(lambda: {jobs.state(id).status for id in ids} == {"done"})


def test_a_hundred_jobs_and_two_hundred_bad_requests_between_them(quick, picture):
    port, maker, jobs = quick
    bad = [{}, {"prompt": "x", "seed": -1}, {"picture": "x"}, {"prompt": "x", "preset": "y"}, [], {"picture": picture, "faces": 10**9}]
    ids = []
    for number in range(100):
        words = "fail" if number % 10 == 3 else f"number {number}"
        status, data = ask(port, "POST", "/v1/jobs", {"picture": picture, "prompt": words})
        assert status == 202
        ids.append(json.loads(data)["id"])
        for part in range(2):
            status, data = ask(port, "POST", "/v1/jobs", bad[(2 * number + part) % len(bad)])
            assert status == 400 and b"Traceback" not in data and set(json.loads(data)) == {"error"}
    until(lambda: all(jobs.state(id).status in ("done", "failed") for id in ids))
    assert [jobs.state(id).status for id in ids] == ["failed" if number % 10 == 3 else "done" for number in range(100)]
    assert maker.seen == ["fail" if number % 10 == 3 else f"number {number}" for number in range(100)]
    for id, state in zip(ids, map(jobs.state, ids), strict=True):
        if state.status == "done":
            assert ask(port, "GET", f"/v1/jobs/{id}/files/object_model.glb") == (200, b"glTF" + id.encode())


def test_who_hangs_up_on_generate_frees_the_worker(quick, picture):
    port, maker, jobs = quick
    maker.gate.clear()
    with pytest.raises(TimeoutError):
        ask(port, "POST", "/generate", {"image": picture}, timeout=1)
    until(lambda: [state.status for state in jobs.states()] == ["cancelled"])
    maker.gate.set()
    assert ask(port, "POST", "/generate", {"image": picture})[0] == 200


def test_an_upload_that_never_ends_is_given_up(quick, monkeypatch):
    port, _, _ = quick
    monkeypatch.setattr(api, "UPLOAD_SECONDS", 0.3)
    with socket.create_connection(("127.0.0.1", port), timeout=20) as door:
        door.sendall(b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{")
        assert door.recv(1000).startswith(b"HTTP/1.1 408")


def test_app_py_serves_and_ends(tmp_path, picture):
    """With the prior that ships: a picture through `/generate` by the client of docs/api.md, then SIGTERM in the middle of a job."""
    port = free_port()
    small = [word for word in WORDS if not word.startswith("device")]
    words = [sys.executable, "app.py", "--no-page", f"--port={port}", f"--results={tmp_path / 'results'}", "--token=sesame", *small]
    (tmp_path / "tmp").mkdir()
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path / "tmp")}
    with subprocess.Popen(words, cwd=ROOT, stderr=subprocess.PIPE, text=True, env=environment) as program:
        try:
            line = program.stderr.readline()
            assert f"http://localhost:{port}" in line, line + program.stderr.read()
            until(lambda: reachable(port))
            client = example_client().replace("localhost:8081", f"localhost:{port}").replace('"SECRET"', '"sesame"')
            (tmp_path / "photo.png").write_bytes(base64.b64decode(picture))
            done = subprocess.run([sys.executable, "-c", client], cwd=tmp_path, capture_output=True, text=True, timeout=120)
            assert done.returncode == 0, done.stderr
            assert (tmp_path / "photo.glb").read_bytes()[:4] == b"glTF"
            status, data = ask(port, "POST", "/v1/jobs", {"picture": picture, "preset": "best"}, Authorization="Bearer sesame")
            assert status == 202, data
            program.send_signal(signal.SIGTERM)
            assert program.wait(60) == 128 + signal.SIGTERM
            assert list((tmp_path / "tmp").glob("microdreamer*")) == []
            assert "Traceback" not in program.stderr.read()
        finally:
            program.kill()


def example_client():
    """The client in docs/api.md."""
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    lines = text[text.index("    import base64") :].splitlines()
    code = [line.removeprefix("    ") for line in lines[: next(number for number, line in enumerate(lines) if line and line[0] != " ")]]
    assert len([line for line in code if line]) <= 12
    return "\n".join(code)


def reachable(port):
    with contextlib.suppress(OSError):
        return urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).status == 200
    return False


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--port=99999"], "--port: expected 0 to 65535"),
        (["--workers=0"], "--workers"),
        (["--auth=user"], "USER:PASSWORD"),
        (["--keep-gib=-1"], "--keep-gib"),
        (["--share"], "--share: lets anybody on the internet in"),
        (["--share", "--token=x"], "pass --auth USER:PASSWORD and --token TOKEN"),
        (["--share", "--auth=a:b"], "pass --auth USER:PASSWORD and --token TOKEN"),
        (["--share", "--no-page"], "--share"),
        (["--config=none.yaml"], "no such configuration file"),
        (["total_stesp=3"], "nearest valid key is 'total_steps'"),
        (["--colour"], "--colour"),
    ],
)
def test_wrong_words_are_one_line(words, message, capsys):
    assert server.main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_a_share_is_warned_of_and_one_that_is_not_to_be_had_is_one_line(maker, monkeypatch, capsys):
    """The tunnel's own client is stood in for: nothing leaves this machine."""
    import types

    import uvicorn

    from microdreamer.web import making

    asked, served = [], []

    def set_up(*words):
        asked.append(words)
        if len(asked) > 1:
            raise RuntimeError("no\nroute")
        return "https://example.invalid"

    monkeypatch.setitem(sys.modules, "gradio", types.ModuleType("gradio"))
    monkeypatch.setitem(sys.modules, "gradio.networking", types.SimpleNamespace(setup_tunnel=set_up))
    monkeypatch.setattr(server.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(making, "Maker", lambda config: maker)
    monkeypatch.setattr(uvicorn, "run", lambda *words, **keys: served.append(keys["host"]))
    words = ["--share", "--no-page", "--token=sesame", "--port=8123"]
    assert server.main(words) == 0
    said = capsys.readouterr().err
    assert "https://example.invalid   is public: whoever has the address can try the password" in said and "see all that passes" in said
    assert asked[0][:2] == ("127.0.0.1", 8123) and served == ["127.0.0.1"]
    assert server.main(words) == 2 and served == ["127.0.0.1"]
    assert "--share: no public address is to be had (no route)" in capsys.readouterr().err.splitlines()[-1]


def test_the_soak_script_finds_what_is_lost(quick, monkeypatch):
    """Against jobs that are done at once: all is well; where one fails or a bad request is taken, that is a fault."""
    from argparse import Namespace

    from scripts import soak_api

    port, maker, _ = quick
    options = Namespace(jobs=6, at_once=3, bad=16, upload_mb=0.1)
    monkeypatch.setattr(maker.prior, "check_sentence", tiny_micro_prior().check_sentence)
    found = soak_api.soak(port, os.getpid(), options)
    assert found["done"] == found["meshes fetched"] == 6 and found["bad requests refused"] == 16 and found["faults"] == []
    monkeypatch.setattr(soak_api, "BAD", ({"prompt": "a red car"},))
    found = soak_api.soak(port, os.getpid(), Namespace(jobs=2, at_once=2, bad=1, upload_mb=0.1))
    assert found["bad requests refused"] == 0 and len(found["faults"]) == 1 and "bad request 0: 202" in found["faults"][0]
