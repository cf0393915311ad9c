"""A server in a thread of its own, for tests of the page and the HTTP API over real sockets. Needs uvicorn."""

import contextlib
import socket
import threading
import time

import uvicorn


def free_port():
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        return door.getsockname()[1]


@contextlib.contextmanager
def serving(app):
    """The port of a server in a thread of its own."""
    config = uvicorn.Config(app, host="127.0.0.1", port=(port := free_port()), log_level="error", timeout_graceful_shutdown=2)
    serve = uvicorn.Server(config)
    thread = threading.Thread(target=serve.run, daemon=True)
    thread.start()
    until(lambda: serve.started)
    try:
        yield port
    finally:
        serve.should_exit = True
        thread.join(10)


def until(true, seconds=60):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)
