"""Run folder: what was trained, how, and with which result.

config.toml              resolved configuration; `matscale train --config config.toml` repeats the run
run.json                 identity and totals, see `Run`
metrics.jsonl            a row per log point and per validation
samples.json, .jsonl     a few validation structures, and their predictions at every validation
references.json          element reference energies [eV]
checkpoints/step_<n>/    see `matscale.core.runs.checkpoint`; `checkpoints/last` and `best` hold the number of a step
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache as cached
from pathlib import Path
from typing import Any

from matscale.core.config import read_toml, to_toml
from matscale.core.errors import ConfigError, MatscaleError
from matscale.core.files import finite, make_folder, remove, write_json, write_text
from matscale.core.runs import checkpoint
from matscale.core.runs.config import TrainConfig
from matscale.core.runs.files import CONFIG, FORMAT_VERSION, GEOMETRIES, INFO, METRICS, SAMPLES, Rows
from matscale.core.runs.info import changed_rows, fingerprint, malformed, read_info
from matscale.core.sealing import DIGEST, DamagedRecord, sealed

__all__ = ["CONFIG", "FORMAT_VERSION", "GEOMETRIES", "INFO", "METRICS", "SAMPLES", "TIMINGS", "Run", "validation_loss"]

CHECKPOINTS = "checkpoints"
PLANNED, LOG = "planned.toml", "log.txt"
"""Files that a study adds to a run folder: the planned configuration, and the output of the process."""

TIMINGS = frozenset({"time", "wall_s", "atoms_per_s", "data_wait", "flops_per_s", "mfu", "memory_bytes"})
"""Keys of a row of metrics.jsonl that depend on the speed of the machine.

All others have the same bits whenever the run is repeated on a CPU.
"""


@dataclass(frozen=True)
class Kept:
    """Copy of the configuration and of run.json that a checkpoint holds."""

    step: int
    config: TrainConfig
    info: dict[str, Any]
    state: dict[str, Any]
    """Other values of state.json."""

    @classmethod
    def of(cls, folder: Path, *, whole: bool = False) -> Kept | None:
        """Read the copy in the checkpoint `folder`; None if the checkpoint has none.

        Raises DamagedCheckpoint for a damaged copy and, with `whole`, for damage to other files of the checkpoint.
        """
        state = checkpoint.read_state(folder, whole=whole)
        if "run" not in state:
            return None
        try:
            config, info = TrainConfig.parse(state["run"]["config"]), dict(state["run"]["info"])
        except (ConfigError, KeyError, TypeError, ValueError) as error:
            raise checkpoint.DamagedCheckpoint(f"{folder}: state.json holds no record of a run ({error}).") from None
        if fault := malformed(info):
            raise checkpoint.DamagedCheckpoint(f"{folder}: state.json holds no record of a run ({fault}).")
        return cls(int(state["step"]), config, info, state)

    @classmethod
    def latest(cls, root: Path, *, whole: bool = False) -> Kept | None:
        """Read the newest undamaged copy in the checkpoints below `root`; None if there is none.

        With `whole`, all files of the checkpoint must be undamaged.
        """
        for step in reversed(checkpoint.steps(root)):
            try:
                if (kept := cls.of(checkpoint.folder_of(root, step), whole=whole)) is not None:
                    return kept
            except checkpoint.DamagedCheckpoint:
                continue  # loading the checkpoint reports the damage
        return None

    @property
    def taken(self) -> str:
        return f"It is taken from the checkpoint of step {self.step}; `matscale train --resume` writes it anew."


def _config(path: Path, kept: Callable[[], Kept | None]) -> TrainConfig:
    """Read config.toml. If it cannot be read and a checkpoint has a copy, the error says so."""
    try:
        return TrainConfig.parse(read_toml(path / CONFIG), str(path / CONFIG))
    except ConfigError as error:
        hint = " Undo what was changed; or delete the file: the copy in the newest checkpoint then replaces it."
        raise ConfigError(f"{error}{hint if kept() else ''}") from None


def _warn_of_pointer(root: Path, name: str, named: int | None, instead: str) -> None:
    path = root / name
    says = f"names step {named}" if named is not None else "cannot be read" if path.exists() else "is missing"
    warnings.warn(f"{path}: {says}. {instead}, which is used here.", stacklevel=3)


class Run:
    """Run folder. Make one with `Run.create`, read one with `Run.open`.

    `info` is run.json: `name`, `status` (running, completed, stopped, failed), `architecture` {name, distribution,
    version}, `parameters` {total, trainable, embedding, non_embedding}, `dataset` {path, hash, structures, train,
    validation, elements, labels_by}, `dataset_info` (for `DatasetInfo.parse`), `scales`, `seed`, `device`, `precision`,
    `world_size`, `global_batch`, `versions`, `steps`, `epochs`, `structures`, `atoms`, `edges`, `flops`,
    `validation_flops`, `flops_counted_by`, `flops_deviation`, `flops_elementwise_share`, `flops_opaque`,
    `peak_flops_per_s`, `mfu_peak_by` (table or measured), `wall_s`, `best` and `last` (validation rows).

    A run that started from another run has `start` {run, step, not_taken, flops}. Here `flops` are the training FLOPs
    of the other run and of all runs before it (null if one of them was imported); `start.pretrain` is set if the other
    run was pre-trained. A pre-trained run has `pretrain`, the name of its task, and rows without `loss`. A branch also
    has `flops_shared` and `wall_s_shared`, the part of its totals that the other run spent. A run of a study has
    `labels`. An imported run has `imported`, but no `dataset` and no metrics.

    `rows` holds the number of rows of each .jsonl file at the last checkpoint and their SHA-256. `altered` lists the
    .jsonl files that were found changed. `precision_ledger` has the measurements of `matscale bench --record`.
    `config_sha256` is the fingerprint of the configuration, and `digest` is the digest of run.json itself.

    >>> run = Run.open("runs/first")
    >>> run.config.architecture.name, run.info["status"]
    ('schnet', 'completed')
    >>> [row["split"] for row in run.metrics("validation")]
    ['validation', 'validation']
    """

    def __init__(self, path: Path, config: TrainConfig, info: dict[str, Any]) -> None:
        self.path = path
        self.config = config
        self.info = info

    def __repr__(self) -> str:
        status, steps = self.info.get("status", "not begun"), self.info.get("steps")
        made = "" if steps is None else f", {steps:,} steps"
        return f"<Run {self.path}: {self.config.architecture.name}, {status}{made}>"

    @classmethod
    def create(cls, path: str | Path, config: TrainConfig) -> Run:
        """Make the folder of a new run. Raises ConfigError if the folder holds a run, or other files."""
        path = Path(path)
        cls.check_free(path)
        make_folder(path)
        remove(path / CONFIG)
        run = cls(path, config, {"format_version": FORMAT_VERSION, "name": path.name, "status": "running"})
        run.save_info()
        write_text(path / CONFIG, to_toml(config.plain()))  # last: a folder with it is a run
        return run

    @staticmethod
    def check_free(path: Path, *, resumable: bool = True) -> None:
        """Raises ConfigError if a new run at `path` would overwrite something.

        Half-made folders of killed processes may be overwritten, and so may runs that failed before their first step.
        With `resumable`, the error also says how to resume the run at `path`.
        """
        if (path / CONFIG).exists():
            if _failed_at_the_start(path):
                return
            instead = "Add --resume to go on with it, or choose" if resumable else "Choose"
            raise ConfigError(f"{path}: there is a run already. {instead} another folder with -o.")
        ours = {INFO, PLANNED, LOG}
        if path.exists() and (
            not path.is_dir() or any(not p.name.startswith(".") and p.name not in ours for p in path.iterdir())
        ):
            raise ConfigError(f"{path}: exists already, and is not an empty folder. Choose another folder with -o.")

    @classmethod
    def open(cls, path: str | Path) -> Run:
        """Read a run folder. Raises ConfigError for a folder without a run.

        If run.json or config.toml is missing, or run.json is damaged, the copy in the newest undamaged checkpoint is
        used, with a warning. Raises MatscaleError if there is no copy.
        """
        path = Path(path)
        kept = cached(lambda: Kept.latest(path / CHECKPOINTS, whole=True))
        if (path / CONFIG).exists():
            config = _config(path, kept)
        elif (saved := kept()) is not None:
            warnings.warn(f"{path / CONFIG}: is missing. {saved.taken}", stacklevel=2)
            config = saved.config
        else:
            raise ConfigError(f"{path}: is not a run folder (no {CONFIG} in it). `matscale train -o {path}` makes one.")
        try:
            info = read_info(path)
        except DamagedRecord as error:
            if (saved := kept()) is None:
                raise MatscaleError(f"{error} Restore it from a copy of the run.") from None
            warnings.warn(f"{error} {saved.taken}", stacklevel=2)
            info = {**saved.info, DIGEST: ""}
        return cls(path, config, info)

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def rows(self) -> Rows:
        """Rows of metrics.jsonl."""
        return Rows(self.path / METRICS)

    @property
    def samples(self) -> Rows:
        """Rows of samples.jsonl."""
        return Rows(self.path / SAMPLES)

    def metrics(self, split: str | None = None) -> Iterator[dict[str, Any]]:
        """Yield the rows of metrics.jsonl: those of one `split` (`train` or `validation`), or all.

        A half-written last row is skipped.
        """
        return (row for row in self.rows if split is None or row.get("split") == split)

    def rows_written(self) -> dict[str, dict[str, Any]]:
        """Number of rows, and their digest, for each .jsonl file.

        A checkpoint stores these, so that rows that were written later can be told apart.
        """
        return {METRICS: self.rows.written(), SAMPLES: self.samples.written()}

    def cut(self, written: Mapping[str, Any]) -> dict[str, Any]:
        """Cut .jsonl files back to the rows in `written`, an earlier result of `rows_written`.

        A file that is not in `written` loses all rows. Returns the values of `rows` and `altered` for run.json. Warns
        if rows of a file have changed since they were written.
        """
        altered = set(self.info.get("altered") or ()) if written else set()
        for rows in (self.rows, self.samples):
            name, known = rows.path.name, written.get(rows.path.name, 0)
            count = known if isinstance(known, int) else known["rows"]  # a number: of an older matscale, without digest
            if not isinstance(known, int) and rows.written(count) != known:
                altered.add(name)
                warnings.warn(
                    f"{rows.path}: its first {count} rows are not those that were written before the checkpoint. The "
                    "run goes on; laws ignore its rows from before the checkpoint.",
                    stacklevel=2,
                )
            rows.cut(count)
        return {"rows": self.rows_written(), "altered": sorted(altered)}

    @property
    def checkpoint_folder(self) -> Path:
        return self.path / CHECKPOINTS

    def checkpoints(self) -> list[int]:
        """Steps of the checkpoints, ascending.

        Damaged checkpoints are included, since a checkpoint is checked only when it is loaded.
        """
        return checkpoint.steps(self.checkpoint_folder)

    @property
    def best(self) -> int | None:
        """Step with the best validation; None if there was no validation.

        If the checkpoint of this step is damaged or missing, the best undamaged checkpoint is taken, with a warning;
        this is the last one if none of them was validated. If all checkpoints are damaged, the step of the best
        validation is returned; loading its checkpoint raises an error.
        """
        root, named = self.checkpoint_folder, checkpoint.pointer(self.checkpoint_folder, "best")
        newest, known = self._best_known()
        is_known = newest is not None
        if newest is not None and known != named:
            told = "no step was validated yet" if known is None else f"the best was that of step {known}"
            gone = "Its checkpoint is damaged or missing. " if named is not None and named > newest else ""
            if named is not None or known is not None or (root / "best").exists():
                _warn_of_pointer(
                    root, "best", named, f"{gone}According to the newest checkpoint (step {newest}), {told}"
                )
            named = known
        elif named is None and (root / "best").exists():
            _warn_of_pointer(root, "best", named, "All checkpoints are searched for the best sound one")
        elif named is None:
            return None
        if is_known and named is None:
            return None
        if named is not None and self._is_sound(named):
            return named
        sound = [step for step in self.checkpoints() if self._is_sound(step)]
        if not sound:
            return named
        altered = changed_rows(self.path, self.info)
        losses = {} if altered else {row.get("step"): validation_loss(row) for row in self.metrics("validation")}
        best = min(sound, key=lambda step: (losses.get(step, math.inf), -step))
        if named is not None or altered:
            warnings.warn(
                f"{checkpoint.folder_of(root, named or best)}: the best checkpoint is damaged or missing. The "
                f"checkpoint of step {best} is used instead. {altered}".rstrip(),
                stacklevel=2,
            )
        return best

    def _best_known(self) -> tuple[int | None, int | None]:
        """Step of the newest checkpoint with an undamaged state.json, and the best step according to this file.

        (None, None) if there is no such checkpoint.
        """
        for step in reversed(self.checkpoints()):
            try:
                position = checkpoint.read_state(checkpoint.folder_of(self.checkpoint_folder, step)).get("position")
                if position is not None:
                    best = position["best"]
                    return step, None if best is None else int(best["step"])
            except (checkpoint.DamagedCheckpoint, KeyError, TypeError, ValueError):
                continue
        return None, None

    def _is_sound(self, step: int) -> bool:
        try:
            checkpoint.verify(checkpoint.folder_of(self.checkpoint_folder, step))
        except checkpoint.DamagedCheckpoint:
            return False
        return True

    @property
    def last(self) -> int | None:
        """Step of the latest checkpoint: the one in the file `last`, or a newer undamaged one."""
        root, steps = self.checkpoint_folder, self.checkpoints()
        named = checkpoint.pointer(root, "last")
        known = named if named in steps else None
        newer = [step for step in steps if known is None or step > known]
        newest = next((step for step in reversed(newer) if self._is_sound(step)), known)
        if newest is None:  # none is sound: loading one raises the error
            return steps[-1] if steps else None
        if newest != named:
            _warn_of_pointer(root, "last", named, f"The newest sound checkpoint is that of step {newest}")
        return newest

    def update(self, values: Mapping[str, Any]) -> None:
        """Set keys of `info` and write run.json."""
        self.info.update(values)
        self.save_info()

    def seal(self) -> None:
        """From now on, write run.json with a digest.

        This says that no other program may change the file.
        """
        self.info |= {DIGEST: "", "config_sha256": fingerprint(self.config.plain())}

    def save_info(self) -> None:
        write_json(self.path / INFO, sealed(self.info) if DIGEST in self.info else self.info)

    def save_config(self, config: TrainConfig) -> None:
        """Write another configuration, after a run was resumed with other limits."""
        self.config = config
        write_text(self.path / CONFIG, to_toml(config.plain()))

    def kept(self, totals: Mapping[str, Any]) -> dict[str, Any]:
        """Copy of the configuration and of run.json, updated by `totals`, that a checkpoint stores."""
        info = {**self.info, **totals}
        info.pop(DIGEST, None)
        return {"config": self.config.plain(), "info": finite(info)}


def _failed_at_the_start(path: Path) -> bool:
    """Whether a run failed before its first row of metrics, for example because its data were refused."""
    try:
        info = read_info(path)
    except MatscaleError:
        return False
    began = (path / METRICS).exists() or (path / CHECKPOINTS).exists()
    return info.get("status") == "failed" and not began


def validation_loss(row: Mapping[str, Any]) -> float:
    """Loss by which validations are compared, from a row of metrics.jsonl.

    It is infinite if the loss is not finite (null in the file).
    """
    loss = row.get("loss", row.get("objective"))
    return loss if loss is not None and math.isfinite(loss) else math.inf
