"""Where a run can be struck: the calls by which it touches the disk and the service, wrapped, named and counted.

Only tests wrap them; the product has no hooks. A point is "OPERATION WHAT", such as "fdatasync journal" or "send
submit"; a run is struck before or after the n-th passage of one, or at the n-th passage of any.
"""

import asyncio
import errno
import os
import re
import signal
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

from batchflux.core.model import FactKind
from batchflux.io.journal import decode_fact
from tests.kills.power import Power

__all__ = ["NO_INTENT", "Act", "Points", "Strike", "kill"]

NO_INTENT = 99  # the exit status of a run that would have sent a submission before its intent was durable

Act = Literal["kill before", "kill after", "tear", "fail", "fail short", "fill", "cut"]

_TEMPORARY = re.compile(r"\.tmp-(?:[0-9a-f]{8}-)?")
_CALLS = ("open", "write", "fsync", "fdatasync", "replace", "unlink", "mkdir")
# What a full disk still does: names go, and what has its place is flushed.
_GROWING = frozenset({"open", "write"})
_CHUNK = bytes(1 << 20)


@dataclass(frozen=True, slots=True, kw_only=True)
class Strike:
    """What happens at the n-th passage (from 1) of a point; an empty point is any file call.

    "tear" writes a half and kills; "fail" raises the error instead of the call, "fail short" after a half was
    written; "fill" takes all that the disk has left, first; "cut" kills and leaves, as `cut` beside the run directory,
    what a power cut would, by dice of that `seed`. `lasting`: every growing call fails from then on.
    """

    act: Act
    point: str = ""
    nth: int = 1
    errno: int = errno.ENOSPC
    lasting: bool = False
    seed: int = 0


def kill() -> NoReturn:
    """End this process as nothing can prevent."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("SIGKILL was survived")


class Points:
    """One process's passages. `install` wraps for the rest of the process's life, after all imports."""

    def __init__(self, run_dir: Path, strike: Strike | None) -> None:
        self.passages: Counter[str] = Counter()
        self.has_struck = False
        self._root, self._strike = run_dir, strike
        self._files: dict[int, str] = {}
        self._intents: dict[int, list[tuple[str, int, int]]] = {}  # by journal, as written: body, moment, attempt
        self._durable: frozenset[tuple[str, int, int]] = frozenset()
        self._sent: Counter[str] = Counter()
        self._lock = threading.RLock()
        self._real = {name: getattr(os, name) for name in (*_CALLS, "close")}
        is_cut = strike is not None and strike.act == "cut"
        self._power = Power(run_dir, self._real, seed=strike.seed) if strike is not None and is_cut else None

    def install(self) -> None:
        """Put the wrappers in place."""
        import batchflux.app.run
        import batchflux.engine.hearing
        import batchflux.engine.reconciling
        import batchflux.io.checkpoint
        from batchflux.io.client import Client

        for name in _CALLS:
            setattr(os, name, self._file_call(name, self._real[name]))
        self._wrap_close(self._real["close"])
        for module, name, point in (
            (batchflux.engine.hearing, "decipher_submit", "decipher submit"),
            (batchflux.engine.reconciling, "judge", "judge lost"),
            (batchflux.io.checkpoint, "recover", "recover journals"),
            (batchflux.app.run, "publish_results", "publish results"),
        ):
            setattr(module, name, self._plain(point, getattr(module, name)))
        self._wrap_send(Client)

    # ------------------------------------------------------------------------------------------ the wrappers

    def _wrap_close(self, real: Callable[[int], None]) -> None:
        def close(fd: int) -> None:
            self._files.pop(fd, None)  # the number may be another file's next
            if self._power is not None:
                self._power.closed(fd)
            real(fd)

        os.close = close

    def _file_call(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            what = self._what(name, args)
            if what is None:
                return real(*args, **kwargs)
            act = self._pass(f"{name} {what}", is_file=True)
            if act is None and self.has_struck and self._lasting and name in _GROWING and self._grows(name, args):
                act = "fail"
            self._before(act, name, args)
            written = list(self._intents.get(args[0], ())) if name == "fdatasync" else []
            with self._lock if self._power is not None else nullcontext():
                result = real(*args, **kwargs)
                if self._power is not None:
                    self._power.note(name, args, result)
            if name == "open":
                self._files[result] = what
                self._intents.pop(result, None)
            elif name == "fdatasync":
                self._durable |= frozenset(written)
            elif name == "write" and what == "journal":
                self._note_written(args[0], bytes(args[1]))
            if act == "kill after":
                kill()
            return result

        return call

    def _note_written(self, fd: int, record: bytes) -> None:
        """Keep the intents of a journal that is not yet flushed; a record's payload stands behind eight bytes."""
        if record[8:].startswith(b'{"cell_id":'):
            fact = decode_fact(record[8:])
            if fact.kind is FactKind.INTENT:
                self._intents.setdefault(fd, []).append((fact.body or "", fact.at_ms, fact.attempt))

    def _check_intent(self, body: bytes) -> None:
        """End the process where a POST would leave whose intent a power cut could take."""
        self._sent[body.decode()] += 1
        if self._sent[body.decode()] > sum(1 for intent in self._durable if intent[0] == body.decode()):
            os.write(2, b"a submission without a durable intent\n")
            os._exit(NO_INTENT)

    def _before(self, act: Act | None, name: str, args: tuple[Any, ...]) -> None:
        if act in ("tear", "fail short") and name == "write":
            self._real["write"](args[0], bytes(args[1])[: len(args[1]) // 2])
        match act:
            case "kill before" | "tear":
                kill()
            case "fail" | "fail short":
                number = self._strike.errno if self._strike is not None else errno.EIO
                raise OSError(number, os.strerror(number))
            case "fill":
                self._fill()
            case "cut":
                self._cut()

    def _plain(self, point: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            act = self._pass(point)
            if act == "kill before":
                kill()
            if act == "fill":
                self._fill()
            if act == "cut":
                self._cut()
            result = real(*args, **kwargs)
            if act == "kill after":
                kill()
            return result

        return call

    def _wrap_send(self, client: Any) -> None:
        real = client.send

        async def send(this: Any, request: Any) -> Any:
            aim = _aim(request)
            if aim == "submit":
                self._check_intent(request.body)
            act = self._pass(f"send {aim}")
            if act == "kill before":
                kill()
            if act == "cut":
                self._cut()
            if act == "tear":  # the request is on its way, and nobody will hear the answer
                sending = asyncio.ensure_future(real(this, request))
                await asyncio.wait([sending], timeout=0.004)
                kill()
            answer = await real(this, request)
            if act == "kill after":
                kill()
            return answer

        client.send = send

    # ------------------------------------------------------------------------------------------ what is what

    @property
    def _lasting(self) -> bool:
        return self._strike is not None and self._strike.lasting

    def _pass(self, point: str, *, is_file: bool = False) -> Act | None:
        with self._lock:
            self.passages[point] += 1
            self.passages["file call"] += is_file
            strike = self._strike
            if strike is None or self.has_struck or strike.point not in (point, "" if is_file else point):
                return None
            if self.passages[strike.point or "file call"] != strike.nth:
                return None
            self.has_struck = True
            return strike.act

    def _what(self, name: str, args: tuple[Any, ...]) -> str | None:
        """Return what a call's file is to the run, None where it is none of the run's."""
        if isinstance(args[0], int):
            return self._files.get(args[0])
        try:
            path = Path(os.fspath(args[1] if name == "replace" else args[0]))
            relative = path.relative_to(self._root)
        except (TypeError, ValueError):
            return None
        is_new = _TEMPORARY.match(relative.name) is not None
        folder = relative.parts[0] if relative.parts else ""
        if folder in ("journal", "checkpoint", "images"):
            kind = {"journal": "journal", "checkpoint": "part", "images": "image"}[folder]
            is_folder = "." not in relative.name
        elif folder == "sandbox":  # a rehearsal's own: the service's disk, not ours
            return None
        else:
            kind, is_folder = _TEMPORARY.sub("", relative.name) or "run", not relative.parts
        return f"{kind} folder" if is_folder else f"new {kind}" if is_new else kind

    def _grows(self, name: str, args: tuple[Any, ...]) -> bool:
        return name == "write" or bool(args[1] & os.O_CREAT)

    def _cut(self) -> NoReturn:
        with self._lock:
            if self._power is not None:
                self._power.cut()
            kill()

    def _fill(self) -> None:
        fd = self._real["open"](self._root.parent / "filler", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        chunk = _CHUNK
        while chunk:
            try:
                self._real["write"](fd, chunk)
            except OSError:
                chunk = chunk[: len(chunk) // 2]


def _aim(request: Any) -> str:
    if request.method != "POST":
        return "result" if "/predictions/" in request.url else "question"
    rest = request.url.rpartition("/api/v3/")[2].split("?")[0]
    return {"predictions": "history", "model/price": "price"}.get(rest, "submit")
