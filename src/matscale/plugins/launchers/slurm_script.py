"""The script of an sbatch array, a run per task."""

from __future__ import annotations

import math
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from matscale.plugin import CLAIM_FILE, CONFIG, INFO, LOG, PLANNED, Job

if TYPE_CHECKING:
    from matscale.plugins.launchers.slurm import SlurmOptions

EXIT = ".exit-code"
"""In the run folder: how the latest task on it ended. Slurm's own record may be switched off."""

BODY = """
run=$(sed -n "${{SLURM_ARRAY_TASK_ID}}p" {listed})
exec >>"$run/{log}" 2>&1
echo "Slurm job $SLURM_ARRAY_JOB_ID, task $SLURM_ARRAY_TASK_ID on $(hostname), start ${{SLURM_RESTART_COUNT:-0}}"

# One process per run, whoever starts it: the lock is kept until all that is started here has ended.
exec 9>>"$run/{claim}"
flock --timeout 5 9 || {{ echo "Another process is at work on this run."; exit 75; }}
rm -f "$run/{exit}"
{setup}
if [ -f "$run/{config}" ]; then how=(--resume); else how=(--config "$run/{planned}"); fi

# Before the time is up Slurm sends USR1 to this shell alone; of TERM (scancel) the program hears by itself.
asked= child=
trap '[ "$asked" = cancelled ] || asked=time; signalled=1; [ -z "$child" ] || {forward}' USR1
trap 'asked=cancelled; signalled=1' TERM
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

# Stopped before it was done: back into the queue, unless somebody cancelled it or it ended with an error of its own.
case $code in
  0 | 2 | 3 | 4) again= ;;
  5) again=yes ;;
  *) if [ "$asked" = time ] || grep -q '"status": "stopped"' "$run/{info}"; then again=yes; else again=; fi ;;
esac
if [ -n "$again" ] && [ "$asked" != cancelled ]; then
  scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_${{SLURM_ARRAY_TASK_ID}}"
fi
exit "$code"
"""


def script(options: SlurmOptions, name: str, listed: Path, n: int) -> str:
    """For `n` runs, whose folders are the lines of the file `listed`."""
    words = {
        "listed": shlex.quote(str(listed)),
        "log": LOG,
        "claim": CLAIM_FILE,
        "exit": EXIT,
        "config": CONFIG,
        "planned": PLANNED,
        "info": INFO,
        "setup": "".join(f"{line}\n" for line in (*_threads(options), *options.setup)),
        "command": _command(options),
        # torchrun does not pass the signal on to the processes that train.
        "forward": 'kill -USR1 $(pgrep -P "$child")' if _processes(options) > 1 else 'kill -USR1 "$child"',
    }
    head = "\n".join(["#!/bin/bash", *(f"#SBATCH {option}" for option in _directives(options, name, n))])
    note = "# Written by `matscale sweep`; `sbatch` of it by hand does the same."
    return f"{head}\n{note}\n{BODY.format(**words)}"


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
        # In whole minutes, never fewer than were asked for: the margin would eat up what is left of a short job.
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


def _threads(options: SlurmOptions) -> list[str]:
    share = f"$(( ${{SLURM_CPUS_PER_TASK:-1}} / {_processes(options)} ))"
    return [f"export OMP_NUM_THREADS={share}", '[ "$OMP_NUM_THREADS" -gt 0 ] || export OMP_NUM_THREADS=1']


def _command(options: SlurmOptions) -> str:
    arguments = " ".join(Job.options())
    python, n = shlex.quote(sys.executable), _processes(options)
    launch = f"{python} -P -m torch.distributed.run --standalone --nproc-per-node {n}" if n > 1 else f"{python} -P"
    return f'{launch} -m matscale train -o "$run" {arguments} "${{how[@]}}"'
