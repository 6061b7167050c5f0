"""The launcher `command`: its templates, its presets on engines that answer from files, what it makes of a queue."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from matscale.core.data.store.packed import PackedDataset
from matscale.core.errors import ConfigError, MatscaleError
from matscale.core.locks import claim, is_claimed
from matscale.core.progress import Reporter
from matscale.core.study.launcher import Ended, Job
from matscale.core.study.sweep import Sweep
from matscale.plugins.launchers.command import CommandOptions, CommandPool, filled, job_name, script
from matscale.plugins.launchers.presets import PRESETS
from studies import planned

# Engines that answer from files -------------------------------------------------------------------------------------

FAKE = """#!/bin/sh
printf '%s' "$(basename "$0")" >>{folder}/calls
for word; do printf '|%s' "$word" >>{folder}/calls; done
echo >>{folder}/calls
key=$(basename "$0")
[ ! -f {folder}/$key.$1.out ] || key=$key.$1
[ ! -f {folder}/$key.err ] || {{ cat {folder}/$key.err >&2; exit 7; }}
cat {folder}/$key.out 2>/dev/null || true
"""
PROGRAMS = ("qsub", "qstat", "qdel", "bsub", "bjobs", "bkill", "flux", "hq")


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder: what a program prints is in `<program>.out` or `<program>.<first word>.out`, its error in `.err`."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in PROGRAMS:
        (folder / name).write_text(FAKE.format(folder=folder))
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


@pytest.fixture
def jobs(tmp_path: Path) -> list[Job]:
    paths = [tmp_path / "study" / "runs" / f"fcn-2k-seed{k}" for k in range(4)]
    for path in paths:
        path.mkdir(parents=True)
    return [Job(path) for path in paths]


def pool(tmp_path: Path, **options: Any) -> CommandPool:
    values = {"preset": "sge", "poll": 1e-6, **options}
    return CommandPool(CommandOptions.parse(values, "command"), tmp_path / "study")


def calls(engine: Path, program: str) -> list[list[str]]:
    lines = [line.split("|") for line in (engine / "calls").read_text().splitlines()]
    return [words[1:] for words in lines if words[0] == program]


def submitted(engine: Path, tmp_path: Path, jobs: list[Job], **options: Any) -> CommandPool:
    """Jobs 17, 18, ... in the queue of Grid Engine."""
    sweep = pool(tmp_path, **options)
    for number, job in enumerate(jobs, 17):
        (engine / "qsub.out").write_text(f"{number}\n")
        sweep.start([job])
    return sweep


def qstat(engine: Path, **states: str) -> None:
    """What qstat(1) of Grid Engine 8.1.9 prints for jobs j17, j18, ... in these states."""
    head = (
        "job-ID  prior   name       user         state submit/start at     queue         slots ja-task-ID\n" + "-" * 95
    )
    rows = [
        f"     {name[1:]:>2} 0.55500 fcn2k-1234 root         {state:<5} 11/30/2026 15:01:18 main@vm           1"
        for name, state in states.items()
    ]
    (engine / "qstat.out").write_text("\n".join([head, *rows]) + "\n" if rows else "")


# What the real ones print, from their manual pages: qstat(1B) of OpenPBS 23 and TORQUE 6 (alternative format), bsub(1)
# and bjobs(1) of IBM Spectrum LSF 10.1, flux-submit(1) and flux-jobs(1) of flux-core, HyperQueue's book (hq job list).
ANSWERS: dict[str, tuple[str, str, str, str]] = {
    "pbs": (
        "1234.pbs01\n",
        "qstat",
        "\npbs01: \n                                                            Req'd  Req'd   Elap\n"
        "Job ID          Username Queue    Jobname    SessID NDS TSK Memory Time  S Time\n"
        "--------------- -------- -------- ---------- ------ --- --- ------ ----- - -----\n"
        "1234.pbs01      me       workq    fcn2k-1234    --    1   1    --    --  {state}   -- \n"
        "9999.pbs01      me       workq    other       4567    1   8    4gb 24:00 R 00:01\n",
        "Q R C",
    ),
    "lsf": (
        "Job <1234> is submitted to default queue <normal>.\n",
        "bjobs",
        "1234   {state}\n9999   RUN\n",
        "PEND RUN EXIT",
    ),
    "flux": ("ƒ2jNzPh9K\n", "flux.jobs", "ƒ2jNzPh9K {state}\nƒ3abc RUN\n", "SCHED RUN FAILED"),
    "hq": (
        "1234\n",
        "hq.job",
        "+------+-----------------+---------+-------+\n| ID   | Name            | State   | Tasks |\n"
        "+------+-----------------+---------+-------+\n| 1234 | {name} | {state} | 1     |\n"
        "|    1 | another         | WAITING | 1     |\n+------+-----------------+---------+-------+\n",
        "WAITING RUNNING FINISHED",
    ),
}


@pytest.mark.parametrize("preset", ANSWERS)
def test_a_preset_reads_what_its_engine_prints(engine: Path, jobs: list[Job], tmp_path: Path, preset: str) -> None:
    printed, key, listed, states = ANSWERS[preset]
    run, name = jobs[0].path, job_name(jobs[0].path)
    submit = (
        "flux.submit"
        if preset == "flux"
        else "hq.--output-mode=quiet"
        if preset == "hq"
        else key.replace("jobs", "sub")
    )
    (engine / f"{submit.replace('qstat', 'qsub')}.out").write_text(printed)
    sweep = pool(tmp_path, preset=preset)
    sweep.start(jobs[:1])
    for state, expected in zip(states.split(), ({run: "queued"}, {run: "running"}, {})):
        (engine / f"{key}.out").write_text(listed.format(state=state, name=name))
        assert sweep.held() == expected
    assert [(end.path, end.code) for end in sweep.ended()] == [(run, None)]
    words = [
        word
        for call in calls(engine, key.partition(".")[0].replace("qstat", "qsub").replace("bjobs", "bsub"))
        for word in call
    ]
    assert any(str(run / ".job.sh") in word for word in words)
    assert any(name in word for word in words)


def test_an_empty_list_of_lsf_is_not_a_failure_of_lsf(engine: Path, jobs: list[Job], tmp_path: Path) -> None:
    (engine / "bsub.out").write_text("Job <5> is submitted to queue <normal>.\n")
    sweep = pool(tmp_path, preset="lsf")
    sweep.start(jobs[:1])
    (engine / "bjobs.err").write_text("No unfinished job found\n")
    assert sweep.held() == {jobs[0].path: "queued"}
    assert sweep.held() == {}


# The queue ----------------------------------------------------------------------------------------------------------


def test_the_next_sweep_finds_its_jobs_by_the_numbers_in_the_run_folders(
    engine: Path, jobs: list[Job], tmp_path: Path
) -> None:
    submitted(engine, tmp_path, jobs)
    qstat(engine, j17="r", j18="qw", j19="hqw", j20="dr", j99="r")
    assert list(pool(tmp_path).held().values()) == ["running", "queued", "queued", "running"]


def test_the_states_of_all_jobs_are_asked_in_one_call(engine: Path, jobs: list[Job], tmp_path: Path) -> None:
    sweep = submitted(engine, tmp_path, jobs, poll=3600.0)
    qstat(engine, j17="r", j18="r", j19="r", j20="r")
    before = len(calls(engine, "qstat"))
    sweep._look()
    assert len(calls(engine, "qstat")) == before + 1


def test_a_job_that_vanished_is_told_as_lost_once_a_second_list_lacks_it(
    engine: Path, jobs: list[Job], tmp_path: Path
) -> None:
    sweep = submitted(engine, tmp_path, jobs[:2])
    qstat(engine, j18="r")
    assert jobs[0].path in sweep.held()
    (end,) = sweep.ended()
    assert end == Ended(jobs[0].path, None, "sge: job 17 is gone from the queue and left no exit code")
    assert list(sweep.held()) == [jobs[1].path]
    assert not (jobs[0].path / ".job.json").exists()


def test_a_job_that_left_an_exit_code_has_ended_at_once(engine: Path, jobs: list[Job], tmp_path: Path) -> None:
    sweep = submitted(engine, tmp_path, jobs[:1])
    qstat(engine)
    (jobs[0].path / ".exit-code").write_text("4\n")
    assert sweep.ended() == [Ended(jobs[0].path, 4)]


def test_a_job_that_is_not_listed_counts_as_alive_while_its_run_is_locked(
    engine: Path, jobs: list[Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = submitted(engine, tmp_path, jobs[:1])
    qstat(engine)
    monkeypatch.setattr("matscale.plugins.launchers.batch.PATIENCE", 0.0)
    lock = claim(jobs[0].path)
    assert lock is not None
    assert [len(sweep.held()) for _ in range(3)] == [1, 1, 1]
    os.close(lock)
    assert sweep.held() == {}


def test_an_empty_list_says_that_jobs_are_gone_only_if_it_stays_empty(
    engine: Path, jobs: list[Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = submitted(engine, tmp_path, jobs[:2])
    qstat(engine)
    assert [len(sweep.held()) for _ in range(4)] == [2, 2, 2, 2]
    qstat(engine, j17="r")
    assert [len(sweep.held()) for _ in range(2)] == [2, 1]  # this list knows a job, so that it counts at once
    qstat(engine)
    assert len(sweep.held()) == 1
    monkeypatch.setattr("matscale.plugins.launchers.batch.PATIENCE", 0.0)
    assert [len(sweep.held()) for _ in range(2)] == [1, 0]


def test_lsf_joins_its_words_to_a_line_of_a_shell_and_the_path_stays_one_word(engine: Path, tmp_path: Path) -> None:
    run = tmp_path / "a study; touch gone $(id)" / "fcn 2k"
    run.mkdir(parents=True)
    (engine / "bsub.out").write_text("Job <5> is submitted to queue <normal>.\n")
    pool(tmp_path, preset="lsf").start([Job(run)])
    (words,) = calls(engine, "bsub")
    (run / ".job.sh").write_text('echo "$0"\n')
    line = " ".join(words[words.index("/dev/null") + 1 :])
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=True)
    assert done.stdout == f"{run / '.job.sh'}\n"


def test_a_job_in_an_error_state_is_cancelled_and_told(engine: Path, jobs: list[Job], tmp_path: Path) -> None:
    sweep = submitted(engine, tmp_path, jobs[:1])
    qstat(engine, j17="Eqw")
    assert sweep.ended() == [Ended(jobs[0].path, None, "sge: job 17 failed (Eqw)")]
    assert calls(engine, "qdel") == [["17"]]


def test_a_state_that_nothing_names_is_an_error_that_names_it(engine: Path, jobs: list[Job], tmp_path: Path) -> None:
    sweep = submitted(engine, tmp_path, jobs[:1])
    qstat(engine, j17="Zz")
    with pytest.raises(MatscaleError, match=r"Job 17 of sge is in the state 'Zz'.*Add it to queued, running"):
        sweep.held()


def test_a_list_that_cannot_be_read_does_not_make_jobs_vanish(engine: Path, jobs: list[Job], tmp_path: Path) -> None:
    sweep = submitted(engine, tmp_path, jobs[:1])
    (engine / "qstat.out").write_text("the server is in maintenance\n")
    assert [len(sweep.held()) for _ in range(3)] == [1, 1, 1]
    with pytest.raises(ConfigError, match=r"does not reach sge: state printed 'the server is in maintenance'"):
        pool(tmp_path)


def test_one_run_can_be_ended(engine: Path, jobs: list[Job], tmp_path: Path) -> None:
    sweep = submitted(engine, tmp_path, jobs[:2])
    sweep.end(jobs[1].path)
    assert calls(engine, "qdel") == [["18"]]
    assert "2 submitted jobs stay in the queue of sge" in sweep.stop()
    assert "`qdel 17` ends the job of fcn-2k-seed0" in sweep.stop()


def test_no_more_jobs_than_asked_for_are_in_the_queue(engine: Path, jobs: list[Job], tmp_path: Path) -> None:
    sweep = submitted(engine, tmp_path, jobs[:2], at_once=3)
    assert sweep.room() == 1


# Submission ---------------------------------------------------------------------------------------------------------


def test_words_with_spaces_and_signs_of_a_shell_stay_one_argument(engine: Path, tmp_path: Path) -> None:
    run = tmp_path / "a study; touch gone $(id)" / "runs" / "fcn 2k"
    run.mkdir(parents=True)
    (engine / "qsub.out").write_text("17\n")
    pool(tmp_path, options=["-l", "a b"]).start([Job(run)])
    (words,) = calls(engine, "qsub")
    assert words[-1] == str(run / ".job.sh")
    assert words[words.index("-l") + 1] == "a b"
    done = subprocess.run(["bash", "-n", run / ".job.sh"], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert f"run='{run}'" in (run / ".job.sh").read_text()


def test_a_refused_job_is_told_with_exit_code_and_words_of_the_program(
    engine: Path, jobs: list[Job], tmp_path: Path
) -> None:
    sweep = pool(tmp_path)
    (engine / "qsub.err").write_text("Job was rejected because job requests unknown queue\n")
    with pytest.raises(
        MatscaleError, match=r"fcn-2k-seed0: qsub: Job was rejected.*\(exit code 7\).*Correct \[command\]"
    ):
        sweep.start(jobs)
    assert sweep.held() == {}


@pytest.mark.parametrize("printed", ["", "no number here\n", "Your job -rf is submitted\n"])
def test_an_output_without_the_number_of_a_job_is_quoted(
    engine: Path, jobs: list[Job], tmp_path: Path, printed: str
) -> None:
    (engine / "qsub.out").write_text(printed)
    with pytest.raises(MatscaleError, match=r"finds \d job numbers of letters, digits"):
        pool(tmp_path, id="job (\\S+)|^(\\d+)").start(jobs[:1])
    assert not (jobs[0].path / ".job.json").exists()


def test_many_runs_go_in_one_call_where_the_engine_takes_them(engine: Path, jobs: list[Job], tmp_path: Path) -> None:
    (engine / "qsub.out").write_text("1\n2\n3\n4\n")
    pool(tmp_path, submit="qsub {scripts}").start(jobs)
    assert calls(engine, "qsub") == [[str(job.path / ".job.sh") for job in jobs]]
    assert [json.loads((job.path / ".job.json").read_text())["id"] for job in jobs] == ["1", "2", "3", "4"]


def test_a_program_that_hangs_is_ended_with_all_that_it_started(engine: Path, jobs: list[Job], tmp_path: Path) -> None:
    submitted(engine, tmp_path, jobs[:1])
    (engine / "qstat").write_text(f"#!/bin/sh\nsleep 600 &\necho $! >{engine}/sleeper\nwait\n")
    with pytest.raises(ConfigError, match=r"does not reach sge: qstat did not answer in 0.5 s"):
        pool(tmp_path, timeout=0.5)
    sleeper = Path("/proc") / (engine / "sleeper").read_text().strip() / "status"
    assert not sleeper.exists() or "State:\tZ" in sleeper.read_text()


LIVING = {
    "qsub": """#!/bin/sh
for script; do :; done
setsid bash "$script" >/dev/null 2>&1 &
echo $!
""",
    "qstat": """#!/bin/sh
for number in $(cat {folder}/../study/runs/*/.job.json 2>/dev/null | tr -dc '0-9\\n'); do
  [ ! -d /proc/$number ] || echo "$number 0.5 name user r"
done
""",
    "qdel": "#!/bin/sh\nkill -USR2 -$1\n",
}
"""An engine that really runs its jobs, and whose qdel sends USR2 to all processes of a job, as Grid Engine does."""


@pytest.mark.long
def test_a_run_that_is_cancelled_saves_and_the_next_job_completes_it(
    engine: Path, tmp_path: Path, alloys: PackedDataset
) -> None:
    for name, text in LIVING.items():
        (engine / name).write_text(text.replace("{folder}", str(engine)))
    steps = {"budget": {"steps": 200}, "params": ["2k"], "seeds": [0]}
    study = planned(tmp_path, alloys.path, **steps)
    run = study.runs[0].path

    class Cancels(Reporter):
        """Cancels the job once, when its run has written rows."""

        done = False

        def looked(self, sweep: Sweep) -> None:
            if not self.done and is_claimed(run) and (run / "metrics.jsonl").exists():
                sweep.pool.end(run)  # type: ignore[attr-defined]
                self.done = True

    sweep = Sweep(study, pool(tmp_path, poll=0.2, states=r"^(?P<id>\d+) \S+ \S+ \S+ (?P<state>\w+)"), Cancels())
    sweep.run()
    assert sweep.counts() == {"completed": 1}
    log = (run / "log.txt").read_text()
    assert "Stopped by SIGTERM" in log
    assert log.count("Job of sge") == 2


def test_a_second_job_of_a_run_that_is_being_trained_leaves_it_alone(jobs: list[Job]) -> None:
    """A sweep that is killed between a submission and its entry in the ledger submits the run again."""
    run = jobs[0].path
    text = script(CommandOptions.parse({"preset": "sge"}, ""), run).replace("--timeout 5", "--timeout 0")
    lock = claim(run)
    assert lock is not None
    done = subprocess.run(["bash", "-c", text], check=False)
    os.close(lock)
    assert done.returncode == 75
    assert "Another process is at work on this run." in (run / "log.txt").read_text()
    assert not (run / ".exit-code").exists()


# Bad input ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, "there is no submit, state, states, queued, cancel. Set preset = one of sge, pbs, lsf"),
        ({"preset": "sgee"}, "preset = 'sgee': there is no such preset. Presets: sge, pbs"),
        ({"preset": 3}, "preset = 3"),
        ({"preset": "sge", "submit": "qsub job.sh"}, r"submit needs one field for what the job runs: \{script\}"),
        (
            {"preset": "sge", "submit": "qsub {script} {queue}"},
            r"submit has the unknown field \{queue\}. Fields of submit",
        ),
        ({"preset": "sge", "submit": "qsub {script!r}"}, "a field is a name in braces"),
        ({"preset": "sge", "submit": "qsub {script.parent}"}, "a field is a name in braces"),
        ({"preset": "sge", "submit": "qsub {script"}, "expected '}'"),
        ({"preset": "sge", "submit": "qsub 'x {script}"}, "No closing quotation"),
        ({"preset": "sge", "submit": "qsub -N {name} {scripts}"}, r"but \{name\} belongs to one run"),
        ({"preset": "sge", "submit": "{script}"}, "its first word is the program"),
        ({"preset": "sge", "submit": " "}, "a command is expected"),
        ({"preset": "sge", "submit": "qsub {script}", "options": ["-q"]}, "submit has no field {options} for them"),
        ({"preset": "sge", "options": ["a\nb"]}, "line break"),
        ({"preset": "sge", "state": "qstat {id}"}, r"state has the unknown field \{id\}"),
        ({"preset": "sge", "cancel": "qdel"}, r"cancel needs the field \{id\}"),
        ({"preset": "sge", "id": "\\d+"}, "needs a group in parentheses"),
        ({"preset": "sge", "id": "(\\d+"}, "not a regular expression"),
        ({"preset": "sge", "states": "(\\d+) (\\w+)"}, r"needs the groups \(\?P<id>"),
        ({"preset": "sge", "cores": "A; rm"}, "cores"),
        ({"preset": "sge", "at_once": 0}, "at_once"),
        ({"preset": "sge", "qeue": "long"}, "unknown key 'qeue'"),
    ],
    ids=str,
)
def test_a_wrong_table_is_an_error_that_says_what_to_write(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        CommandOptions.parse(values, "study.toml: command")


def test_an_engine_whose_programs_are_missing_is_named_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ConfigError, match=r"needs qsub, qstat, qdel \(submit in \[command\].*--launcher local"):
        pool(tmp_path)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"id": 3}', '{"engine": "sge", "id": "-rf"}', '{"engine": "pbs", "id": "1"}']
)
def test_a_damaged_or_foreign_entry_of_the_ledger_counts_as_none(
    engine: Path, jobs: list[Job], tmp_path: Path, text: str
) -> None:
    (jobs[0].path / ".job.json").write_text(text)
    assert pool(tmp_path).held() == {}


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_is_complete_and_each_of_its_keys_can_be_replaced(preset: str) -> None:
    options = CommandOptions.parse({"preset": preset, "state": "other {user}", "poll": 1.0}, "command")
    assert options.state == "other {user}"
    assert options.submit == PRESETS[preset]["submit"]
    assert CommandOptions.parse(options.plain(), "command") == options


def test_a_brace_of_the_engine_is_doubled_in_a_template() -> None:
    assert filled("flux jobs -o '{{id}} {{status}}' {ids}", {"ids": ["1", "2"]}) == [
        *("flux", "jobs", "-o", "{id} {status}", "1", "2")
    ]
    assert filled("qstat -j{ids}", {"ids": ["1", "2"]}) == ["qstat", "-j1,2"]


def test_names_of_jobs_are_short_and_differ_by_folder(tmp_path: Path) -> None:
    names = {job_name(Path(f"studies/{k}/runs/1-fcn+2k")) for k in range(9)}
    assert len(names) == 9
    assert all(len(name) <= 15 and name[0].isalpha() for name in names)


def test_a_job_in_the_environment_of_a_step_with_several_tasks_is_a_run_of_its_own(
    jobs: list[Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "2", "WORLD_SIZE": "4", "RANK": "2"}.items():
        monkeypatch.setenv(name, value)
    text = script(CommandOptions.parse({"preset": "sge"}, ""), jobs[0].path)
    told = re.sub(r"^.*-m matscale train.*&$", 'echo "rank $RANK of $WORLD_SIZE" &', text, flags=re.M)
    assert told != text
    assert subprocess.run(["bash", "-c", told], check=False).returncode == 0
    assert "rank 0 of 1" in (jobs[0].path / "log.txt").read_text()


def test_several_processes_are_started_by_the_run_itself_and_share_the_cores(tmp_path: Path) -> None:
    text = script(CommandOptions.parse({"preset": "sge", "processes": 4, "setup": ["module load cuda"]}, ""), tmp_path)
    assert re.search(r"-m matscale train .* --devices 4 ", text)
    assert "export OMP_NUM_THREADS=$(( ${NSLOTS:-1} / 4 ))" in text
    assert "\nmodule load cuda\n" in text
