"""An MCP server for agents, two tools over the HTTP API: `python -m microdreamer.web.agents` (extra `mcp`; docs/integrations.md).

It speaks over stdin and stdout and talks to a running `python app.py`. Of the machine's files it reads pictures alone, each checked to be
one before it is sent, and it writes into one folder, which is said at its start.
"""

from __future__ import annotations

import argparse
import base64
import functools
import importlib.util
import json
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from microdreamer.core.command import Parser, exit_code
from microdreamer.core.errors import UserError, one_line, user_errors
from microdreamer.core.files import atomic_write, user_path

SECONDS = 60  # that an answer may take; jobs themselves are only asked after
MISSING = "the package mcp is not installed: pip install 'microdreamer-optimized[mcp]'"


class Server:
    """The HTTP API of a running server."""

    def __init__(self, address: str, token: str | None = None) -> None:
        self.address, self._token = address.rstrip("/"), token

    def ask(self, path: str, body: dict[str, Any] | None = None) -> bytes:
        """What the server answers. Raises UserError in its own words, or where it cannot be reached."""
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self._token}"} if self._token else {})
        data = None if body is None else json.dumps(body).encode()
        try:
            with urllib.request.urlopen(urllib.request.Request(self.address + path, data, headers), timeout=SECONDS) as answer:
                return answer.read()
        except urllib.error.HTTPError as error:
            raise UserError(_line_of(error)) from None
        except OSError as error:
            reason = getattr(error, "reason", error)
            raise UserError(f"{self.address}: no server answers there ({reason}); start one: python app.py --no-page") from None


def _line_of(error: urllib.error.HTTPError) -> str:
    try:
        return str(json.loads(error.read())["error"])
    except (ValueError, KeyError, TypeError):
        return f"the server answered {error.code}"


def tools_of(server: Server, folder: Path) -> tuple[Callable[..., str], Callable[..., str]]:
    """The two tools; results go into `folder`."""

    def make_3d(prompt: str = "", picture: str = "", preset: str = "normal", seed: int = 0) -> str:
        """Start making a 3D object from a sentence, from a picture on this machine (its path), or from both.

        preset: fast, normal or best. Takes from half a minute to several; returns the job's id, which get_3d asks after.
        """
        body: dict[str, Any] = {"prompt": prompt or None, "preset": preset, "seed": seed}
        if picture:
            with user_errors():
                path = user_path(picture)
                from microdreamer.web.orders import check_picture  # nothing but a picture leaves this machine

                check_picture(path)
                body |= {"picture": base64.b64encode(path.read_bytes()).decode(), "name": path.stem.removesuffix("_rgba")}
        elif prompt:
            body["name"] = prompt
        job = json.loads(server.ask("/v1/jobs", body))
        return f"job {job['id']} is {job['status']}; ask get_3d after it"

    def get_3d(job: str) -> str:
        """How far a job of make_3d is; once it is done, its files (mesh, Gaussians, views) are saved and their paths returned."""
        state = json.loads(server.ask(f"/v1/jobs/{urllib.parse.quote(job, safe='')}"))
        if state["status"] == "failed":
            raise UserError(f"the job failed: {state['error']}")
        if state["status"] != "done":
            left = "" if state["seconds_left"] is None else f", about {state['seconds_left']:.0f} s of rounds left"
            return f"{state['status']}, {state['fraction']:.0%} done{left}"
        paths = []
        for name, address in state["files"].items():
            path = folder / Path(state["id"]).name / Path(name).name
            with user_errors(), atomic_write(path) as temporary:
                temporary.write_bytes(server.ask(urllib.parse.quote(address)))
            paths.append(str(path))
        return "done:\n" + "\n".join(paths)

    return make_3d, get_3d


def create_mcp(server: Server, folder: Path) -> Any:
    """The MCP server. What goes wrong is told to the agent in one line."""
    from mcp.server.mcpserver import MCPServer
    from mcp.server.mcpserver.exceptions import ToolError

    def told(tool: Callable[..., str]) -> Callable[..., str]:
        @functools.wraps(tool)
        def call(*words: Any, **keys: Any) -> str:
            try:
                return tool(*words, **keys)
            except UserError as error:
                raise ToolError(one_line(error)) from None

        return call

    mcp = MCPServer("microdreamer", log_level="ERROR")
    for tool in tools_of(server, folder):
        mcp.tool()(told(tool))
    return mcp


def parse(arguments: Sequence[str], program: str) -> argparse.Namespace:
    parser = Parser(prog=program, description="An MCP server for agents over the HTTP API of a running `python app.py`.")
    parser.add_argument("--server", default="http://localhost:8081", help="default: http://localhost:8081")
    parser.add_argument("--token", help="that of the server")
    parser.add_argument("--folder", type=user_path, default=Path("microdreamer_results"), help="where results go")
    options = parser.parse_args(list(arguments))
    if not options.server.startswith(("http://", "https://")):
        raise UserError(f"--server {options.server}: expected an address that begins with http:// or https://")
    return options


def run(options: argparse.Namespace) -> int:
    """Serve until stdin ends."""
    if importlib.util.find_spec("mcp") is None:
        raise UserError(MISSING)
    create_mcp(Server(options.server, options.token), options.folder.resolve()).run("stdio")
    return 0


def main(arguments: Sequence[str], program: str = "microdreamer.web.agents") -> int:
    """See `core.command.exit_code`."""
    return exit_code(program, lambda: run(parse(arguments, program)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
