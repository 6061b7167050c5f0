"""Read files in a guarded process: a crash, an endless loop or too much memory becomes an error with the file's name.

LMDB maps a file and trusts its pages: one damaged byte can kill the process that reads the file (SIGBUS). ASE's readers
call many libraries and allocate as much memory as a file announces. Such a reader runs in a child process with limits
on memory (RLIMIT_AS) and on processor time for each structure. The child streams what it reads: arrays as raw bytes,
other values as JSON. Afterwards the child waits for the next file. It is started as a separate program (subprocess),
not by fork, and does not run the caller's script again.
"""

from __future__ import annotations

import atexit
import json
import os
import secrets
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from importlib import import_module
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from matscale.core import errors
from matscale.core.data.sources.labels import Unusable
from matscale.core.data.sources.limits import Limits, current, shown, using
from matscale.core.data.structure import Structure
from matscale.core.errors import DataError, MatscaleError

_HEAD = struct.Struct(">cQQ")
"""Head of a message: the kind (Item, End or Fault), the length of the JSON, and the length of the arrays [bytes]."""
_idle: dict[int, list[_Child]] = {}
"""Children that wait for a file, by the id of the process that started them.

After a fork, the new process must not use children of its parent.
"""


def stream(function: str, path: Path, *arguments: Any) -> Iterator[Any]:
    """Run the generator `function` ("module:name") in a guarded process, and yield its values.

    It is called with (path, *arguments), and may yield structures, Unusable, ase.Atoms and plain values. If it raises a
    MatscaleError, the same error is raised here. A crash, too much memory and too much time raise DataError with the
    path.
    """
    waiting = _idle.setdefault(os.getpid(), [])
    child = waiting.pop() if waiting else _Child()
    try:
        yield from child.answers(function, path, arguments)
    finally:
        if child.is_ready:
            waiting.append(child)
        else:  # dead, or in the middle of an answer that is no longer needed
            child.end()


class _Child:
    """Child process that reads files. The object belongs to the parent process."""

    def __init__(self) -> None:
        command = [sys.executable, "-P", "-m", "matscale.core.data.sources.guard"]
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        environment = os.environ | threads | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
        self.is_ready = True

    def answers(self, function: str, path: Path, arguments: tuple[Any, ...]) -> Iterator[Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.is_ready, token, limits = False, secrets.token_hex(8), current()
        request = {"function": function, "path": str(path), "arguments": arguments, "token": token}
        with suppress(BrokenPipeError):  # the process is dead, which reading the first answer reports
            self.process.stdin.write(json.dumps(request | {"limits": asdict(limits)}).encode() + b"\n")
            self.process.stdin.flush()
        for number in count():
            message = _received(self.process.stdout)
            if message is None:
                raise self._death(path, number, limits)
            kind, text, blob = message
            if kind == b"I":
                yield _decoded(text, blob, token)
                continue
            self.is_ready = True
            if kind == b"F":
                name, said = json.loads(text)
                raise getattr(errors, name, DataError)(said)
            return

    def _death(self, path: Path, number: int, limits: Limits) -> DataError:
        code = self.process.wait()
        where = f"{path}: after {number} structures or more"  # some may be lost with the process
        if code == -signal.SIGPROF:
            return DataError(
                f"{where}: took more than {limits.seconds} s of processor time to read. The file may be damaged; if it "
                f"is sound, allow more: --limit seconds={10 * limits.seconds}."
            )
        name = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        return DataError(
            f"{where}: the library that reads it crashed ({name}). The file is damaged, or needs more memory than "
            "there is. Restore it or download it again, or leave it out."
        )

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@atexit.register
def _end_idle() -> None:
    for child in _idle.pop(os.getpid(), []):
        child.end()


def _received(pipe: Any) -> tuple[bytes, bytes, bytearray] | None:
    head = pipe.read(_HEAD.size)
    if len(head) < _HEAD.size:
        return None
    kind, n_text, n_blob = _HEAD.unpack(head)
    text, blob = pipe.read(n_text), bytearray(n_blob)
    return (kind, text, blob) if len(text) == n_text and pipe.readinto(blob) == n_blob else None


def _encoded(value: Any, token: str) -> tuple[bytes, bytes | bytearray]:
    """Encode a value as JSON, and the arrays in it as bytes.

    In the JSON, `token` marks the place of an array. It is random, so that no file can contain it.
    """
    blob = bytearray()

    def plain(value: Any) -> Any:
        nonlocal blob
        if isinstance(value, np.ndarray) and value.dtype.kind in "biufcSU":
            start = len(blob)
            blob += value.tobytes()
            blob += bytes(-len(blob) % 16)  # arrays that begin elsewhere are slow
            return {token: [value.dtype.str, value.shape, start]}
        if isinstance(value, np.ndarray | np.generic):
            return value.tolist()
        return str(value)

    return json.dumps(_flat(value), default=plain, skipkeys=True).encode(), blob


def _flat(value: Any) -> dict[str, Any]:
    if isinstance(value, Structure):
        return {"structure": vars(value)}
    if isinstance(value, Unusable):
        return {"unusable": [value.reason, value.detail]}
    if hasattr(value, "arrays") and hasattr(value, "calc"):
        results = value.calc.results if value.calc else None
        parts = {"arrays": value.arrays, "info": value.info, "cell": value.cell.array, "pbc": value.pbc}
        return {"atoms": {**parts, "results": results}}
    return {"value": value}


def _decoded(text: bytes, blob: bytearray, token: str) -> Any:
    def array(found: dict[str, Any]) -> Any:
        if token not in found:
            return found
        dtype, shape, start = found[token]
        return np.ndarray(shape, dtype, blob, start)

    ((kind, value),) = json.loads(text, object_hook=array).items()
    if kind == "structure":
        return Structure(**value)
    if kind == "unusable":
        return Unusable(*value)
    return _atoms(value) if kind == "atoms" else value


def _atoms(parts: dict[str, Any]) -> Any:
    from ase import Atoms  # start-up: ase
    from ase.calculators.singlepoint import SinglePointCalculator

    arrays = parts["arrays"]
    atoms = Atoms(
        numbers=arrays.pop("numbers"), positions=arrays.pop("positions"), cell=parts["cell"], pbc=parts["pbc"]
    )
    atoms.arrays.update(arrays)
    atoms.info.update(parts["info"])
    if parts["results"] is not None:
        atoms.calc = SinglePointCalculator(atoms)
        atoms.calc.results.update(parts["results"])
    return atoms


def work() -> None:
    """Run the guarded process. Each line of stdin is a request; the answer is a stream of messages on stdout."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the caller handles interrupts: it ends its readers
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # without a caller there is nothing to do
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    import resource  # not on Windows

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.addaudithook(_forbid)
    answers = os.fdopen(os.dup(1), "wb", 1 << 18)
    os.dup2(2, 1)  # output of a library must not mix with the answers
    for line in sys.stdin.buffer:
        request = json.loads(line)
        try:
            _answer(request, answers)
            _send(answers, b"E", b"", b"")
        except Exception as error:
            _send(answers, b"F", json.dumps(_fault(request, error)).encode(), b"")
        signal.setitimer(signal.ITIMER_PROF, 0)
        answers.flush()


_FORBIDDEN = ("pickle.find_class", "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork")


def _forbid(event: str, arguments: tuple[Any, ...]) -> None:
    """Audit hook that refuses unpickling and starting programs: reading a file must not execute anything."""
    if event in _FORBIDDEN:
        raise PermissionError(f"reading it would unpickle an object or start a program ({event}), which is refused")


def _answer(request: dict[str, Any], answers: BinaryIO) -> None:
    limits, path, token = Limits(**request["limits"]), Path(request["path"]), request["token"]
    module, _, name = request["function"].partition(":")
    function = getattr(import_module(module), name)
    with using(limits), _bounded(path, limits):
        flushed = time.monotonic()
        signal.setitimer(signal.ITIMER_PROF, limits.seconds)
        for item in function(path, *request["arguments"]):
            _send(answers, b"I", *_encoded(item, token))
            signal.setitimer(signal.ITIMER_PROF, limits.seconds)
            if time.monotonic() > flushed + 0.1:  # flush, so that structures of a slow reader arrive one by one
                answers.flush()
                flushed = time.monotonic()


class _bounded:
    """Context that limits the address space of this process.

    The limit is the present size, plus twice the size of the file (which may be mapped), plus `limits.memory`.
    """

    def __init__(self, path: Path, limits: Limits) -> None:
        import resource  # not on Windows

        statm = Path("/proc/self/statm")
        self.limit = partial(resource.setrlimit, resource.RLIMIT_AS)
        self.soft, self.hard = resource.getrlimit(resource.RLIMIT_AS)
        if statm.exists():
            has = int(statm.read_text(encoding="ascii").split()[0]) * resource.getpagesize()
            wanted = has + 2 * path.stat().st_size + limits.memory
            self.wanted = min(n for n in (wanted, self.soft, self.hard) if n != resource.RLIM_INFINITY)
        else:
            self.wanted = self.soft

    def __enter__(self) -> None:
        self.limit((self.wanted, self.hard))

    def __exit__(self, *raised: object) -> None:
        self.limit((self.soft, self.hard))


def _send(answers: BinaryIO, kind: bytes, text: bytes, blob: bytes | bytearray) -> None:
    answers.write(_HEAD.pack(kind, len(text), len(blob)) + text)
    answers.write(blob)


def _fault(request: dict[str, Any], error: BaseException) -> tuple[str, str]:
    """Choose the error that the parent process will raise: the name of its class, and its text."""
    path, memory = request["path"], request["limits"]["memory"]
    if isinstance(error, MemoryError):
        return "DataError", (
            f"{path}: reading it takes more memory than {shown(memory)}. The file may be damaged; if it is sound, "
            f"allow more: --limit memory={shown(4 * memory).replace(' ', '')}."
        )
    if isinstance(error, MatscaleError):
        return type(error).__name__, str(error)
    return "DataError", f"{path}: cannot be read ({type(error).__name__}: {error})."


if __name__ == "__main__":
    work()
