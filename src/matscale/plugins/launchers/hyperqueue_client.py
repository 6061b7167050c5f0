"""Program that submits, lists and cancels jobs of HyperQueue by its Python package, for the preset `hyperqueue`.

    python -m matscale.plugins.launchers.hyperqueue_client submit [--resource NAME=AMOUNT ...] SCRIPT ...
    python -m matscale.plugins.launchers.hyperqueue_client state JOB ...
    python -m matscale.plugins.launchers.hyperqueue_client cancel JOB

A job is `<server>.<number>`, where the server has a new identity whenever it is started. The folder of the server is
that of HyperQueue: HQ_SERVER_DIR, or ~/.hq-server. This program is a separate process, so that a server that does not
answer blocks neither the sweep nor a Ctrl-C.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any


class Answered(Exception):
    """Exception that stops the package from waiting for jobs to end, at the first answer, which has their states."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="hyperqueue_client")
    commands = parser.add_subparsers(dest="command", required=True)
    submit = commands.add_parser("submit")
    submit.add_argument("--resource", action="append", default=[], type=resource, metavar="NAME=AMOUNT")
    submit.add_argument("scripts", nargs="+")
    commands.add_parser("state").add_argument("jobs", nargs="*")
    commands.add_parser("cancel").add_argument("job")
    given = parser.parse_args()
    folder = Path(os.environ.get("HQ_SERVER_DIR") or Path.home() / ".hq-server").absolute()
    try:
        server = json.loads((folder / "hq-current" / "access.json").read_text(encoding="utf-8"))["server_uid"]
        if given.command == "submit":
            lines = [f"{server}.{number}" for number in submitted(folder, given.scripts, dict(given.resource))]
        elif given.command == "state":
            lines = states(folder, server, given.jobs)
        else:
            lines = cancelled(server, given.job)
    except FileNotFoundError:
        sys.exit(f"{folder}: no server of HyperQueue. Start one, or set HQ_SERVER_DIR to the folder of yours.")
    except Exception as error:  # the package raises RuntimeError with a trace of its own language
        sys.exit(
            f"{folder}: the server of HyperQueue does not answer: {str(error).partition('Stack backtrace')[0].strip()}"
        )
    print(*lines, sep="\n")


def resource(text: str) -> tuple[str, str]:
    """Parse `NAME=AMOUNT` of a resource, where the amount may be a fraction of one GPU or core.

    >>> resource("gpus/nvidia=0.5")
    ('gpus/nvidia', '0.5')
    """
    name, equals, amount = text.partition("=")
    if not (name and equals and amount):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=AMOUNT, such as gpus/nvidia=0.5")
    return name, amount


def submitted(folder: Path, scripts: Sequence[str], resources: dict[str, str]) -> list[int]:
    """Submit a job for each script; return their numbers."""
    from hyperqueue import Client, Job  # optional: hyperqueue
    from hyperqueue.ffi.protocol import ResourceRequest

    client, numbers = Client(folder), []
    cpus = resources.pop("cpus", "1")
    for path in scripts:
        job = Job(name=Path(path).parent.name)
        wanted: Any = ResourceRequest(cpus=cpus, resources=dict(resources))
        job.program(["bash", path], stdout=None, stderr=None, resources=wanted)
        numbers.append(client.submit(job).id)
    return numbers


def states(folder: Path, server: str, jobs: Sequence[str]) -> list[str]:
    """Lines with job and state, for the jobs that this server knows. If it knows none of them, one line says so."""
    from hyperqueue import Client  # optional: hyperqueue

    numbers = [int(number) for owner, _, number in (job.partition(".") for job in jobs) if owner == server]
    found: dict[int, dict[str, Any]] = {}

    def answered(told: dict[int, dict[str, Any]]) -> None:
        found.update(told)
        raise Answered

    client = Client(folder)  # also without a job to ask for: this tells whether the server is there
    if numbers:
        with suppress(Answered):
            client.connection.wait_for_jobs(numbers, answered)
    lines = [
        f"{server}.{number} {'FAILED' if one['failed'] else 'FINISHED' if one['completed'] else 'LISTED'}"
        for number, one in sorted(found.items())
    ]
    return lines or ["none of these jobs"]


def cancelled(server: str, job: str) -> list[str]:
    """Cancel a job by the program `hq`, since the Python package cannot cancel jobs."""
    owner, _, number = job.partition(".")
    if owner == server:
        if shutil.which("hq") is None:
            sys.exit("Only the program hq can cancel jobs of HyperQueue, and it is not on the PATH.")
        os.execvp("hq", ["hq", "job", "cancel", number])
    return [f"{job}: its server has ended, and so has the job"]


if __name__ == "__main__":
    main()
