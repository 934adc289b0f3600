"""A service that answers at once: nginx where it is installed, else a small asyncio server, as a process of its own.

Every POST makes a prediction with a fresh id, every query of a result finds it completed. It keeps no state, so that
what is measured is the client. Listens on 127.0.0.1 only and ends with its `with` block.
"""

import argparse
import asyncio
import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Self
from uuid import uuid4

__all__ = ["OneFile", "ZeroLatency"]

_START_PATIENCE_S = 20.0

# The answers as the service words them; both servers fill in an id and a moment.
_PREDICTION = {
    "id": "ID",
    "model": "wavespeed-ai/flux-kontext-max/text-to-image",
    "outputs": [],
    "urls": {"get": "https://api.wavespeed.ai/api/v3/predictions/ID/result"},
    "has_nsfw_contents": [],
    "status": "created",
    "created_at": "MOMENT",
    "error": "",
    "timings": {"inference": 0},
}
_ELSEWHERE = "https://outputs.example/ID.png"
_DONE = {
    "outputs": [_ELSEWHERE],
    "has_nsfw_contents": [False],
    "status": "completed",
    "timings": {"inference": 1},
}


def _answer(data: Mapping[str, object]) -> str:
    return json.dumps({"code": 200, "message": "success", "data": data}, separators=(",", ":"))


_SUBMITTED = _answer(_PREDICTION)
_COMPLETED = _answer(_PREDICTION | _DONE)

_NGINX = """
daemon off; master_process off; pid {folder}/nginx.pid; error_log {folder}/error.log warn;
events {{ worker_connections 4096; }}
http {{
  access_log off; sendfile on; default_type application/json; keepalive_requests 100000000; keepalive_timeout 75s;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  server {{
    listen 127.0.0.1:{port} backlog=1024{tls};
    location /images/ {{ root {folder}; try_files /image =404; }}
    location ~ /predictions/(?<id>[A-Za-z0-9_-]+)/result$ {{ return 200 '{completed}'; }}
    location / {{
      if ($request_method = POST) {{ return 200 '{submitted}'; }}
      return 404 '{{"code":404,"message":"no"}}';
    }}
  }}
}}
"""


class ZeroLatency:
    """A running server. `tls` serves https with a certificate made for it, which `ca_file` then names.

    With an `image` its predictions' outputs lie there too, all with these bytes; that needs nginx.
    """

    def __init__(self, *, tls: bool = False, image: bytes | None = None) -> None:
        self.name = "nginx" if shutil.which("nginx") else "asyncio"
        self._tls, self._image = tls, image
        self._stack = ExitStack()
        self.ca_file: Path | None = None

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="batchflux-zero-")))
            port = _free_port()
            certificate = folder / "certificate.pem"
            if self._tls:
                _make_certificate(certificate)
                self.ca_file = certificate
            process = subprocess.Popen(self._command(folder, port), stdout=subprocess.DEVNULL)
            stack.callback(_end, process)
            _wait_for(port, process)
            self.origin = f"{'https' if self._tls else 'http'}://127.0.0.1:{port}"
            self.base_url = f"{self.origin}/api/v3"
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _command(self, folder: Path, port: int) -> list[str]:
        if self.name != "nginx":
            tls = ["--certificate", str(folder / "certificate.pem")] if self._tls else []
            return [sys.executable, "-m", "tests.benchmarks.server", str(port), *tls]
        file = folder / "certificate.pem"
        # The session cache lets clients resume, which a client may or may not do.
        tls_words = f" ssl; ssl_certificate {file}; ssl_certificate_key {file}; ssl_session_cache shared:S:10m"
        fill = {"ID": "$request_id", "MOMENT": "$time_iso8601"}
        conf = folder / "nginx.conf"
        completed = _COMPLETED
        if self._image is not None:
            folder.chmod(0o755)  # its worker may be another user
            (folder / "image").write_bytes(self._image)
            completed = completed.replace(_ELSEWHERE, f"http://127.0.0.1:{port}/images/ID.png")
        conf.write_text(
            _NGINX.format(
                folder=folder,
                port=port,
                tls=tls_words if self._tls else "",
                submitted=_filled(_SUBMITTED, fill),
                completed=_filled(completed, fill | {"ID": "$id"}),
            )
        )
        return ["nginx", "-c", str(conf), "-p", str(folder)]


_NGINX_FILE = """
daemon off; master_process off; pid {folder}/nginx.pid; error_log {folder}/error.log warn;
events {{ worker_connections 4096; }}
http {{
  access_log off; sendfile on; tcp_nopush on; keepalive_requests 100000000;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  server {{
    listen 127.0.0.1:{port} backlog=1024;
    location / {{ root {folder}; try_files /file =404; }}
  }}
}}
"""


class OneFile:
    """A running server that has the same bytes under every name. Needs nginx: what else is at hand is no match."""

    def __init__(self, data: bytes) -> None:
        self._data, self._stack = data, ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="batchflux-file-")))
            folder.chmod(0o755)  # its worker may be another user
            (folder / "file").write_bytes(self._data)
            port = _free_port()
            conf = folder / "nginx.conf"
            conf.write_text(_NGINX_FILE.format(folder=folder, port=port))
            process = subprocess.Popen(["nginx", "-c", str(conf), "-p", str(folder)], stdout=subprocess.DEVNULL)
            stack.callback(_end, process)
            _wait_for(port, process)
            self.origin = f"http://127.0.0.1:{port}"
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def _filled(text: str, words: dict[str, str]) -> str:
    for word, value in words.items():
        text = text.replace(word, value)
    return text


def _free_port() -> int:
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _wait_for(port: int, process: "subprocess.Popen[bytes]") -> None:
    deadline_s = time.monotonic() + _START_PATIENCE_S
    while time.monotonic() < deadline_s and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise RuntimeError(f"the server did not start; exit status {process.poll()}")


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    process.wait(timeout=10)


def _make_certificate(path: Path) -> None:
    """Write a key and a certificate for 127.0.0.1 into one file; needs the openssl command."""
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-days", "2", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", str(path), "-out", f"{path}.crt"),
        ],
        check=True,
        capture_output=True,
    )
    path.write_text(path.read_text() + Path(f"{path}.crt").read_text())


# ---------------------------------------------------------------------------------- where nginx is not installed


class _Zero(asyncio.Protocol):
    """Just enough HTTP for clients that send a head and its body, one request at a time a connection."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport, self._data = transport, b""

    def data_received(self, data: bytes) -> None:
        self._data += data
        head, found, rest = self._data.partition(b"\r\n\r\n")
        if not found:
            return
        lower = head.lower()
        at = lower.find(b"content-length:")
        length = int(lower[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
        if len(rest) < length:
            return
        self._data = rest[length:]
        closes = b"connection: close" in lower
        path = head.split(b" ", 2)[1].decode()
        moment = datetime.now(UTC).isoformat(timespec="seconds")
        status, body = "404 Not Found", '{"code":404,"message":"no"}'
        if path.endswith("/result"):
            status, body = "200 OK", _filled(_COMPLETED, {"ID": path.split("/")[-2], "MOMENT": moment})
        elif head.startswith(b"POST"):
            status, body = "200 OK", _filled(_SUBMITTED, {"ID": uuid4().hex, "MOMENT": moment})
        lines = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        self._transport.write(f"{lines}Connection: {'close' if closes else 'keep-alive'}\r\n\r\n{body}".encode())
        if closes:
            self._transport.close()


async def _serve(port: int, certificate: str | None) -> None:
    import ssl

    context = None
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
    server = await asyncio.get_running_loop().create_server(_Zero, "127.0.0.1", port, ssl=context, backlog=1024)
    await server.serve_forever()


def _main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("--certificate")
    given = parser.parse_args()
    asyncio.run(_serve(given.port, given.certificate))


if __name__ == "__main__":
    _main()
