"""Batch systems: common parts of the launchers `slurm`, `command` and `hyperqueue`.

A job runs a script that trains one run into its folder: it takes the lock of the run, resumes a run that has started,
and leaves the exit code in the folder. The pool watches the queue of the engine and reports how jobs ended.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from matscale.plugin import CLAIM_FILE, CONFIG, LOG, PLANNED, ConfigError, Ended, Job, MatscaleError

EXIT = ".exit-code"
"""File in the run folder with the exit code of the latest job, since the engine may not keep it."""
PATIENCE = 600.0
"""Seconds for which the sweep waits for an answer of the engine before it gives up; engines are restarted at times."""


class BatchPool(ABC):
    """Pool of a study's jobs in the queue of a batch system. Jobs go on without the sweep."""

    engine: str
    """Name of the engine in messages."""
    check: str
    """Question to the user if the engine does not answer, with a command to find out."""

    def __init__(self, name: str, poll: float) -> None:
        self.name, self.poll = name, poll
        self._alive: dict[Path, str] = {}
        self._ended: list[Ended] = []
        self._looked = self._answered = float("-inf")

    def connect(self) -> None:
        """Read the queue for the first time. Raises ConfigError if the engine does not answer."""
        try:
            self._look()
        except OSError as error:
            raise ConfigError(
                f"The launcher {self.name} does not reach {self.engine}: {error}. {self.check} --launcher local needs "
                f"no {self.engine}."
            ) from None

    @abstractmethod
    def states(self) -> tuple[dict[Path, str], dict[Path, str]]:
        """Ask the engine for the states of jobs.

        Returns `queued` or `running` by run folder, and the engine's own state of each job that has ended. Raises
        OSError if the engine does not answer.
        """

    @abstractmethod
    def end_of(self, path: Path, state: str) -> Ended:
        """Describe how a job ended, from the engine's own state of the job if it gave one."""

    def held(self) -> dict[Path, str]:
        self._refresh()
        return dict(self._alive)

    def ended(self) -> list[Ended]:
        self._refresh()
        ended, self._ended = self._ended, []
        return ended

    def close(self) -> None:
        """Forget the queue; the jobs belong to the engine."""
        self._alive = {}

    def _refresh(self) -> None:
        if time.monotonic() - self._looked < self.poll:
            return
        try:
            self._look()
        except OSError as error:
            if time.monotonic() - self._answered > PATIENCE:
                raise MatscaleError(
                    f"{self.engine} has not answered for {PATIENCE:.0f} s ({error}). Its jobs go on; run the same "
                    "sweep again when it is back."
                ) from None

    def _look(self) -> None:
        """Read the states of the study's jobs, and collect those that ended."""
        self._looked = time.monotonic()
        alive, over = self.states()
        self._answered = time.monotonic()
        gone = [path for path in self._alive if path not in alive]
        self._ended += [self.end_of(path, over.get(path, "")) for path in gone]
        self._alive = alive


def exit_code(path: Path) -> int | None:
    """Exit code that the latest job of a run left in its folder; None if there is none."""
    try:
        return int((path / EXIT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def call(command: Sequence[str], timeout: float = 60.0) -> str:
    """Run a program of the engine and return its output. Raises OSError with its message if it fails or hangs."""
    # In a session of its own: a Ctrl-C for the sweep must not reach a program that is submitting a job.
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    with process:
        try:
            output, said = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # with all that it has started
            raise OSError(f"{command[0]} did not answer in {timeout:g} s") from None
    if process.returncode:
        told = said.strip() or output.strip() or "it says nothing"
        raise OSError(f"{command[0]}: {told[-1000:]} (exit code {process.returncode})")
    return output


BODY = """
cd {cwd}
run={run}
exec >>"$run/{log}" 2>&1
echo {told}

# One process per run, by hand or by the engine: the lock is kept until all that is started here has ended.
exec 9>>"$run/{claim}"
flock --timeout 5 9 || {{ echo "Another process is at work on this run."; exit 75; }}
rm -f "$run/{exit}"
# A job is a run of its own, also where it inherits the environment of a step with several tasks.
export RANK=0 WORLD_SIZE=1 LOCAL_RANK=0
{setup}
if [ -f "$run/{config}" ]; then how=(--resume); else how=(--config "$run/{planned}"); fi

{traps}
{command} &
child=$!
code=127
while :; do
  signalled=
  wait "$child"
  now=$?
  [ "$now" = 127 ] || code=$now
  [ -n "$signalled" ] || break
done
echo "$code" >"$run/{exit}"
{after}exit "$code"
"""


def script(
    head: Sequence[str],
    *,
    run: str,
    told: str,
    setup: Sequence[str],
    traps: str,
    processes: int,
    prefix: str = "",
    suffix: str = "",
    after: str = "",
) -> str:
    """Write the script of a job: `head` are its first lines; `run` is the run folder as a word of bash.

    `traps` handle the signals of the engine, `prefix` and `suffix` enclose the command that trains, and `after` runs
    when this command has ended.
    """
    options = [*Job.options(), *(["--devices", str(processes)] if processes > 1 else [])]
    train = f'{shlex.quote(sys.executable)} -P -m matscale train -o "$run" {" ".join(options)} "${{how[@]}}"'
    body = BODY.format(
        cwd=shlex.quote(os.getcwd()),  # relative paths of the study start from here
        run=run,
        told=told,
        setup="".join(f"{line}\n" for line in setup),
        traps=traps,
        command=f"{prefix}{train}{suffix}",
        after=after,
        log=LOG,
        claim=CLAIM_FILE,
        exit=EXIT,
        config=CONFIG,
        planned=PLANNED,
    )
    return "\n".join(["#!/bin/bash", *head, body])


def threads(cores: str, processes: int) -> list[str]:
    """Lines of a script that give each process its share of the cores; `cores` is a number or an expression of bash."""
    return [
        f"export OMP_NUM_THREADS=$(( {cores} / {processes} ))",
        '[ "$OMP_NUM_THREADS" -gt 0 ] || export OMP_NUM_THREADS=1',
    ]
