"""A run on disk: one folder that says what was trained, how, and what came of it. DESIGN §6.

config.toml              the resolved configuration; `matscale train --config` of it repeats the run
run.json                 identity and totals, see `RunInfo`
metrics.jsonl            a row per log point and per validation
samples.json, .jsonl     a few validation structures, and their predictions at every validation
references.json          element reference energies [eV]
checkpoints/step_<n>/    see `matscale.core.train.checkpoint`; `checkpoints/last` and `best` name a step
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from matscale.core.config import read_toml, to_toml
from matscale.core.errors import ConfigError, MatscaleError
from matscale.core.files import make_folder, remove, write_json, write_text
from matscale.core.train import checkpoint
from matscale.core.train.config import TrainConfig
from matscale.core.train.names import CONFIG, FORMAT_VERSION, GEOMETRIES, INFO, METRICS, SAMPLES, is_record
from matscale.core.train.rows import Rows

__all__ = ["CONFIG", "FORMAT_VERSION", "GEOMETRIES", "INFO", "METRICS", "SAMPLES", "TIMINGS", "Run", "validation_loss"]

PLANNED, LOG = "planned.toml", "log.txt"
"""What a study lays into the folder of a run before it begins, and what the run's process prints."""

TIMINGS = frozenset({"time", "wall_s", "atoms_per_s", "data_wait", "flops_per_s", "mfu", "memory_bytes"})
"""Keys of a metrics row that depend on the machine and its mood; all others repeat bit for bit on a CPU."""


class Run:
    """A run folder. Make one with `Run.create`, read one with `Run.open`.

    `info` is run.json: `name`, `status` (running, completed, stopped, failed), `architecture` {name, distribution,
    version}, `parameters` {total, trainable, embedding, non_embedding}, `dataset` {path, hash, structures, train,
    validation, elements, labels_by}, `dataset_info` (for `DatasetInfo.parse`), `scales`, `seed`, `device`,
    `precision`, `world_size`, `global_batch`, `versions`, `steps`, `epochs`, `structures`, `atoms`, `edges`, `flops`,
    `validation_flops`, `flops_counted_by`, `flops_deviation`, `flops_elementwise_share`, `flops_opaque`,
    `peak_flops_per_s`, `mfu_peak_by` (table or measured), `wall_s`, `best` and `last` (validation rows). A run that
    began with another one has `start` {run, step, not_taken, flops}, these the training FLOPs of that run and of those
    it began with (null if one of them was imported), and also `pretrain` if that run was pre-trained; one that is
    pre-trained has `pretrain` itself, the name of what it learned, and rows without `loss`. A branch of one also
    `flops_shared` and `wall_s_shared`, what of its totals the other run spent. One of a study has `labels`; one of
    another program has `imported`, and neither `dataset` nor metrics.
    """

    def __init__(self, path: Path, config: TrainConfig, info: dict[str, Any]) -> None:
        self.path = path
        self.config = config
        self.info = info

    @classmethod
    def create(cls, path: str | Path, config: TrainConfig) -> Run:
        """Make the folder. Raises ConfigError if there is a run, or anything else, in it already."""
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
        """Raises ConfigError if a new run at `path` would touch anything.

        What a kill left half-made is nothing, nor is a run that failed before its first step. `resumable`: whether who
        asks could go on with a run that is there.
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
            raise ConfigError(f"{path}: is in the way (not an empty folder). Choose another folder with -o.")

    @classmethod
    def open(cls, path: str | Path) -> Run:
        """Read a run folder. Raises ConfigError if it is none."""
        path = Path(path)
        if not (path / CONFIG).exists():
            raise ConfigError(f"{path}: is not a run folder (no {CONFIG} in it). `matscale train -o {path}` makes one.")
        config = TrainConfig.parse(read_toml(path / CONFIG), str(path / CONFIG))
        try:
            info = json.loads((path / INFO).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise MatscaleError(
                f"{path / INFO}: cannot be read ({error}). Restore it from a copy of the run."
            ) from None
        if info.get("format_version", 0) > FORMAT_VERSION:
            raise MatscaleError(
                f"{path}: written by a newer matscale (format {info['format_version']}). Update matscale."
            )
        return cls(path, config, info)

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def rows(self) -> Rows:
        """metrics.jsonl, to append to."""
        return Rows(self.path / METRICS)

    @property
    def samples(self) -> Rows:
        """samples.jsonl, to append to."""
        return Rows(self.path / SAMPLES)

    def metrics(self, split: str | None = None) -> Iterator[dict[str, Any]]:
        """Rows of metrics.jsonl, of one split (`train`, `validation`) or all; a half-written last is passed over."""
        return (row for row in self.rows if split is None or row.get("split") == split)

    def rows_written(self) -> dict[str, int]:
        """File -> rows in it, for a checkpoint to remember: a step alone does not tell which of its rows came after."""
        return {METRICS: self.rows.count(), SAMPLES: self.samples.count()}

    def cut(self, written: Mapping[str, int]) -> None:
        """Go back to what `rows_written` said once; files that it does not name lose all rows."""
        for rows in (self.rows, self.samples):
            rows.cut(written.get(rows.path.name, 0))

    @property
    def checkpoint_folder(self) -> Path:
        return self.path / "checkpoints"

    def checkpoints(self) -> list[int]:
        """Steps of which there is a checkpoint, ascending; whether one is sound is known when it is loaded."""
        return checkpoint.steps(self.checkpoint_folder)

    @property
    def best(self) -> int | None:
        """Step of the best validation, if there has been one.

        Where its checkpoint is damaged or gone, with a warning, that of the best sound one, or of the last sound one if
        none of them was validated. Where none is sound, the damaged one: to load it says what is wrong with it.
        """
        named = checkpoint.pointer(self.checkpoint_folder, "best")
        if named is None or self._is_sound(named):
            return named
        sound = [step for step in self.checkpoints() if self._is_sound(step)]
        if not sound:
            return named
        losses = {row["step"]: validation_loss(row) for row in self.metrics("validation")}
        best = min(sound, key=lambda step: (losses.get(step, math.inf), -step))
        warnings.warn(
            f"{checkpoint.folder_of(self.checkpoint_folder, named)}: the best checkpoint is damaged or gone; that of "
            f"step {best} is taken in its place.",
            stacklevel=2,
        )
        return best

    def _is_sound(self, step: int) -> bool:
        try:
            checkpoint.verify(checkpoint.folder_of(self.checkpoint_folder, step))
        except checkpoint.DamagedCheckpoint:
            return False
        return True

    @property
    def last(self) -> int | None:
        """Step of the latest checkpoint."""
        return checkpoint.pointer(self.checkpoint_folder, "last")

    def update(self, values: Mapping[str, Any]) -> None:
        """Set keys of run.json and write it."""
        self.info.update(values)
        self.save_info()

    def save_info(self) -> None:
        write_json(self.path / INFO, self.info)

    def save_config(self, config: TrainConfig) -> None:
        """Replace the configuration, when a resumed run was given other limits."""
        self.config = config
        write_text(self.path / CONFIG, to_toml(config.plain()))


def _failed_at_the_start(path: Path) -> bool:
    """Whether a run ended with an error that left nothing to go on with: its data were refused, say."""
    try:
        info = json.loads((path / INFO).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    began = (path / METRICS).exists() or (path / "checkpoints").exists()
    return is_record(info) and info.get("status") == "failed" and not began


def validation_loss(row: Mapping[str, Any]) -> float:
    """What validations are compared by; infinite where it was not finite (null in the file)."""
    loss = row.get("loss", row["objective"])
    return loss if loss is not None and math.isfinite(loss) else math.inf
