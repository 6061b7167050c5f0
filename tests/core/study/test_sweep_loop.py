"""The loop of a sweep, with a pool that trains nothing: what is started, tried again, given up, told."""

from __future__ import annotations

import csv
import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from matscale.core.errors import ConfigError, MatscaleError, StoppedEarly
from matscale.core.locks import FolderLock, claim, is_claimed
from matscale.core.progress import Reporter
from matscale.core.runs.record import Run
from matscale.core.runs.status import State, state_of
from matscale.core.study import ledger
from matscale.core.study.identity import PlannedRun
from matscale.core.study.launcher import Ended
from matscale.core.study.outcome import state_after
from matscale.core.study.plan import StudyPlan
from matscale.core.study.sweep import Sweep, lay_out
from studies import FakePool, completed, planned, rows


@pytest.fixture
def plan(tmp_path: Path, data: Path) -> StudyPlan:
    return planned(tmp_path, data)


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("matscale.core.study.sweep.PAUSE", 0.0)


def statuses(sweep: Sweep) -> list[str]:
    return [sweep.states[run.path].status for run in sweep.runs]


def test_a_sweep_does_all_runs_and_a_second_one_none(plan: StudyPlan) -> None:
    pool = FakePool()
    Sweep(plan, pool).run()
    assert sorted(pool.started) == sorted(run.path for run in plan.runs)
    assert [row["status"] for row in rows(plan.folder)] == ["completed"] * 4
    again = FakePool()
    sweep = Sweep(plan, again)
    sweep.run()
    sweep.conclude()
    assert again.started == []


def test_a_larger_grid_adds_what_is_missing_alone(plan: StudyPlan, tmp_path: Path, data: Path) -> None:
    Sweep(plan, FakePool()).run()
    pool = FakePool()
    larger = planned(tmp_path, data, seeds=[0, 1, 2])
    Sweep(larger, pool).run()
    assert sorted(pool.started) == sorted(run.path for run in larger.runs if run.config.seed == 2)


def test_a_run_that_was_begun_under_another_name_is_found_by_its_identity(
    plan: StudyPlan, tmp_path: Path, data: Path
) -> None:
    Sweep(plan, FakePool()).run()
    for run in plan.runs:
        run.path.rename(run.path.with_name(f"renamed-{run.identity[:8]}"))
    pool = FakePool()
    Sweep(planned(tmp_path, data), pool).run()
    assert pool.started == []


@pytest.mark.parametrize("code", [-signal.SIGKILL, 137, 143, 1, 5, None])
def test_what_failed_for_an_outside_reason_is_tried_again(plan: StudyPlan, code: int | None) -> None:
    pool = FakePool(lambda run, attempt: code if attempt == 1 else 0)
    sweep = Sweep(plan, pool)
    sweep.run()
    sweep.conclude()
    assert len(pool.started) == 2 * len(plan.runs)


@pytest.mark.parametrize("code", [2, 3, 4])
def test_what_failed_for_a_reason_of_its_own_is_told_and_not_tried_again(plan: StudyPlan, code: int) -> None:
    bad = plan.runs[1]
    pool = FakePool(lambda run, attempt: code if run == bad.path else 0)
    sweep = Sweep(plan, pool)
    sweep.run()
    assert pool.started.count(bad.path) == 1
    assert statuses(sweep) == ["completed", "failed", "completed", "completed"]
    with pytest.raises(MatscaleError, match=rf"1 of 4 runs are not done: {bad.name}: failed") as error:
        sweep.conclude()
    assert error.value.exit_code == 1


def test_retries_have_a_limit(plan: StudyPlan) -> None:
    pool = FakePool(lambda run, attempt: 137)
    sweep = Sweep(plan, pool)
    sweep.run()
    assert {pool.started.count(run.path) for run in plan.runs} == {1 + plan.study.retries}
    assert set(statuses(sweep)) == {"crashed"}
    assert all("SIGKILL" in sweep.states[run.path].reason for run in plan.runs)


def failed(run: PlannedRun, error: str) -> None:
    lay_out(run)
    completed(run.path, status="failed", error=error)


def test_a_failure_of_an_earlier_sweep_stays_one_until_it_is_asked_for(plan: StudyPlan) -> None:
    failed(plan.runs[0], "NonFiniteLossError: step 3")
    failed(plan.runs[1], "OSError: [Errno 28] No space left on device")
    pool = FakePool()
    sweep = Sweep(plan, pool)
    sweep.run()
    assert plan.runs[0].path not in pool.started
    assert plan.runs[1].path in pool.started
    assert "NonFiniteLossError: step 3" in sweep.states[plan.runs[0].path].reason
    pool = FakePool()
    Sweep(plan, pool, retry_failed=True).run()
    assert pool.started == [plan.runs[0].path]


def test_a_job_that_somebody_cancelled_is_not_begun_again_by_itself(plan: StudyPlan) -> None:
    class Cancelled(FakePool):
        def ended(self) -> list[Ended]:
            return [Ended(end.path, None, "cancelled", retry=False) for end in super().ended()]

    pool = Cancelled(lambda run, attempt: None)
    sweep = Sweep(plan, pool)
    sweep.run()
    assert len(pool.started) == 4
    assert set(statuses(sweep)) == {"crashed"}


def test_a_process_that_outlived_its_sweep_is_waited_for_and_not_started_twice(plan: StudyPlan) -> None:
    orphan = plan.runs[0]
    lay_out(orphan)
    descriptor = claim(orphan.path)
    assert descriptor is not None

    class Slow(Reporter):
        def looked(self, sweep: Sweep) -> None:
            nonlocal descriptor
            assert sweep.states[orphan.path].status in ("running", "completed")
            if descriptor is not None and all(s == "completed" for s in statuses(sweep)[1:]):
                completed(orphan.path)
                os.close(descriptor)
                descriptor = None

    pool = FakePool()
    sweep = Sweep(plan, pool, Slow())
    sweep.run()
    assert orphan.path not in pool.started
    assert statuses(sweep) == ["completed"] * 4


def test_processes_that_outlived_their_sweep_leave_no_room_for_others_until_they_end(plan: StudyPlan) -> None:
    """A pool of two beside two that are left would be four on two cores, or two on one GPU."""
    orphans = plan.runs[:2]
    descriptors = {}
    for run in orphans:
        lay_out(run)
        descriptors[run.path] = claim(run.path)
    at_work: list[int] = []

    class Patient(Reporter):
        def looked(self, sweep: Sweep) -> None:
            at_work.append(sweep.counts().get("running", 0))
            if len(at_work) > 3 and descriptors:
                path, descriptor = descriptors.popitem()
                completed(path)
                assert descriptor is not None
                os.close(descriptor)

    pool = FakePool(size=2)
    sweep = Sweep(plan, pool, Patient())
    sweep.run()
    assert at_work[:4] == [2, 2, 2, 2]
    assert max(at_work) == 2
    assert statuses(sweep) == ["completed"] * 4
    assert not {run.path for run in orphans} & set(pool.started)


def test_a_claim_lives_as_long_as_the_process_that_holds_it(tmp_path: Path) -> None:
    descriptor = claim(tmp_path)
    assert descriptor is not None
    command = [sys.executable, "-c", "input()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=(descriptor,)) as process:
        os.close(descriptor)  # the launcher is gone
        assert is_claimed(tmp_path)
        assert claim(tmp_path) is None
        process.kill()
        process.wait()
    assert not is_claimed(tmp_path)


def test_a_look_at_a_run_does_not_keep_a_sweep_from_taking_it(tmp_path: Path) -> None:
    (tmp_path / ".worker.lock").touch()
    with (tmp_path / ".worker.lock").open() as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)  # as `matscale runs list` does for a moment
        assert not is_claimed(tmp_path)  # another who looks
        threading.Timer(0.1, lambda: fcntl.flock(looking, fcntl.LOCK_UN)).start()
        descriptor = claim(tmp_path)
    assert descriptor is not None
    os.close(descriptor)


def test_two_sweeps_of_one_study_do_not_run_at_once(plan: StudyPlan) -> None:
    plan.folder.mkdir(parents=True)
    with FolderLock(plan.folder), pytest.raises(ConfigError, match=r"is doing this study\. Wait.*another `output`"):
        Sweep(plan, FakePool()).run()


def test_a_signal_stops_the_pool_and_leaves_a_ledger(plan: StudyPlan) -> None:
    class Interrupt(Reporter):
        def looked(self, sweep: Sweep) -> None:
            os.kill(os.getpid(), signal.SIGTERM)

    pool = FakePool()
    with pytest.raises(StoppedEarly, match=r"SIGTERM.*Nothing goes on.*Nothing is lost"):
        Sweep(plan, pool, Interrupt()).run()
    assert pool.stopped
    assert len(rows(plan.folder)) == 4


def test_a_branch_waits_for_its_trunk_and_is_blocked_if_that_fails(tmp_path: Path, data: Path) -> None:
    plan = planned(tmp_path, data, seeds=[0], params=["2k"], budget=None, wsd={"steps": [10, 20]})
    trunk = plan.runs[0]

    def ends(run: Path, attempt: int) -> int:
        if run == trunk.path:
            step = run / "checkpoints" / "step_8"
            step.mkdir(parents=True)
            (step / "manifest.json").write_text("{}")
            return 4
        return 0

    pool = FakePool(ends)
    sweep = Sweep(plan, pool)
    sweep.run()
    assert pool.started == [trunk.path, plan.runs[1].path]  # what the trunk saved before it failed is of use
    assert statuses(sweep) == ["failed", "completed", "blocked"]


def test_a_branch_of_a_finished_trunk_that_was_kept_without_weights_is_blocked(tmp_path: Path, data: Path) -> None:
    plan = planned(tmp_path, data, seeds=[0], params=["2k"], budget=None, wsd={"steps": [10, 20]})
    trunk, short, long = plan.runs
    for run in (trunk, short):
        lay_out(run)
        completed(run.path)
    pool = FakePool()
    sweep = Sweep(plan, pool)
    sweep.run()
    assert (pool.started, statuses(sweep)) == ([], ["completed", "completed", "blocked"])
    assert sweep.states[long.path].reason.endswith("from which it branches, keeps no checkpoint of step 16")


def test_what_a_full_disk_ends_goes_on_later(plan: StudyPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(folder: Path, rows: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(ledger, "write", full)
        with pytest.raises(MatscaleError, match=r"No space left on device.*the same command continues the sweep"):
            Sweep(plan, FakePool()).run()
    sweep = Sweep(plan, FakePool())
    sweep.run()
    assert statuses(sweep) == ["completed"] * 4


def test_the_pool_is_stopped_when_the_loop_breaks_off(plan: StudyPlan) -> None:
    class Broken(Reporter):
        def looked(self, sweep: Sweep) -> None:
            raise OSError(28, "No space left on device")

    pool = FakePool()
    with pytest.raises(OSError, match="No space left"):
        Sweep(plan, pool, Broken()).run()
    assert pool.stopped


# How a run stands ---------------------------------------------------------------------------------------------------


def test_a_run_that_says_it_runs_and_is_claimed_by_nobody_was_killed(plan: StudyPlan) -> None:
    run = plan.runs[0]
    assert state_of(run.path) == State("planned")
    lay_out(run)
    assert state_of(run.path) == State("planned")
    completed(run.path, status="running")
    assert state_of(run.path).status == "crashed"
    Run.open(run.path).update({"status": "stopped"})
    assert state_of(run.path).status == "stopped"


def test_a_run_that_a_training_by_itself_is_at_work_on_is_running(plan: StudyPlan) -> None:
    run = plan.runs[0]
    lay_out(run)
    completed(run.path, status="running")
    with FolderLock(run.path):
        assert state_of(run.path) == State("running")
    assert state_of(run.path).status == "crashed"


def test_a_run_that_somebody_resumes_by_hand_is_waited_for_and_not_started_again(plan: StudyPlan) -> None:
    run, pool = plan.runs[0], FakePool()
    lay_out(run)
    completed(run.path, status="running")
    lock = FolderLock(run.path)

    class ByHand(Reporter):
        def looked(self, sweep: Sweep) -> None:
            if sweep.counts().get("completed") == len(plan.runs) - 1:
                assert sweep.states[run.path].status == "running"
                completed(run.path)
                lock.__exit__()

    with lock:
        sweep = Sweep(plan, pool, ByHand())
        sweep.run()
    assert statuses(sweep) == ["completed"] * len(plan.runs)
    assert run.path not in pool.started


@pytest.mark.parametrize(
    ("code", "told"), [(-9, "killed by SIGKILL"), (137, "killed by SIGKILL"), (-15, "killed by SIGTERM")]
)
def test_a_signal_that_ended_a_run_is_named(plan: StudyPlan, code: int, told: str) -> None:
    run = plan.runs[0]
    lay_out(run)
    completed(run.path, status="running")
    state = state_after(Ended(run.path, code))
    assert state.status == "crashed"
    assert state.reason.startswith(told)


def test_a_process_that_failed_without_being_able_to_say_so_was_not_killed(plan: StudyPlan) -> None:
    run = plan.runs[0]
    lay_out(run)
    completed(run.path, status="running")
    assert state_after(Ended(run.path, 1)) == State("crashed", "exit code 1")
    (run.path / "log.txt").write_text("Error: [Errno 28] No space left on device.\n")
    assert state_after(Ended(run.path, 1)) == State("crashed", "Error: [Errno 28] No space left on device.")


def test_an_error_before_there_is_a_record_is_found_in_what_the_process_printed(plan: StudyPlan) -> None:
    run = plan.runs[0]
    lay_out(run)
    (run.path / "log.txt").write_text("Traceback\nError: There is no architecture 'x'.\n\n")
    assert state_after(Ended(run.path, 2)) == State("failed", "Error: There is no architecture 'x'.")


def test_a_run_that_has_begun_keeps_the_configuration_it_began_with(plan: StudyPlan) -> None:
    run = plan.runs[0]
    lay_out(run)
    completed(run.path, status="stopped")
    before = (run.path / "planned.toml").read_text()
    lay_out(PlannedRun(**{**vars(run), "config": run.config.model_copy(update={"log_every": 99})}))
    assert (run.path / "planned.toml").read_text() == before


# The ledger ---------------------------------------------------------------------------------------------------------


def test_the_ledger_reads_alike_as_json_lines_and_csv(plan: StudyPlan) -> None:
    Sweep(plan, FakePool(lambda run, attempt: 0 if "seed0" in run.name else 3)).run()
    lines = rows(plan.folder)
    table = list(csv.DictReader((plan.folder / "runs.csv").read_text().splitlines()))
    assert len(lines) == len(table) == 4
    for line, cells in zip(lines, table):
        assert {key: "" if value is None else str(value) for key, value in line.items()} == cells
    assert {line["status"] for line in lines} == {"completed", "failed"}
    assert {(line["size"], line["seed"], line["lr"]) for line in lines} == {
        (size, seed, 3e-3) for size in ("2k", "3k") for seed in (0, 1)
    }


def test_a_run_that_has_not_begun_has_its_identity_in_the_ledger(plan: StudyPlan) -> None:
    lines = [ledger.row(run.path, planned=run) for run in plan.runs]
    assert [line["identity"] for line in lines] == [run.identity for run in plan.runs]
    assert {(line["study"], line["status"]) for line in lines} == {("study", "planned")}


@pytest.mark.skipif(shutil.which("jq") is None, reason="jq is not installed")
def test_the_ledger_answers_the_questions_of_the_docs_to_jq(plan: StudyPlan, tmp_path: Path) -> None:
    Sweep(plan, FakePool(lambda run, attempt: 0 if "seed0" in run.name else 3)).run()
    page = (Path(__file__).parents[3] / "docs" / "sweeps.md").read_text(encoding="utf-8")
    commands = re.findall(r"^jq .*$", page, flags=re.M)
    where = {"cwd": plan.folder, "text": True, "capture_output": True, "check": True, "shell": True}
    left, spent = (subprocess.run(c.replace("studies/first/", ""), **where).stdout for c in commands)  # type: ignore[call-overload]
    assert len(left.splitlines()) == 2
    assert all(": failed " in line for line in left.splitlines())
    assert float(spent) == 200


def test_what_branches_share_with_a_trunk_is_counted_once() -> None:
    trunk = {"run": "trunk", "flops": 80.0, "wall_s": 8 * 3600.0}
    branch = {
        "branch_of": "trunk",
        "flops": 50.0,
        "flops_shared": 40.0,
        "wall_s": 5 * 3600.0,
        "wall_s_shared": 4 * 3600.0,
    }
    longer = {**branch, "run": "longer", "flops": 100.0, "flops_shared": 80.0}
    branches = [{**branch, "run": "short"}, longer]
    begun = {"run": "begun", "branch_of": "trunk", "flops_shared": 40.0}
    assert ledger.spent([trunk, *branches, begun, {"run": "planned", "flops": None}])["flops"] == 80 + 10 + 20
    assert ledger.spent([trunk, *branches])["device_hours"] == 8 + 1 + 1
    assert ledger.spent(branches)["flops"] == 80 + 10 + 20  # the trunk is not listed, but was trained all the same
    assert ledger.spent([{"run": "two GPUs", "wall_s": 3600.0, "world_size": 2}])["device_hours"] == 2


def test_runs_are_found_in_a_study_in_a_folder_and_alone(plan: StudyPlan, tmp_path: Path) -> None:
    Sweep(plan, FakePool()).run()
    paths = sorted(run.path for run in plan.runs)
    assert sorted(ledger.run_folders(plan.folder)) == paths
    assert sorted(ledger.run_folders(plan.folder / "runs")) == paths
    assert list(ledger.run_folders(paths[0])) == [paths[0]]
    with pytest.raises(ConfigError, match="no such folder"):
        list(ledger.run_folders(tmp_path / "nothing"))


def test_a_run_that_was_given_up_is_not_begun_again_and_the_study_is_done_without_it(
    tmp_path: Path, data: Path
) -> None:
    plan = planned(tmp_path, data)
    left = plan.runs[0].path
    pool = FakePool()
    sweep = Sweep(plan, pool, given_up={left: "it was to end above another"})
    sweep.run()
    sweep.conclude()
    assert left not in pool.started
    assert len(pool.started) == len(plan.runs) - 1
