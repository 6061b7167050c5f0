"""Launcher `slurm`: runs as tasks of sbatch arrays, with scripts that can also be submitted by hand.

An array is two files in the study's folder: `slurm/array-0001.sh`, the script, and `slurm/array-0001.txt`, whose line k
is the run folder of task k. The name of the job identifies them, so that a later sweep finds its jobs in the queue
without their numbers.
"""

from __future__ import annotations

import hashlib
import math
import re
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from matscale.plugin import (
    INFO,
    Config,
    ConfigError,
    Ended,
    Job,
    Launcher,
    MatscaleError,
    Positive,
    Seconds,
    hookimpl,
    make_folder,
    remove_path,
    write_text,
)
from matscale.plugins.launchers import batch
from matscale.plugins.launchers.batch import BatchPool, call, exit_code

FOLDER = "slurm"
LARGEST = 1000
"""Largest number of tasks in one array: Slurm's default limit."""

QUEUED = frozenset({"PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD"})
RUNNING = frozenset(
    {"RUNNING", "COMPLETING", "CONFIGURING", "RESIZING", "SIGNALING", "STAGE_OUT", "STOPPED", "SUSPENDED"}
)


class SlurmOptions(Config):
    """Table `[slurm]` of a study file; options that are left out have the defaults of the cluster."""

    time: Seconds | None = None
    """Time limit of a job, such as `4h`. A run that needs longer saves, is requeued and continues."""
    margin: Seconds = 120.0
    """Time between the moment at which a run saves and the time limit of its job [s]."""
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    gpus: Annotated[int, Field(ge=0)] = 0
    """GPUs of each run; with more than one, there is one process per GPU (`--devices`)."""
    processes: Positive | None = None
    """Processes of each run; default: one per GPU, or one without GPUs."""
    cpus: Positive | None = None
    """CPU cores of each run."""
    memory: str | None = None
    """Memory of a job in the notation of sbatch, such as `16G`."""
    at_once: Positive | None = None
    """Number of runs of an array that may run at the same time; default: no limit."""
    sbatch: tuple[str, ...] = ()
    """Further options of sbatch, each with its dashes."""
    setup: tuple[str, ...] = ()
    """Shell commands that run before the training, such as `module load cuda`."""
    poll: Seconds = 10.0
    """Seconds between two queries of the queue."""

    @model_validator(mode="after")
    def _enough(self) -> SlurmOptions:
        lines = (self.partition, self.account, self.qos, self.constraint, self.memory, *self.sbatch)
        if broken := next((text for text in lines if text is not None and not text.isprintable()), None):
            raise ValueError(
                f"{broken!r} holds a line break or a control character, which an option of sbatch must not contain"
            )
        if self.time is not None and self.time <= self.margin:
            raise ValueError(
                f"time = {self.time:g} s is not longer than the margin of {self.margin:g} s: set a longer time"
            )
        return self


class SlurmPool(BatchPool):
    """Pool of a study's jobs in the queue of Slurm."""

    engine = "Slurm"
    check = "Is slurmctld up (`sinfo`)?"

    def __init__(self, options: SlurmOptions, study: Path) -> None:
        super().__init__("slurm", options.poll)
        missing = [program for program in ("sbatch", "squeue", "scontrol") if shutil.which(program) is None]
        if missing:
            raise ConfigError(
                f"The launcher slurm needs {', '.join(missing)}, which this machine does not have. Sweep from a login "
                "node of the cluster, or with --launcher local."
            )
        self.options, self.study, self.folder = options, study, study / FOLDER
        digest = hashlib.sha256(str(study).encode()).hexdigest()[:6]
        self.prefix = f"matscale-{re.sub(r'[^A-Za-z0-9_.-]', '_', study.name)}-{digest}-"
        self.connect()

    def room(self) -> int:
        return LARGEST

    def start(self, jobs: Sequence[Job]) -> None:
        for first in range(0, len(jobs), LARGEST):
            self._submit(jobs[first : first + LARGEST])

    def stop(self) -> str:
        return (
            f"Submitted jobs stay in Slurm's queue; scancel --name={self.prefix}... ends them." if self._alive else ""
        )

    def states(self) -> tuple[dict[Path, str], dict[Path, str]]:
        rows = call(["squeue", "--noheader", "--array", "--states=all", "--format=%j|%K|%T"])
        alive: dict[Path, str] = {}
        over: dict[Path, str] = {}
        for name, task, state in (line.split("|") for line in rows.splitlines() if line.startswith(self.prefix)):
            path = self._run(name, task)
            if path is None:
                continue
            if state in QUEUED or state in RUNNING:
                alive[path] = "queued" if state in QUEUED else "running"
            else:
                over[path] = state
        return alive, over

    def end_of(self, path: Path, state: str) -> Ended:
        word = "" if state in ("", "COMPLETED", "FAILED") else state.lower().replace("_", " ")
        return Ended(path, exit_code(path), word and f"Slurm: {word}", retry=state != "CANCELLED")

    def _run(self, name: str, task: str) -> Path | None:
        """Find the run folder of a task; None if the list of the array's runs is missing, or has no such task."""
        listed = self.folder / f"array-{name.removeprefix(self.prefix)}.txt"
        if not listed.exists() or not task.isdecimal():
            return None
        lines = listed.read_text(encoding="utf-8").splitlines()
        return Path(lines[int(task) - 1]) if 0 < int(task) <= len(lines) else None

    def _submit(self, jobs: Sequence[Job]) -> None:
        make_folder(self.folder)
        taken = [int(match[1]) for path in self.folder.iterdir() if (match := re.match(r"array-(\d+)\.", path.name))]
        number = f"{max(taken, default=0) + 1:04d}"
        listed, file = self.folder / f"array-{number}.txt", self.folder / f"array-{number}.sh"
        for job in jobs:
            remove_path(job.path / batch.EXIT)
        # Both are written before Slurm knows the job, so that a job in the queue always has its list of runs.
        write_text(listed, "".join(f"{job.path}\n" for job in jobs))
        write_text(file, script(self.options, self.prefix + number, listed, len(jobs)))
        try:
            call(["sbatch", "--parsable", str(file)])
        except OSError as error:
            remove_path(file)
            remove_path(listed)
            raise MatscaleError(
                f"sbatch did not accept the runs: {error}. Correct [slurm] in the study file."
            ) from None
        self._alive |= {job.path: "queued" for job in jobs}


def _open(options: Any, study: Path) -> SlurmPool:
    return SlurmPool(options, study)


@hookimpl
def register_launchers() -> list[Launcher]:
    return [Launcher("slurm", "tasks of sbatch arrays", SlurmOptions, _open, outlives=True)]


TRAPS = """\
# Before the time limit, Slurm sends USR1 to this shell only. TERM (from scancel) reaches the program directly.
asked= child=
trap '[ "$asked" = cancelled ] || asked=time; signalled=1; [ -z "$child" ] || kill -USR1 "$child"' USR1
trap 'asked=cancelled; signalled=1' TERM"""

AFTER = f"""
# If it stopped before it was done, it goes back into the queue, unless it was cancelled or failed by its own error.
case $code in
  0 | 2 | 3 | 4) again= ;;
  5) again=yes ;;
  *) if [ "$asked" = time ] || grep -q '"status": "stopped"' "$run/{INFO}"; then again=yes; else again=; fi ;;
esac
if [ -n "$again" ] && [ "$asked" != cancelled ]; then
  scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_${{SLURM_ARRAY_TASK_ID}}"
fi
"""


def script(options: SlurmOptions, name: str, listed: Path, n: int) -> str:
    """Write the script for `n` runs, whose folders are the lines of the file `listed`."""
    processes = _processes(options)
    note = "# Written by `matscale sweep`. You can also submit it by hand, with sbatch."
    return batch.script(
        [*(f"#SBATCH {option}" for option in _directives(options, name, n)), note],
        run=f'$(sed -n "${{SLURM_ARRAY_TASK_ID}}p" {shlex.quote(str(listed))})',
        told='"Slurm job $SLURM_ARRAY_JOB_ID, task $SLURM_ARRAY_TASK_ID on $(hostname), '
        'start ${SLURM_RESTART_COUNT:-0}"',
        setup=[*batch.threads("${SLURM_CPUS_PER_TASK:-1}", processes), *options.setup],
        traps=TRAPS,
        processes=processes,
        after=AFTER,
    )


def _directives(options: SlurmOptions, name: str, n: int) -> list[str]:
    limit = f"%{options.at_once}" if options.at_once else ""
    given = {
        "--partition": options.partition,
        "--account": options.account,
        "--qos": options.qos,
        "--constraint": options.constraint,
        "--cpus-per-task": options.cpus,
        "--mem": options.memory,
        "--gres": f"gpu:{options.gpus}" if options.gpus else None,
        # In whole minutes, rounded up: rounded down, the margin would take up a short job.
        "--time": None if options.time is None else math.ceil(options.time / 60),
    }
    return [
        f"--job-name={name}",
        f"--array=1-{n}{limit}",
        "--output=/dev/null",  # each task writes into its run's log
        "--requeue",
        f"--signal=B:USR1@{options.margin:.0f}",
        *(f"{option}={value}" for option, value in given.items() if value is not None),
        *options.sbatch,
    ]


def _processes(options: SlurmOptions) -> int:
    return options.processes or max(options.gpus, 1)
