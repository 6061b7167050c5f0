"""Resume a run: check which settings have changed since it began, and find the checkpoint from which it goes on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from matscale.core.errors import ConfigError, DataError
from matscale.core.runs import checkpoint
from matscale.core.runs.config import TrainConfig, differences
from matscale.core.runs.files import CONFIG, MOVABLE, RESUMABLE
from matscale.core.runs.record import Kept, Run
from matscale.core.runs.resumable import check_state
from matscale.core.train.origin import extension
from matscale.core.train.setup import Setup

Say = Callable[[str], None]


def reopened(path: str | Path, config: TrainConfig) -> Run:
    """Reopen the run in `path` to go on with `config`. Raises ConfigError if `config` would change the results."""
    run = Run.open(path)
    kept = Kept.latest(run.checkpoint_folder)
    changed = differences(run.config.plain(), config.plain())
    since = {} if kept is None else differences(kept.config.plain(), config.plain())
    fixed = {k: v for k, v in changed.items() if not (_is_in(k, (*RESUMABLE, "budget", "data.path")) or _same(k, v))}
    fixed |= {k: v for k, v in since.items() if not _is_in(k, (*RESUMABLE, *MOVABLE))}
    if kept is None and run.checkpoints():  # made by an older matscale: the progress of its schedule is not known
        fixed |= {k: v for k, v in changed.items() if not _is_in(k, RESUMABLE)}
    if fixed:
        listed = "; ".join(f"{key} is {was!r}, but {now!r} is given" for key, (was, now) in fixed.items())
        raise ConfigError(
            f"{path}: a run keeps its configuration when it is resumed ({listed}). Leave these options out (or undo "
            f"the edit of {CONFIG}), or start another run with -o. These may change: {', '.join(RESUMABLE)}; the path "
            "of the data; and the budget, if the schedule permits it."
        )
    budget = {k for k in {**changed, **since} if _is_in(k, ("budget",)) and not _is_in(k, RESUMABLE)}
    if budget:
        extension.check(run, config)
    if changed or not (run.path / CONFIG).exists():
        run.save_config(config)
    if budget and run.info["status"] == "completed":
        run.update({"status": "stopped"})
    return run


def _same(key: str, paths: tuple[Any, Any]) -> bool:
    """Whether `key` is `start.run` and its two values are paths of one folder."""
    return key == "start.run" and None not in paths and Path(paths[0]).resolve() == Path(paths[1]).resolve()


def _is_in(key: str, sections: tuple[str, ...]) -> bool:
    return any(key == section or key.startswith(section + ".") for section in sections)


def latest(run: Run, say: Say) -> checkpoint.Checkpoint | None:
    """Find the newest sound checkpoint from which the run can go on with its budget."""
    passed = list[int]()

    def usable(saved: checkpoint.Checkpoint) -> bool:
        folder = checkpoint.folder_of(run.checkpoint_folder, saved.step)
        check_state(saved, folder)
        kept = Kept.of(folder)
        if kept is None or extension.continues(kept, run.config):
            return True
        passed.append(saved.step)
        return False

    saved = checkpoint.load_latest(run.checkpoint_folder, usable)
    if passed and not saved:
        raise extension.refusal(run, run.config)
    if saved and passed:
        say(
            f"The cooldown of the shorter run began after step {saved.step}: the run goes on from there, and steps up "
            f"to {passed[0]} are done anew."
        )
    return saved


def check_same_data(run: Run, setup: Setup) -> None:
    was = run.info.get("dataset", {}).get("hash")
    if was != setup.dataset.hash:
        raise DataError(
            f"{setup.dataset.path}: has changed since the run {run.path} began (its hash was {str(was)[:12]}, is "
            f"{setup.dataset.hash[:12]}). Put the old dataset back, or start another run with -o."
        )
