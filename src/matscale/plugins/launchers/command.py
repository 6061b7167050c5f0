"""Launcher `command`: a job per run on any batch system, by the commands that submit, list and cancel jobs.

The commands are templates in the study file, or a preset. They are split into words before they are filled, and are run
without a shell: a name or path is always one argument. The run folder holds the script (`.job.sh`) and the number of
the job (`.job.json`), by which a later sweep finds the job in the queue.
"""

from __future__ import annotations

import getpass
import hashlib
import json
import re
import shlex
import shutil
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from string import Formatter
from typing import Annotated, Any

from pydantic import AfterValidator, Field, model_validator

from matscale.plugin import (
    LOG,
    Config,
    ConfigError,
    Ended,
    Job,
    Launcher,
    MatscaleError,
    Positive,
    Seconds,
    hookimpl,
    is_run_claimed,
    remove_path,
    write_text,
)
from matscale.plugins.launchers import batch
from matscale.plugins.launchers.batch import BatchPool, call, exit_code
from matscale.plugins.launchers.presets import PRESETS

SCRIPT, LEDGER = ".job.sh", ".job.json"
TOGETHER = 50
"""Largest number of runs that are submitted before the sweep checks the queue and signals again."""
FIELDS = {
    "submit": {"name", "script", "scripts", "line", "run", "log", "options", "user", "python"},
    "state": {"ids", "user", "python"},
    "cancel": {"id", "user", "python"},
}
"""Fields of the templates. `{scripts}`, `{ids}` and `{options}` stand for several words each.

`{line}` is a shell command that runs the script, for engines that pass their arguments to a shell.
"""
KINDS = ("failed", "cancelled", "done", "queued", "running")
"""Kinds of states, in the order in which a state is compared with their expressions."""


def _template(text: str) -> str:
    words = shlex.split(text)
    if not words:
        raise ValueError("a command is expected")
    if broken := next((word for word in words if not word.isprintable()), None):
        raise ValueError(f"{broken!r} holds a control character")
    for word in words:
        for _, field, style, conversion in Formatter().parse(word):
            if field is not None and (not field.isidentifier() or style or conversion):
                raise ValueError(
                    f"{word!r}: a field is a name in braces, such as {{id}}; write a brace itself as {{{{ or }}}}"
                )
    return text


def _expression(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from None
    return text


Template = Annotated[str, AfterValidator(_template)]
Expression = Annotated[str, AfterValidator(_expression)]


class CommandOptions(Config):
    """Table `[command]` of a study file: a preset, and the keys that differ from it."""

    preset: str | None = None
    """Engine whose commands fill the keys that are not given here: sge, pbs, lsf, flux, hq or hyperqueue."""
    submit: Template
    """Command that submits a job: {script}, {scripts} or {line}; {name}, {run}, {log}, {options}."""
    id: Expression = r"^(\d+)"
    """Regular expression, whose first group is the number of the job in the output of `submit`."""
    state: Template
    """Command that lists the states of all jobs at once: fields {user}, or {ids}."""
    states: Expression
    """Regular expression of a line of that list, with groups `id`, `state` and, if names are not cut, `name`."""
    none: Expression | None = None
    """Regular expression of a message that says that the list is empty, whatever the exit code."""
    queued: Expression
    """Regular expression of the states of waiting jobs."""
    running: Expression | None = None
    """Regular expression of the states of running jobs; None: a job runs while its run is locked."""
    done: Expression | None = None
    """Regular expression of the states of jobs that have ended. A job that is not listed has ended, too."""
    failed: Expression | None = None
    """Regular expression of the states of jobs that will never run; they are cancelled."""
    cancelled: Expression | None = None
    """Regular expression of the states of jobs that a user cancelled; the same sweep does not start them again."""
    cancel: Template
    """Command that cancels a job: field {id}."""
    cores: Annotated[str, Field(pattern=r"^[A-Za-z_]\w*$")] | None = None
    """Environment variable of a job with its number of cores."""
    options: tuple[str, ...] = ()
    """Further words for {options} of `submit`."""
    processes: Positive = 1
    """Processes of each run (`matscale train --devices`)."""
    setup: tuple[str, ...] = ()
    """Shell commands that run before the training, such as `module load cuda`."""
    at_once: Positive = 1000
    """Largest number of jobs in the queue."""
    poll: Seconds = 10.0
    """Seconds between two queries of the queue."""
    timeout: Seconds = 60.0
    """Seconds after which a command that does not answer is ended."""

    @model_validator(mode="before")
    @classmethod
    def _of_preset(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        name = values.get("preset", cls.model_fields["preset"].default)
        if name is None:
            if missing := [key for key in ("submit", "state", "states", "queued", "cancel") if key not in values]:
                raise ValueError(
                    f"there is no {', '.join(missing)}. Set preset = one of {', '.join(PRESETS)}, or all of these keys"
                )
            return values
        if not isinstance(name, str) or name not in PRESETS:
            raise ValueError(f"preset = {name!r}: there is no such preset. Presets: {', '.join(PRESETS)}")
        return {**PRESETS[name], **values}

    @model_validator(mode="after")
    def _fits(self) -> CommandOptions:
        for key, known in FIELDS.items():
            if unknown := sorted(fields(getattr(self, key)) - known):
                raise ValueError(
                    f"{key} has the unknown field {{{unknown[0]}}}. Fields of {key}: "
                    + ", ".join(f"{{{field}}}" for field in sorted(known))
                )
            if fields(program := shlex.split(getattr(self, key))[0]) - {"python"}:
                raise ValueError(f"{key} begins with {program}; its first word is the program, such as qsub")
        wanted = fields(self.submit)
        if len(wanted & {"script", "scripts", "line"}) != 1:
            raise ValueError(
                "submit needs one field for what the job runs: {script}; or {scripts}, if it takes several at once; or "
                "{line}, if it passes its words to a shell"
            )
        if "scripts" in wanted and (alone := sorted(wanted & {"name", "run", "log"})):
            raise ValueError(f"submit has {{scripts}} of many runs, but {{{alone[0]}}} belongs to one run")
        if "id" not in fields(self.cancel):
            raise ValueError("cancel needs the field {id}: the job to cancel")
        if self.options and "options" not in wanted:
            raise ValueError("options are given, but submit has no field {options} for them")
        if broken := next((text for text in self.options if not text.isprintable()), None):
            raise ValueError(f"options: {broken!r} holds a line break or a control character")
        if not re.compile(self.id).groups:
            raise ValueError(f"id = {self.id!r} needs a group in parentheses around the number of the job")
        if not {"id", "state"} <= set(re.compile(self.states).groupindex):
            raise ValueError(f"states = {self.states!r} needs the groups (?P<id>...) and (?P<state>...)")
        return self


def fields(template: str) -> set[str]:
    """Names of the fields of a template."""
    return {field for word in shlex.split(template) for _, field, _, _ in Formatter().parse(word) if field}


def filled(template: str, values: Mapping[str, str | Sequence[str]]) -> list[str]:
    """Fill a template word by word; a word that is one field with several values becomes several words.

    >>> filled("qsub -N {name} {options} {script}", {"name": "a b", "options": ["-q", "long"], "script": "/x y"})
    ['qsub', '-N', 'a b', '-q', 'long', '/x y']
    """
    words: list[str] = []
    for word in shlex.split(template):
        value = values.get(word[1:-1]) if word[:1] == "{" else None
        if value is None or isinstance(value, str):
            joined = {key: v if isinstance(v, str) else ",".join(v) for key, v in values.items()}
            words.append(word.format_map(joined))
        else:
            words += value
    return words


def job_name(run: Path) -> str:
    """Name of the job of a run: 15 characters that every engine accepts, the same at every sweep."""
    start = re.sub(r"[^A-Za-z0-9]", "", run.name)[:6]
    return f"{start if start[:1].isalpha() else 'run'}-{hashlib.sha256(str(run).encode()).hexdigest()[:8]}"


class CommandPool(BatchPool):
    """Pool of a study's jobs on an engine that is used by its commands."""

    def __init__(self, options: CommandOptions, study: Path, name: str = "command") -> None:
        super().__init__(name, options.poll)
        self.options = options
        self.engine = options.preset or shlex.split(options.submit)[0]
        self.check = f"Its command is state = {options.state!r} in [{name}]."
        self._general = {"user": getpass.getuser(), "python": sys.executable, "options": options.options}
        programs = {filled(getattr(options, key), self._given({}))[0]: key for key in FIELDS}
        if missing := [program for program in programs if shutil.which(program) is None]:
            raise ConfigError(
                f"The launcher {name} needs {', '.join(missing)} ({programs[missing[0]]} in [{name}] of the study "
                "file), which this machine does not have. Sweep from a login node of the cluster, correct the "
                "command, or sweep with --launcher local."
            )
        self._ids = dict(_ledgers(study, self.engine))
        self._unlisted: set[Path] = set()
        """Folders of runs whose jobs were missing in the latest list."""
        self._silent: float | None = None
        """Time since which lists have been empty without a message that says so; None if the latest list was not."""
        for path in [path for path in self._ids if exit_code(path) is not None]:
            self._forget(path)  # it ended while no sweep was there; its folder tells how
        self.connect()
        for path in set(self._ids) - set(self._alive):
            self._forget(path)  # so did these, without an exit code

    def _given(self, values: Mapping[str, str | Sequence[str]]) -> dict[str, str | Sequence[str]]:
        return {**dict.fromkeys((field for known in FIELDS.values() for field in known), ""), **self._general, **values}

    def _call(self, key: str, **values: str | Sequence[str]) -> str:
        return call(filled(getattr(self.options, key), self._given(values)), self.options.timeout)

    # A pool -----------------------------------------------------------------------------------------------------------

    def room(self) -> int:
        return max(0, min(TOGETHER, self.options.at_once - len(self._alive)))

    def stop(self) -> str:
        if not self._alive:
            return ""
        path = next(iter(self._alive))
        ends = shlex.join(filled(self.options.cancel, self._given({"id": self._ids[path]})))
        return (
            f"{len(self._alive)} submitted jobs stay in the queue of {self.engine}; their numbers are in {LEDGER} of "
            f"the run folders. `{ends}` ends the job of {path.name}."
        )

    def end(self, path: Path) -> None:
        """Cancel the job of one run; `ended` lists it when it has saved and ended."""
        if path in self._ids:
            try:
                self._call("cancel", id=self._ids[path])
            except OSError as error:
                raise MatscaleError(f"The job of {path.name} could not be cancelled: {error}.") from None

    def start(self, jobs: Sequence[Job]) -> None:
        """Submit jobs.

        Raises MatscaleError if one is refused; jobs that were submitted before it stay in the queue and in the ledger.
        """
        many = TOGETHER if "scripts" in fields(self.options.submit) else 1
        rest = iter(jobs)
        while group := list(islice(rest, many)):
            for job in group:
                self._lay_out(job)
            for job, number in zip(group, self._submit(group), strict=True):
                self._ids[job.path] = number
                self._alive[job.path] = "queued"
                write_text(job.path / LEDGER, json.dumps({"engine": self.engine, "id": number}) + "\n")

    def _lay_out(self, job: Job) -> None:
        remove_path(job.path / batch.EXIT)
        write_text(job.path / SCRIPT, script(self.options, job.path))

    def _submit(self, jobs: Sequence[Job]) -> list[str]:
        path, scripts = jobs[0].path.absolute(), [str(job.path.absolute() / SCRIPT) for job in jobs]
        line = f"bash {shlex.quote(scripts[0])}"
        names = {
            "name": job_name(jobs[0].path),
            "script": scripts[0],
            "line": line,
            "run": str(path),
            "log": str(path / LOG),
        }
        runs = path.name if len(jobs) == 1 else f"{len(jobs)} runs"
        try:
            output = self._call("submit", scripts=scripts, **names)
        except OSError as error:
            raise MatscaleError(
                f"{self.engine} did not accept {runs}: {error}. Correct [{self.name}] in the study file. Jobs that "
                "were submitted before go on; the same command finds them."
            ) from None
        numbers = [match[1] for match in re.finditer(self.options.id, output, flags=re.M)][: len(jobs)]
        if len(numbers) < len(jobs) or not all(number and _is_word(number) for number in numbers):
            raise MatscaleError(
                f"{self.engine} printed {output.strip()[:200]!r} when {runs} was submitted. The expression id = "
                f"{self.options.id!r} finds {len(numbers)} job numbers of letters, digits and .:@-. Correct id in "
                f"[{self.name}] of the study file, and cancel the job if it was submitted."
            )
        return numbers

    # The queue --------------------------------------------------------------------------------------------------------

    def states(self) -> tuple[dict[Path, str], dict[Path, str]]:
        listed = self._list() if self._ids else {}
        alive: dict[Path, str] = {}
        over: dict[Path, str] = {}
        missing = set()
        for path, number in self._ids.items():
            name, state = listed.get(number, ("", ""))
            if name in ("", job_name(path)) and state:
                kind = self._kind(number, state)
                if kind in ("queued", "running"):
                    alive[path] = kind
                    if kind == "queued" and self.options.running is None and is_run_claimed(path):
                        alive[path] = "running"
                else:
                    over[path] = state
                    if kind == "failed":
                        self.end(path)
            elif exit_code(path) is None:
                # A list may lag behind, and so may a shared file system: only the second list without it counts, and
                # a list of nothing at all, as an engine in trouble gives it, only if it stays so. As long as the run is
                # locked, its script is at work.
                missing.add(path)
                if path not in self._unlisted or self._is_doubtful() or is_run_claimed(path):
                    alive[path] = self._alive.get(path, "queued")
        if not self._is_doubtful():
            self._unlisted = missing
        return alive, over

    def _list(self) -> dict[str, tuple[str, str]]:
        """Jobs that the engine lists: number -> (name, state)."""
        numbers = iter(list(self._ids.values()) if "ids" in fields(self.options.state) else ["all"])
        listed: dict[str, tuple[str, str]] = {}
        said = False
        while some := list(islice(numbers, 1000)):
            try:
                text = self._call("state", ids=some)
            except OSError as error:
                if self.options.none is None or not re.search(self.options.none, str(error)):
                    raise
                said = True
                continue
            found = [match.groupdict() for match in re.finditer(self.options.states, text, flags=re.M)]
            is_empty = self.options.none is not None and re.search(self.options.none, text)
            said = said or bool(is_empty)
            if not found and text.strip() and not is_empty:
                last = text.strip().splitlines()[-1][:200]
                raise OSError(
                    f"state printed {last!r}, which states = {self.options.states!r} in [{self.name}] does not match"
                )
            listed |= {row["id"]: (row.get("name") or "", row["state"]) for row in found}
        self._silent = None if listed or said else self._silent or time.monotonic()
        return listed

    def _is_doubtful(self) -> bool:
        """Whether the latest list was empty, but lists have not been empty for long enough to trust it."""
        return self._silent is not None and time.monotonic() - self._silent < batch.PATIENCE

    def _kind(self, number: str, state: str) -> str:
        for kind in KINDS:
            expression = getattr(self.options, kind)
            if expression is not None and re.fullmatch(expression, state):
                return kind
        raise MatscaleError(
            f"Job {number} of {self.engine} is in the state {state!r}, which [{self.name}] of the study file does not "
            f"name. Add it to queued, running, done, failed or cancelled; the jobs go on meanwhile."
        )

    def end_of(self, path: Path, state: str) -> Ended:
        number, code = self._ids[path], exit_code(path)
        self._forget(path)
        kind = self._kind(number, state) if state else ""
        if kind in ("failed", "cancelled"):
            return Ended(path, code, f"{self.engine}: job {number} {kind} ({state})", retry=kind != "cancelled")
        lost = f"{self.engine}: job {number} is gone from the queue and left no exit code"
        return Ended(path, code, lost if code is None else "")

    def _forget(self, path: Path) -> None:
        del self._ids[path]
        self._unlisted.discard(path)
        remove_path(path / LEDGER)


def _is_word(number: str) -> bool:
    """Whether a job number is safe as an argument of a command: not an option, without spaces and shell syntax."""
    return re.fullmatch(r"\w[\w.:@-]{0,99}", number) is not None


def _ledgers(study: Path, engine: str) -> Iterable[tuple[Path, str]]:
    """Jobs of an engine that earlier sweeps submitted, as (run folder, number)."""
    for path in sorted(study.glob(f"*/*/{LEDGER}")):
        try:
            told = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            told = {}
        number = told.get("id") if isinstance(told, dict) and told.get("engine") == engine else None
        # A damaged entry counts as none: the job that it stood for still holds the lock of its run while it trains.
        if isinstance(number, str) and _is_word(number):
            yield path.parent, number


TRAPS = """\
# TERM reaches the training directly, like all processes of a job. Grid Engine and LSF send USR2 before they end a job.
# USR2 would kill the training, so the shell receives it and sends TERM to the training.
child=
trap 'signalled=1' TERM USR1
trap 'signalled=1; [ -z "$child" ] || kill -TERM "$child"' USR2"""


def script(options: CommandOptions, run: Path) -> str:
    """Write the script of the job of a run."""
    cores = [] if options.cores is None else batch.threads(f"${{{options.cores}:-1}}", options.processes)
    guarded = [f'if [ -n "${{{options.cores}:-}}" ]; then', *(f"  {line}" for line in cores), "fi"] if cores else []
    return batch.script(
        ["# Written by `matscale sweep`. If you run it by hand, it trains on this machine."],
        run=shlex.quote(str(run)),
        told=f'"Job of {options.preset or "command"} on $(hostname)"',
        setup=[*guarded, *options.setup],
        traps=TRAPS,
        processes=options.processes,
        prefix="(trap '' USR2; exec ",
        suffix=")",
    )


def _open(options: Any, study: Path) -> CommandPool:
    return CommandPool(options, study)


@hookimpl
def register_launchers() -> list[Launcher]:
    summary = "a job per run, by the commands of any batch system"
    return [Launcher("command", summary, CommandOptions, _open, outlives=True)]
