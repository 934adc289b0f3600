"""Programs measured from outside: seconds, CPU seconds and peak memory of a fresh process; a server that listens."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import batchflux

__all__ = ["Listener", "Measured", "begin", "measure"]

_HOME = Path(batchflux.__file__).parents[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What a process took. `first_post_s` is None where nothing was submitted."""

    status: int
    seconds: float
    cpu_s: float
    peak_mb: float
    out: str = ""
    first_post_s: float | None = None


@dataclass
class Listener:
    """A service on loopback that takes submissions, answers none of the other questions, and notes when they come."""

    posts: list[float] = field(default_factory=list)
    requests: int = 0

    def __post_init__(self) -> None:
        listener = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                listener.requests += 1
                self._answer(404, {"code": 404, "message": "not here"})

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["content-length"]))
                listener.requests += 1
                if self.path.endswith("text-to-image"):
                    listener.posts.append(time.perf_counter())
                    data = {"id": f"p{len(listener.posts)}", "status": "created"}
                    self._answer(200, {"code": 200, "message": "success", "data": data})
                else:
                    self._answer(404, {"code": 404, "message": "not here"})

            def _answer(self, status: int, content: object) -> None:
                body = json.dumps(content).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def __enter__(self) -> "Listener":
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def begin(arguments: Sequence[str]) -> subprocess.Popen[str]:
    """Start a Python module of ours with arguments, as a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(_HOME), "WAVESPEED_API_KEY": "k-benchmark"}
    environment.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")  # as the command line sets it, for the feeder too
    return subprocess.Popen(
        [sys.executable, "-m", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=_HOME,
        env=environment,
    )


def measure(arguments: Sequence[str], *, until_post: Listener | None = None) -> Measured:
    """Run a module to its end, or until it has submitted something: then it is killed."""
    began = time.perf_counter()
    process = begin(arguments)
    first_post_s = None
    if until_post is not None:
        while process.poll() is None and not until_post.posts:
            time.sleep(0.005)
        if until_post.posts:
            first_post_s = until_post.posts[0] - began
            process.kill()
    assert process.stdout is not None
    out = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0) if process.returncode is None else (0, process.returncode, None)
    seconds = time.perf_counter() - began
    if usage is None:
        raise RuntimeError(f"it ended before it submitted anything:\n{out}")
    process.returncode = os.waitstatus_to_exitcode(status)
    scale = 1e6 if sys.platform == "darwin" else 1e3
    return Measured(
        status=process.returncode,
        seconds=seconds,
        cpu_s=usage.ru_utime + usage.ru_stime,
        peak_mb=usage.ru_maxrss / scale,
        out=out,
        first_post_s=first_post_s,
    )
