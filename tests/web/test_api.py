"""The HTTP API: what 3D tools post, jobs from submission to files, and one line of JSON for whatever is wrong."""

import base64
import io
import json
import logging
import threading
import time
import zipfile

import numpy as np
import pytest
import trimesh
from batch_bench import view_of
from fake_priors import tiny_micro_prior
from PIL import Image
from splat_scenes import ball

pytest.importorskip("fastapi")
pytest.importorskip("httpx")
from starlette.testclient import TestClient

from microdreamer.gaussians.model import GaussianModel
from microdreamer.gaussians.splat_files import WRITERS
from microdreamer.web import api as module
from microdreamer.web import orders
from microdreamer.web.api import create_api
from microdreamer.web.jobs import Jobs


@pytest.fixture
def client(jobs, maker):
    with TestClient(create_api(jobs, maker), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture(scope="module")
def picture(prior):
    return encoded(view_of(prior))


def encoded(image, format="PNG"):
    buffer = io.BytesIO()
    image.save(buffer, format=format)
    return base64.b64encode(buffer.getvalue()).decode()


def mesh_of(data, type="glb"):
    return trimesh.load(io.BytesIO(data), file_type=type, force="mesh")


def picture_on(mesh):
    """The texture of a mesh read from a GLB, or None."""
    return mesh.visual.material.baseColorTexture


def ended(client, id, seconds=60):
    until = time.monotonic() + seconds
    while (state := client.get(f"/v1/jobs/{id}").json())["status"] in ("queued", "running"):
        assert time.monotonic() < until
        time.sleep(0.02)
    return state


def line_of(response):
    """The one line that an error is; nothing of the machine in it."""
    assert response.headers["content-type"] == "application/json" and set(response.json()) <= {"error", "status", "message"}
    line = response.json()["error"]
    assert line and "\n" not in line and "Traceback" not in line and "/tmp" not in line and ".py" not in line
    return line


# ---- As other 3D servers ----


def test_what_a_blender_add_on_posts_is_answered_with_a_glb(client, picture):
    """The fields that the public add-on of Hunyuan3D-2 sends for a picture."""
    body = {"image": picture, "octree_resolution": 256, "num_inference_steps": 20, "guidance_scale": 5.5, "texture": True}
    response = client.post("/generate", json=body)
    assert response.status_code == 200, response.text
    assert response.content[:4] == b"glTF" and response.headers["content-type"] == "model/gltf-binary"
    assert response.headers["x-ignored"] == "guidance_scale, num_inference_steps, octree_resolution"
    mesh = mesh_of(response.content)
    assert len(mesh.faces) > 10 and picture_on(mesh) is not None


def test_what_it_posts_for_a_sentence_and_without_texture(client):
    body = {"text": "an egg", "octree_resolution": 256, "num_inference_steps": 20, "guidance_scale": 5.5, "texture": False}
    response = client.post("/generate", json=body)
    assert response.status_code == 200, response.text
    mesh = mesh_of(response.content)
    assert len(mesh.faces) > 10 and picture_on(mesh) is None


def test_what_it_posts_for_a_mesh_to_paint(client, picture):
    shape = trimesh.creation.icosphere(2, 0.6)
    glb = base64.b64encode(shape.export(file_type="glb")).decode()
    body = {"mesh": glb, "image": picture, "octree_resolution": 256, "num_inference_steps": 20, "guidance_scale": 5.5, "texture": True}
    response = client.post("/generate", json=body)
    assert response.status_code == 200, response.text
    mesh = mesh_of(response.content)
    assert len(mesh.faces) == len(shape.faces) and picture_on(mesh) is not None
    np.testing.assert_allclose(sorted(mesh.extents), sorted(shape.extents), rtol=0.02)


def test_send_and_status_until_the_model_is_there(client, picture):
    sent = client.post("/send", json={"image": f"data:image/png;base64,{picture}", "seed": 5, "face_count": 300})
    assert sent.status_code == 200 and set(sent.json()) == {"uid"}
    uid, until = sent.json()["uid"], time.monotonic() + 60
    while (answer := client.get(f"/status/{uid}").json())["status"] == "processing":
        assert time.monotonic() < until and "model_base64" not in answer
        time.sleep(0.02)
    assert answer["status"] == "completed"
    mesh = mesh_of(base64.b64decode(answer["model_base64"]))
    assert 10 < len(mesh.faces) <= 300
    assert client.get("/status/test").status_code == 404  # how some clients ask whether a server is there


def test_a_failed_job_is_told_as_failed(client, picture, prior, monkeypatch):
    def fail(*_):
        raise ValueError("the prior cannot take this")

    monkeypatch.setattr(prior, "condition", fail)
    response = client.post("/generate", json={"image": picture})
    assert response.status_code == 422 and line_of(response) == "the prior cannot take this"
    uid = client.post("/send", json={"image": picture}).json()["uid"]
    assert ended(client, uid)["error"] == "the prior cannot take this"
    assert client.get(f"/status/{uid}").json() == {"status": "error", "message": "the prior cannot take this"}


def test_a_fault_of_the_program_says_nothing_of_its_inside(client, picture, prior, monkeypatch):
    monkeypatch.setattr(prior, "condition", lambda *_: {}["/etc/secret"])
    response = client.post("/generate", json={"image": picture})
    assert response.status_code == 422 and line_of(response) == "a fault of the program (KeyError); its log has the details"


@pytest.mark.parametrize("type", ["obj", "ply", "splat", "spz", "stl", "zip"])
def test_other_types_of_files(client, picture, type, tmp_path):
    response = client.post("/generate", json={"image": picture, "type": type})
    assert response.status_code == 200, response.text
    if type == "obj":
        assert len(mesh_of(response.content, "obj").faces) > 10
    elif type == "stl":
        assert mesh_of(response.content, "stl").extents.max() == pytest.approx(100, rel=1e-4)
    elif type == "zip":
        names = set(zipfile.ZipFile(io.BytesIO(response.content)).namelist())
        assert {"object_model.glb", "object_model.ply", "object.mp4", "object_views.png", "object.json"} <= names and "picture" not in names
    else:
        (tmp_path / f"a.{type}").write_bytes(response.content)
        assert len(GaussianModel.load(tmp_path / f"a.{type}", "cpu")) > 10


# ---- Jobs ----


def test_a_job_from_its_submission_to_its_files(client, picture):
    response = client.post("/v1/jobs", json={"picture": picture, "prompt": "an egg", "preset": "best", "seed": 1, "name": "../My Egg"})
    assert response.status_code == 202
    id = response.json()["id"]
    assert response.headers["location"] == f"/v1/jobs/{id}"
    state = ended(client, id)
    assert state["status"] == "done" and state["fraction"] == 1 and state["error"] is None
    name = ".._My Egg".lstrip(".")
    assert {f"{name}_model.glb", f"{name}_refined.glb", f"{name}_model.ply", f"{name}_views.png", f"{name}.mp4"} <= set(state["files"])
    for file, address in state["files"].items():
        found = client.get(address)
        assert found.status_code == 200 and found.content, file
    record = client.get(state["files"][f"{name}.json"]).json()
    assert record["config"]["seed"] == 1 and record["config"]["prompt"] == "an egg"
    assert "/" not in json.dumps(record["config"]["outdir"]) and record["config"]["input"] is None
    assert [job["id"] for job in client.get("/v1/jobs").json()["jobs"]] == [id]


@pytest.mark.parametrize("format", ["ply", "spz", "glb"])
def test_gaussians_become_a_mesh_where_they_are(client, format, tmp_path):
    parameters = ball(1500)
    parameters["means"] = parameters["means"] + np.array([3, 0, 0], np.float32)
    WRITERS[format](tmp_path / "a", parameters)
    splats = base64.b64encode((tmp_path / "a").read_bytes()).decode()
    state = ended(client, client.post("/v1/jobs", json={"splats": splats, "faces": 300, "size_mm": 40, "name": "ball"}).json()["id"])
    assert set(state["files"]) == {"ball_model.glb", "ball_model.obj", "ball_model.mtl", "ball_model_albedo.png", "ball_model.stl"}, state
    mesh = mesh_of(client.get(state["files"]["ball_model.glb"]).content)
    assert len(mesh.faces) <= 300 and picture_on(mesh) is not None
    np.testing.assert_allclose(mesh.bounds.mean(0), [3, 0, 0], atol=0.05)
    assert mesh_of(client.get(state["files"]["ball_model.stl"]).content, "stl").extents.max() == pytest.approx(40, rel=1e-4)


def test_the_same_order_gives_the_same_bytes_and_those_of_the_library(client, picture, prior, maker):
    import microdreamer

    found = [client.post("/generate", json={"image": picture, "type": "ply", "seed": 3}).content for _ in range(2)]
    assert found[0] == found[1]
    image = Image.open(io.BytesIO(base64.b64decode(picture)))
    result = microdreamer.reconstruct(image, config=orders.Order(seed=3).config(maker.config), prior=prior)
    buffer = io.BytesIO(found[0])
    assert len(result.gaussians) == int(next(line for line in buffer if line.startswith(b"element vertex")).split()[2])


def test_events_tell_progress_up_to_the_end(client, picture):
    id = client.post("/v1/jobs", json={"picture": picture}).json()["id"]
    with client.stream("GET", f"/v1/jobs/{id}/events") as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        states = [json.loads(line.removeprefix("data: ")) for line in response.iter_lines() if line.startswith("data: ")]
    assert states[-1]["status"] == "done" and states[-1]["files"]
    versions = [state["version"] for state in states]
    assert versions == sorted(set(versions))
    fractions = [state["fraction"] for state in states]
    assert fractions == sorted(fractions) and all(state["id"] == id for state in states)


class Slow:
    """A maker whose jobs last until they are cancelled or the gate is opened."""

    def __init__(self, maker):
        self.config, self.prior, self.gate = maker.config, maker.prior, threading.Event()

    def __call__(self, job):
        job.told("fit", "round 1/2", 0.5, 10.0, b"\xff\xd8jpeg")
        while not self.gate.wait(0.01):
            if job.should_stop():
                raise module.UserError("stopped")
        (job.folder / "object_model.glb").write_bytes(b"glTF")
        return {"object_model.glb": job.folder / "object_model.glb"}


@pytest.fixture
def slow(maker, tmp_path):
    """A client whose jobs wait, the jobs, and the maker."""
    maker = Slow(maker)
    jobs = Jobs(maker, tmp_path / "slow", most_waiting=3)
    with TestClient(create_api(jobs, maker), raise_server_exceptions=False) as client:
        yield client, jobs, maker
    jobs.close(10)


def test_jobs_are_cancelled_and_previewed(slow, picture):
    client, _, maker = slow
    ids = [client.post("/v1/jobs", json={"picture": picture}).json()["id"] for _ in range(3)]
    until = time.monotonic() + 60
    while (response := client.get(f"/v1/jobs/{ids[0]}/preview.jpg")).status_code == 404:
        assert time.monotonic() < until and "no picture yet" in line_of(response)
    assert response.content == b"\xff\xd8jpeg" and response.headers["content-type"] == "image/jpeg"
    states = {job["id"]: job for job in client.get("/v1/jobs").json()["jobs"]}
    assert [states[id]["ahead"] for id in ids] == [0, 0, 1] and states[ids[0]]["seconds_left"] == 10
    assert client.delete(f"/v1/jobs/{ids[1]}").json()["status"] == "cancelled"
    client.delete(f"/v1/jobs/{ids[0]}")
    assert ended(client, ids[0])["status"] == "cancelled"
    assert client.get(f"/status/{ids[0]}").json()["status"] == "error"
    maker.gate.set()
    assert ended(client, ids[2])["status"] == "done"


def test_several_pictures_of_one_object(client, prior, jobs, caplog):
    """Each with its camera; the result says where they stand. Without azimuths these are found, and told."""
    caplog.set_level(logging.INFO, "microdreamer")  # as the server sets it
    sides = [encoded(view_of(prior, azimuth)) for azimuth in (0.0, 270.0)]
    body = {"pictures": sides, "azimuth": [0, 270], "elevation": [0, 0], "name": "egg", "preset": "best"}
    sent = client.post("/v1/jobs", json=body)
    assert sent.status_code == 202, sent.text
    state = ended(client, sent.json()["id"])
    assert state["status"] == "done" and {"egg_cameras.jpg", "egg_model.glb", "egg_refined.glb"} <= set(state["files"])
    assert not any("picture" in name for name in state["files"])
    record = client.get(state["files"]["egg.json"]).json()
    assert record["cameras"] == [{"elevation": 0.0, "azimuth": 0.0}, {"elevation": 0.0, "azimuth": 270.0}]
    found = ended(client, client.post("/v1/jobs", json={"pictures": sides}).json()["id"])
    assert found["status"] == "done" and any("taken for the left side" in note for note in found["notes"])


def test_words_are_checked_before_a_job_waits(jobs, maker, picture, monkeypatch):
    """A sentence of which the micro prior (here one that knows a, blue, car and red) knows no word is refused at once."""
    monkeypatch.setattr(maker.prior, "check_sentence", tiny_micro_prior().check_sentence)
    with TestClient(create_api(jobs, maker), raise_server_exceptions=False) as client:
        for path, body in (
            ("/v1/jobs", {"prompt": "xyzzy"}),
            ("/v1/jobs", {"prompt": "xyzzy", "picture": picture}),
            ("/v1/jobs", {"prompt": "a car", "negative_prompt": "xyzzy"}),
            ("/generate", {"text": "xyzzy"}),
            ("/send", {"text": "xyzzy"}),
        ):
            response = client.post(path, json=body)
            assert response.status_code == 400
            assert line_of(response) == "prompt 'xyzzy': the micro prior knows none of these words (4 known)"
        assert list(jobs.folder.iterdir()) == [] and jobs.waiting == 0
        assert client.post("/v1/jobs", json={"prompt": "a red chair"}).status_code == 202


def test_a_full_queue_is_429_and_nothing_is_lost(slow, picture):
    client, jobs, maker = slow
    answers = [client.post("/v1/jobs", json={"picture": picture}) for _ in range(8)]
    taken = [answer.json()["id"] for answer in answers if answer.status_code == 202]
    full = [answer for answer in answers if answer.status_code == 429]
    assert len(taken) + len(full) == 8 and 3 <= len(taken) <= 4
    assert all("waiting" in line_of(answer) and answer.headers["retry-after"] for answer in full)
    assert {path.name for path in jobs.folder.iterdir()} == set(taken)
    maker.gate.set()
    assert {ended(client, id)["status"] for id in taken} == {"done"}


# ---- What is wrong ----

BAD = [
    ("/v1/jobs", {}, 400, "nothing to make"),
    ("/v1/jobs", {"prompt": "   "}, 400, "nothing to make"),
    ("/v1/jobs", {"promt": "an egg"}, 400, "promt"),
    ("/v1/jobs", {"prompt": "an egg", "preset": "huge"}, 400, "expected one of fast, normal, best"),
    ("/v1/jobs", {"prompt": "an egg " * 100}, 400, "at most 500 characters"),
    ("/v1/jobs", {"prompt": "an egg", "seed": -1}, 400, "seed"),
    ("/v1/jobs", {"prompt": "an egg", "seed": "x"}, 400, "seed"),
    ("/v1/jobs", {"prompt": "an egg", "elevation": 89}, 400, "elevation=89.0: expected a number from -85 to 85"),
    ("/v1/jobs", {"prompt": "an egg", "faces": 1}, 400, "faces=1: expected a whole number from 4"),
    ("/v1/jobs", {"prompt": "an egg", "faces": 10**9}, 400, "at most 200000 here"),
    ("/v1/jobs", {"prompt": "an egg", "texture_size": 8192}, 400, "at most 2048 here"),
    ("/v1/jobs", {"picture": "%%%"}, 400, "picture: expected base64"),
    ("/v1/jobs", {"picture": "aGVsbG8="}, 400, "picture: not a picture this can read"),
    ("/v1/jobs", {"picture": "/etc/passwd"}, 400, "picture"),
    ("/v1/jobs", {"picture": ["a"]}, 400, "picture"),
    ("/v1/jobs", {"pictures": []}, 400, "pictures"),
    ("/v1/jobs", {"pictures": ["%%%"]}, 400, "pictures.0: expected base64"),
    ("/v1/jobs", {"pictures": ["aGVsbG8="] * 9}, 400, "pictures"),
    ("/v1/jobs", {"pictures": ["aGVsbG8="] * 2, "azimuth": [0, 90, 180]}, 400, "azimuth=0,90,180: expected 2 numbers, one for each"),
    ("/v1/jobs", {"pictures": ["aGVsbG8="] * 2, "azimuth": [0, 360]}, 400, "pictures 1 and 2 are taken from the same place"),
    ("/v1/jobs", {"pictures": ["aGVsbG8="] * 2, "azimuth": [0, 999]}, 400, "azimuth=[0.0, 999.0]: expected a number from -360 to 360"),
    ("/v1/jobs", {"pictures": ["aGVsbG8="] * 2, "elevation": [0]}, 400, "elevation=0: expected 2 numbers"),
    ("/v1/jobs", {"picture": "aGVsbG8=", "pictures": ["aGVsbG8="]}, 400, "picture and pictures: expected one of them"),
    ("/v1/jobs", {"prompt": "an egg", "azimuth": [0, 90]}, 400, "azimuth=0,90: expected as many pictures"),
    ("/v1/jobs", {"mesh": "aGVsbG8=", "prompt": "an egg"}, 400, "mesh.glb: expected a mesh as binary glTF"),
    ("/v1/jobs", {"mesh": "aGVsbG8="}, 400, "nothing to refine the mesh by"),
    ("/v1/jobs", {"splats": "aGVsbG8="}, 400, "splats: expected Gaussians as PLY"),
    ("/v1/jobs", {"prompt": "an egg", "size_mm": -1}, 400, "size_mm=-1: expected"),
    ("/v1/jobs", [], 400, "body"),
    ("/generate", {"image": "aGVsbG8="}, 400, "not a picture"),
    ("/generate", {"text": "an egg", "type": "fbx"}, 400, "type=fbx: expected one of glb, obj"),
    ("/generate", {"text": "an egg", "image_left": "aGVsbG8="}, 400, "one picture here"),
    ("/generate", {"text": "an egg", "colour": "red"}, 400, "colour: no such field"),
    ("/send", {}, 400, "nothing to make"),
]


@pytest.mark.parametrize(("path", "body", "status", "words"), BAD)
def test_what_is_wrong_is_one_line(client, jobs, path, body, status, words):
    response = client.post(path, json=body)
    assert response.status_code == status and words in line_of(response)
    assert list(jobs.folder.iterdir()) == []


def test_bodies_that_are_no_json_or_too_large(client, jobs, monkeypatch):
    assert "JSON" in line_of(client.post("/v1/jobs", content=b'{"prompt": "an egg"}', headers={"content-type": "text/plain"}))
    bad = client.post("/v1/jobs", content=b'{"prompt": ', headers={"content-type": "application/json"})
    assert bad.status_code == 400 and "JSON" in line_of(bad)
    monkeypatch.setattr(module, "MAX_BODY", 1000)
    for body in (b"x" * 2000, (b"x" * 100 for _ in range(20))):  # with and without an announced length
        large = client.post("/v1/jobs", content=body, headers={"content-type": "application/json"})
        assert large.status_code == 413 and "too large" in line_of(large)
    assert list(jobs.folder.iterdir()) == []


def test_pictures_of_too_few_or_too_many_pixels(client, monkeypatch):
    small = client.post("/v1/jobs", json={"picture": encoded(Image.new("RGB", (4, 4), "red"))})
    assert small.status_code == 400 and line_of(small) == "picture: expected at least 16x16 pixels, got 4x4; take a larger picture"
    monkeypatch.setattr(orders, "MAX_MEGAPIXELS", 0.001)
    large = client.post("/v1/jobs", json={"picture": encoded(Image.new("RGB", (64, 64), "red"))})
    assert large.status_code == 400 and "megapixels" in line_of(large)
    bomb = client.post("/v1/jobs", json={"picture": encoded(Image.new("1", (16000, 16000)))})
    assert bomb.status_code == 400 and "megapixels" in line_of(bomb)


def test_a_mesh_may_not_name_files_of_the_server(client, tmp_path, picture):
    secret = tmp_path / "secret.png"
    Image.new("RGB", (8, 8), "red").save(secret)
    mesh = trimesh.creation.box()
    data = bytearray(mesh.export(file_type="glb"))
    length = int.from_bytes(data[12:16], "little")
    document = json.loads(data[20 : 20 + length])
    for uri in (f"../../{secret.name}", str(secret), "file:///etc/passwd", "DATA:x", "\u002e./x"):
        named = json.dumps(document | {"images": [{"uri": uri}]}).encode()
        named += b" " * (-len(named) % 4)
        body = len(named).to_bytes(4, "little") + b"JSON" + named + bytes(data[20 + length :])
        glb = b"glTF" + (2).to_bytes(4, "little") + (12 + len(body)).to_bytes(4, "little") + body
        response = client.post("/v1/jobs", json={"mesh": base64.b64encode(glb).decode(), "picture": picture})
        assert response.status_code == 400 and "names files beside it" in line_of(response), uri


def test_two_hundred_bad_requests_leave_nothing_and_a_good_one_goes_through(client, jobs, picture):
    statuses = set()
    for number in range(200):
        path, body, _, _ = BAD[number % len(BAD)]
        statuses.add(client.post(path, json=body).status_code)
    assert statuses == {400} and list(jobs.folder.iterdir()) == []
    assert client.post("/generate", json={"image": picture}).status_code == 200


# ---- Doors ----


def test_a_token_is_asked_for_everywhere(jobs, maker, picture):
    with TestClient(create_api(jobs, maker, "sesame"), raise_server_exceptions=False) as client:
        for method, path in (
            *(("POST", "/generate"), ("POST", "/send"), ("GET", "/status/x"), ("GET", "/v1"), ("GET", "/v1/jobs"), ("POST", "/v1/jobs")),
            *(("GET", "/v1/jobs/x/files/y"), ("DELETE", "/v1/jobs/x"), ("GET", "/docs"), ("GET", "/openapi.json")),
        ):
            for header in ({}, {"authorization": "Bearer wrong"}, {"authorization": "sesame"}, {"authorization": "Basic sesame"}):
                response = client.request(method, path, headers=header)
                assert response.status_code == 401 and "Bearer TOKEN" in line_of(response), (path, header)
        assert client.get("/health").json()["status"] == "healthy"
        client.headers["authorization"] = "Bearer sesame"
        assert client.get("/v1").status_code == 200
        assert client.post("/generate", json={"image": picture}).status_code == 200


def test_what_is_not_there_is_told_as_json(client):
    for method, path, status in (("GET", "/nothing", 404), ("GET", "/generate", 405), ("PUT", "/v1/jobs", 405), ("GET", "/v1/jobs/x", 404)):
        response = client.request(method, path)
        assert response.status_code == status and line_of(response)


def test_the_openapi_page_tells_bodies_and_the_server_its_limits(client):
    document = client.get("/openapi.json").json()
    body = document["paths"]["/v1/jobs"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert {"picture", "prompt", "preset"} <= set(body["properties"])
    generate = document["paths"]["/generate"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert {"image", "text", "seed", "face_count", "texture", "type"} <= set(generate["properties"])
    about = client.get("/v1").json()
    assert about["accepts"] == ["image", "prompt"] and about["limits"]["megapixels"] == 40 and set(about["presets"]) == set(orders.PRESETS)
