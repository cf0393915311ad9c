"""The two tools for agents: by themselves over a running server, and through an MCP client that starts the program."""

import asyncio
import os
import sys
import time
from pathlib import Path

import pytest
import trimesh
from batch_bench import view_of

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
from web_serving import free_port, serving

from microdreamer.core.errors import UserError
from microdreamer.web import agents
from microdreamer.web.agents import Server, tools_of
from microdreamer.web.api import create_api

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def address(jobs, maker):
    with serving(create_api(jobs, maker, "sesame")) as port:
        yield f"http://127.0.0.1:{port}"


@pytest.fixture
def picture(prior, tmp_path):
    view_of(prior).save(tmp_path / "egg_rgba.png")
    return tmp_path / "egg_rgba.png"


def wait(get, job):
    end = time.monotonic() + 60
    while not (answer := get(job)).startswith("done"):
        assert time.monotonic() < end and "% done" in answer
        time.sleep(0.05)
    return answer


def test_a_picture_is_made_an_object_and_its_files_are_saved(address, picture, tmp_path):
    make_3d, get_3d = tools_of(Server(address, "sesame"), tmp_path / "out")
    job = make_3d(picture=str(picture), seed=1).split()[1]
    paths = [Path(line) for line in wait(get_3d, job).splitlines()[1:]]
    assert {path.name for path in paths} >= {"egg_model.glb", "egg_model.ply", "egg_views.png"}
    assert all(path.is_file() and path.parent == tmp_path / "out" / job for path in paths)
    assert len(trimesh.load(next(path for path in paths if path.name == "egg_model.glb"), force="mesh").faces) > 10


@pytest.mark.parametrize("name", ["/etc/passwd", "secret.txt", "none.png", "."])
def test_nothing_but_pictures_leaves_the_machine(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret.txt").write_text("secret")
    server = Server("http://127.0.0.1:1")
    monkeypatch.setattr(server, "ask", lambda *_: pytest.fail("something was sent"))
    with pytest.raises(UserError, match=r"not a picture|no such file|expected a picture"):
        tools_of(server, tmp_path)[0](picture=name)


def test_what_goes_wrong_is_one_line(address, tmp_path):
    make_3d, get_3d = tools_of(Server(address, "sesame"), tmp_path)
    with pytest.raises(UserError, match="nothing to make"):
        make_3d()
    with pytest.raises(UserError, match=r"no such job|not found"):
        get_3d("../../etc")
    with pytest.raises(UserError, match="Bearer TOKEN"):
        tools_of(Server(address, "wrong"), tmp_path)[1]("x")
    with pytest.raises(UserError, match=r"no server answers there .*start one"):
        tools_of(Server(f"http://127.0.0.1:{free_port()}"), tmp_path)[1]("x")


def test_wrong_words(capsys):
    assert agents.main(["--server=localhost"]) == 2 and "http://" in capsys.readouterr().err


def test_an_agent_finds_and_uses_them(address, picture, tmp_path):
    mcp = pytest.importorskip("mcp")
    words = ["-m", "microdreamer.web.agents", f"--server={address}", "--token=sesame", f"--folder={tmp_path / 'out'}"]
    environment = {key: os.environ[key] for key in ("PATH", "HOME") if key in os.environ} | {"OMP_NUM_THREADS": "1"}
    program = mcp.StdioServerParameters(command=sys.executable, args=words, cwd=ROOT, env=environment)

    async def use():
        async with mcp.Client(program) as client:
            tools = {tool.name: tool for tool in (await client.list_tools()).tools}
            assert set(tools) == {"make_3d", "get_3d"} and "sentence" in tools["make_3d"].description
            made = await client.call_tool("make_3d", {"picture": str(picture), "preset": "fast"})
            job = made.content[0].text.split()[1]
            for _ in range(600):
                told = await client.call_tool("get_3d", {"job": job})
                if told.content[0].text.startswith("done"):
                    break
                await asyncio.sleep(0.1)
            bad = await client.call_tool("make_3d", {"picture": "/etc/passwd"})
            assert bad.is_error and "not a picture" in bad.content[0].text and "root:" not in bad.content[0].text
            return job

    job = asyncio.run(asyncio.wait_for(use(), 150))
    assert (tmp_path / "out" / job / "egg_model.glb").read_bytes()[:4] == b"glTF"
