"""Tell kinds of columns of a log apart by their headings and values: names of runs, counts, times, settings."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from matscale.core.scaling.tables.columns import TRAIN_LOSS, plain_name, words_of

_NAMES = frozenset(
    (
        *("id", "uuid", "hash", "key", "name", "run", "trial", "number", "no", "num", "nr", "series", "config", "task"),
        *(
            "label",
            "sweep",
            "group",
            "folder",
            "directory",
            "dir",
            "file",
            "log",
            "job",
            "experiment",
            "exp",
            "version",
        ),
    )
)
"""Words in headings of columns that may name or number runs."""
PASSES = frozenset(("ep", "pass", "passes", "eval", "evals", "evaluation", "cycle", "tick", "chunk"))
"""Words in headings of whole numbers that count validations or passes."""
SEEN = frozenset(("token", "tokens", "example", "examples", "sample", "samples", "seen", "flop", "flops", "compute"))
"""Words in headings of amounts that may belong to a run or to a step."""
SETTINGS = frozenset(("lr", "learning", "rate", "wd", "decay", "dropout", "optimizer", "warmup", "momentum", "size"))
REPEATS = frozenset(("rep", "reps", "repeat", "repetition", "replica", "replicate", "fold", "index", "seeds"))
COUNTS = frozenset(
    (
        *("token", "sample", "example", "structure", "frame", "batch", "minibatch", "step", "iter", "iteration"),
        *("tokens", "samples", "examples", "structures", "frames", "batches", "minibatches", "steps", "iterations"),
        *("epoch", "epochs", "update", "updates", "progress", "seen", "consumed", "processed", "checkpoint", "ckpt"),
        *("it", "itr", "iters", "timestep", "timesteps", "round", "rounds", "kimg"),
    )
)
"""Words in headings of counts that grow during a run."""
TIMES = frozenset(
    (
        *("time", "timestamp", "seconds", "minutes", "hours", "elapsed", "runtime", "wall", "walltime", "relative"),
        *("date", "datetime", "day", "days", "created", "updated", "modified", "logged", "recorded", "written"),
        *("started", "finished", "ended", "saved", "measured", "clock", "duration", "ts"),
    )
)
"""Words in headings of times that grow during a run, or that are the durations of runs."""
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTH = re.compile(rf"\b({'|'.join(_MONTHS)})[a-z]*", re.IGNORECASE)
DATE = re.compile(
    r"\b\d{4}[-/.]\d\d?[-/.]\d|\b\d\d?[-/.]\d\d?[-/.]\d\d|^\s*\d\d?:\d\d|" + _MONTH.pattern + r"\W+\d", re.I
)
"""Pattern of texts with a date or a time of day."""


def names_apart(values: Sequence[Any]) -> bool:
    """Whether values may be names of runs, and not just the numbers 1, 2, 3, ... of the rows."""
    numbers = [_number(value) for value in values]
    return not all(a is not None and b is not None and b == a + 1 for a, b in pairwise(numbers)) or len(values) < 2


def may_name_runs(name: str, values: Sequence[Any]) -> bool:
    """Whether a column may name the runs of a log: it has several values, and is text or has a fitting heading."""
    is_text = any(isinstance(v, str) and v.strip() and _number(v) is None and not is_date(v) for v in values)
    return 1 < len(set(map(str, values))) < len(values) and (is_text or bool(words_of(name) & _NAMES))


def counts_up(values: Sequence[Any]) -> bool:
    """Whether values are whole numbers that rise by the same step from row to row."""
    numbers = [_number(value) for value in values]
    known = [number for number in numbers if number is not None and math.isfinite(number) and number == int(number)]
    steps = {b - a for a, b in pairwise(known)}
    return len(known) == len(values) and len(steps) == 1 and min(steps) > 0


def _number(value: Any) -> float | None:
    try:
        return float(str(value).replace(",", ""))
    except ValueError:
        return None


def _parts_of_date(text: str) -> list[int]:
    """Numbers in a date, in the order of the text; names of months and hours with am or pm are converted."""
    text = _MONTH.sub(lambda month: str(_MONTHS.index(month[1].lower()) + 1), text)
    parts = [int(part) for part in re.findall(r"\d+", text)[:8]]
    half = re.search(r"\b\d\d?(?=:)[\d:.]*\s*([ap])\.?m\b", text, re.IGNORECASE)
    if half and len(parts) > 3:
        parts[3] = parts[3] % 12 + 12 * (half[1].lower() == "p")
    return parts


def is_date(value: Any) -> bool:
    """Whether a value has the form of a date or a time of day."""
    return DATE.search(str(value)) is not None


def rises(values: Sequence[Any]) -> bool:
    numbers = [number for value in values if (number := _number(value)) is not None]
    if not numbers:  # dates: as ISO 8601 writes them, with the day first, or with the month first
        dates = [_parts_of_date(str(value)) for value in values]
        return any(
            all(a < b for a, b in pairwise([[*(date[k] for k in order if k < len(date)), *date[3:]] for date in dates]))
            for order in ((0, 1, 2), (2, 1, 0), (2, 0, 1))
        )
    return len(numbers) == len(values) and all(a < b for a, b in pairwise(numbers))


def is_ordered(values: Sequence[Any]) -> bool:
    return rises(values) or rises(values[::-1])


def is_counted(values: Sequence[Any]) -> bool:
    """Whether most values are distinct numbers; some may occur twice, since a resumed run repeats some steps."""
    numbers = {number for value in values if (number := _number(value)) is not None}
    return len(numbers) > 2 and 2 * len(numbers) > len(values)


def is_loss(name: str) -> bool:
    """Whether a heading names a loss or an error."""
    plain = plain_name(name)
    return bool(TRAIN_LOSS.search(plain)) or plain.endswith(("loss", "_mae", "_rmse", "error"))


def is_metric(name: str) -> bool:
    """Whether a heading names a measured quantity: a loss, an error or a time."""
    return is_loss(name) or plain_name(name).endswith(("time", "timestamp"))
