"""Fork server: a process that has imported all modules of a training, and forks a process for each run.

Importing torch and the architectures takes seconds, longer than a tiny run. The server imports them once, and then only
forks. Forking is safe if the server has a single thread and no state on a GPU; otherwise it starts an ordinary process.
A forked process has its own session, writes to the run's log, and outlives the server and the sweep.

Messages go over a socket pair: {"path", "arguments", "log", "environment"} with the file descriptor of the run's claim,
or {"signal", "path"}; answers are {"path", "code"} when a process has ended, and {"path", "error"} if it could not be
started.
"""

from __future__ import annotations

import gc
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

from matscale.plugin import Job

PAUSE = 0.1
"""Seconds between two checks of the child processes."""
LARGEST = 1 << 16
"""Largest size of a message [bytes]."""


class ForkServer:
    """Client of the fork server, in the sweep. Methods raise OSError if the server has ended; then make a new one."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = [sys.executable, "-P", "-m", "matscale.plugins.launchers.fork_server", str(theirs.fileno())]
            # One thread during imports, since numpy's linear algebra would start threads, which forbid a fork.
            single = {"OPENBLAS_NUM_THREADS": "1"}
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                env=environment | single,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )

    def start(self, job: Job, claim: int, environment: dict[str, str]) -> None:
        """Start a process that holds the file descriptor `claim`; `environment` is added to that of the server."""
        message = {
            "path": str(job.path),
            "arguments": job.arguments,
            "log": str(job.log),
            "environment": environment,
        }
        socket.send_fds(self._socket, [json.dumps(message).encode()], [claim])

    def signal(self, path: Path, number: int) -> None:
        """Send a signal to the process of a run, if it has not ended."""
        self._socket.send(json.dumps({"path": str(path), "signal": number}).encode())

    def ended(self) -> list[tuple[Path, int | None, str]]:
        """Processes that ended since the last call, as (run folder, exit code, error)."""
        found = []
        while select.select([self._socket], [], [], 0)[0]:
            text = self._socket.recv(LARGEST)
            if not text:
                raise ConnectionResetError("the fork server has ended")
            message = json.loads(text)
            found.append((Path(message["path"]), message.get("code"), message.get("error", "")))
        return found

    def close(self) -> None:
        """End the fork server; the processes that it has started go on."""
        self._socket.close()
        self._process.wait()


class _Server:
    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.children: dict[int, str] = {}
        self.spawned: dict[int, subprocess.Popen[bytes]] = {}

    def serve(self) -> None:
        """Serve requests until the sweep has ended."""
        while True:
            if select.select([self.connection], [], [], PAUSE)[0] and not self._answer():
                return
            self._report()

    def _answer(self) -> bool:
        text, descriptors, _, _ = socket.recv_fds(self.connection, LARGEST, 1)
        if not text:
            return False
        message = json.loads(text)
        if "signal" in message:
            for pid, path in self.children.items():
                if path == message["path"]:
                    os.kill(pid, message["signal"])
            return True
        try:
            self._begin(message, descriptors[0])
        except OSError as error:
            self._say({"path": message["path"], "error": str(error)})
        finally:
            os.close(descriptors[0])
        return True

    def _begin(self, message: dict[str, Any], claim: int) -> None:
        with open(message["log"], "ab") as log:
            if not may_fork():
                process = _spawned(message, claim, log.fileno())
                self.children[process.pid], self.spawned[process.pid] = message["path"], process
                return
            # Nothing between here and `_become` may take a lock or print: the child has copies of all buffers.
            pid = os.fork()
            if pid:
                self.children[pid] = message["path"]
                return
            # The sweep sees the end of the server by this socket, so no child may keep it open. The claim stays open:
            # its lock is held as long as the child lives.
            self.connection.close()
            _become(message, log.fileno())

    def _report(self) -> None:
        for pid, path in list(self.children.items()):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                del self.children[pid]
                code = os.waitstatus_to_exitcode(status)
                if pid in self.spawned:
                    self.spawned.pop(pid).returncode = code  # it is reaped already, so its object must not wait for it
                self._say({"path": path, "code": code})

    def _say(self, message: dict[str, Any]) -> None:
        with suppress(BrokenPipeError):  # the sweep has ended; the next one reads the run folder
            self.connection.send(json.dumps(message).encode())


def may_fork() -> bool:
    """Whether this process can be forked: it has no other thread that could hold a lock, and no state on a GPU."""
    import torch  # start-up: torch

    try:
        n_threads = len(os.listdir("/proc/self/task"))
    except OSError:  # not Linux: the number of threads is unknown
        return False
    return n_threads == 1 and not torch.cuda.is_initialized()


def _spawned(message: dict[str, Any], claim: int, log: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "matscale", *message["arguments"]],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        env=os.environ | message["environment"],
        pass_fds=(claim,),
        start_new_session=True,
    )


def _become(message: dict[str, Any], log: int) -> None:
    """Run `python -m matscale ARGUMENTS` in the child and exit with its code. Never returns."""
    code = 1
    try:
        os.setsid()  # a Ctrl-C in the terminal of the sweep must not reach the run
        os.environ.update(message["environment"])
        nothing = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((nothing, 0), (log, 1), (log, 2)):
            os.dup2(source, target)
        sys.argv = ["matscale", *message["arguments"]]
        runpy.run_module("matscale", run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # not sys.exit: that would unwind into the server's loop, and run its exit handlers


def warm_up() -> None:
    """Import all modules that trainings need, before the first fork."""
    from matscale.plugin import preload_training  # start-up: torch

    preload_training()
    gc.freeze()  # so that garbage collection in a child does not copy all these pages


def main() -> None:
    connection = socket.socket(fileno=int(sys.argv[1]))
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    warm_up()
    _Server(connection).serve()


if __name__ == "__main__":
    main()
