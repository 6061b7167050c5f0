"""Choose which columns of a file are n, d, loss, ... by names and units in their headings; describe the choice."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matscale.core.errors import ConfigError, DataError, did_you_mean
from matscale.core.scaling.tables.table import AXES

KNOWN = {
    "n": (
        "non_embedding",
        "n",
        "params",
        "parameters",
        "num_params",
        "n_params",
        "num_parameters",
        "n_parameters",
        "total_params",
        "total_parameters",
    ),
    "d": (
        *("d", "dataset_size", "data", "tokens", "structures", "seen_examples"),
        *(f"{lead}_{noun}" for noun in ("tokens", "structures") for lead in ("n", "num", "total", "train", "training")),
        *("n_train", "num_train", "train_size", "n_data"),
    ),
    "c": ("c", "total_flops", "cumulative_flops", "flops", "compute"),
    "loss": (
        *(f"{part}_loss" for part in ("val", "validation", "valid", "eval", "final_val", "final_validation")),
        *("loss", "final_loss", "best_val_loss", "best_validation_loss"),
    ),
    "arch": ("arch", "architecture", "model"),
    "seed": ("seed", "random_seed"),
    "run": (
        *("run", "run_id", "runid", "id", "run_name", "name", "experiment_id", "experiment_name", "experiment"),
        *("exp_id", "exp_name", "exp", "trial_id", "trial_name", "trial", "job_id", "job_name", "job", "model_name"),
    ),
    "step": (
        *("step", "steps", "global_step", "global_steps", "trainer_global_step", "iteration", "iterations", "iter"),
        *("iters", "train_step", "training_step", "n_steps", "num_steps", "update", "updates", "num_updates"),
        *("epoch", "epochs"),
    ),
    "u": ("u", "unique"),
    "s": ("s", "seen"),
    "e": ("e", "experts", "num_experts"),
    "definition": ("definition",),
}
"""Headings that are recognised as each column of a `Table`, the documented meaning first.

Case, blanks and punctuation are ignored: `_step` and `trainer/global_step` are recognised, too.
"""
WORDS = ("arch", "seed", "run", "definition")
NON_EMBEDDING = re.compile(r"(?!.*(flop|compute|loss))(.*_)?(non|no|without|wo|excl|excluding|minus)_?emb")
TRAIN_LOSS = re.compile(r"train.*(loss|mae|rmse|mse|error)|(loss|mae|rmse|mse|error)_train")
PARTS = ("split", "phase", "tag", "metric", "variable", "subset", "partition", "target", "quantity", "property")
"""Headings of columns that say which quantity a row holds; losses of two parts of the data are two quantities."""
SCALES = {
    **dict.fromkeys(("k", "K", "thousand", "thousands"), 1e3),
    **dict.fromkeys(("M", "million", "millions", "mio", "Mio"), 1e6),
    **dict.fromkeys(("G", "B", "bn", "billion", "billions"), 1e9),
    **dict.fromkeys(("T", "trillion", "trillions"), 1e12),
    **{f"{letter}FLOP{s}": 10.0**p for letter, p in zip("kMGTPEZ", range(3, 22, 3)) for s in ("", "s", "S")},
    **dict.fromkeys(("PF-days", "PFLOP/s-days", "PFLOPs-days", "petaflop/s-days", "petaflop-days"), 8.64e19),
}
"""Factor of each unit of a count in a heading."""
NOUNS = frozenset(
    (
        "params",
        "parameters",
        "tokens",
        "structures",
        "examples",
        "samples",
        "frames",
        "flop",
        "flops",
        "count",
        "number",
    )
)
_UNIT = re.compile(r"(?P<base>.+?)\s*[(\[](?P<unit>[^()\[\]]+)[)\]]\s*")
_ENDING = re.compile(
    r"(?P<base>.+?)(?:_in_| in |[_ /])(?P<unit>[kKMGBT]|thousands?|millions?|billions?|trillions?|1e\d+)"
)
_POWER = re.compile(r"[x×*]?\s*(?:1[eE]\+?(\d+)|10(?:\^|\*\*)(\d+)|10([1-9]\d?)|e(\d+)|1(?=00)(0+)(?!\d))")
_LOSS_FACTOR = re.compile(r"[x×*]|1[eE][-+]?\d|10(\^|\*\*|\d|-)|e-?\d")
_LOGARITHM = re.compile(r"(log|ln)[\d_]*", re.IGNORECASE)
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻−₁₀₂", "0123456789--102")
_WIDE = (
    re.compile(r"(?P<run>.+?) - (?P<metric>.+?)(__(MIN|MAX))?"),
    re.compile(r"(?P<run>.+?)[/_ ](?P<metric>((val|valid|validation|eval|train|test)[_ ])?loss)"),
    re.compile(r"(?P<metric>((val|valid|validation|eval|train|test)[_ ])?loss)[/_ ](?P<run>.+)"),
)
"""Headings of tables with one column per run, as experiment trackers write them."""


@dataclass(frozen=True)
class ColumnChoice:
    """Choice of the columns of a file that are used as the columns of a `Table`."""

    names: dict[str, str]
    """Chosen column of the file, by the column of the table"""
    beside: dict[str, list[str]]
    """Other columns of the file that would fit, by the column of the table"""
    guessed: frozenset[str]
    """Columns of the table that the user has not mapped"""

    @property
    def text(self) -> str:
        """Text that states the choice: `n = non_embedding (params is there too), loss = val_loss`."""
        return ", ".join(f"{ours} = {theirs}{self._told(ours)}" for ours, theirs in self.names.items())

    @property
    def is_doubtful(self) -> bool:
        """Whether some column was recognised by an unusual name, or other columns would fit as well."""
        return any(self.names[ours].lower() != ours or self.beside.get(ours) for ours in self.guessed & {*self.names})

    def _told(self, ours: str) -> str:
        others = self.beside.get(ours, [])
        return f" ({', '.join(others)} {'is' if len(others) == 1 else 'are'} there too)" if others else ""

    def without_run(self) -> ColumnChoice | None:
        """Choice with the next fitting column as the name of the run.

        If none fits, the choice has no column of the run.
        """
        others = self.beside.get("run", [])
        names = {k: v for k, v in self.names.items() if k != "run"} | ({"run": others[0]} if others else {})
        return ColumnChoice(names, {**self.beside, "run": others[1:]}, self.guessed)


SHORT = {f"{name}_mae": name for name in ("energy", "forces", "stress")}
"""Names that tables use for errors, by the names in records of runs (`--target forces` asks for `forces_mae`)."""


def choose(place: str, found: Sequence[str], columns: Mapping[str, str]) -> ColumnChoice:
    """Choose the columns of a file that are used as the columns of a `Table`.

    Raises ConfigError for a mapped column that the file lacks, and DataError if no column is the loss or a size.
    """
    columns = {ours: SHORT.get(theirs, theirs) if theirs not in found else theirs for ours, theirs in columns.items()}
    for ours, theirs in columns.items():
        if theirs not in found:
            raise ConfigError(f"{place}: has no column {theirs!r} (for {ours}). {did_you_mean(theirs, found)}")
    # A run may be named by a column that is something else besides: --map run=n.
    taken = {theirs for ours, theirs in columns.items() if ours not in WORDS}
    candidates = {ours: _candidates(ours, [name for name in found if name not in taken]) for ours in KNOWN}
    guessed = {ours: names for ours, names in candidates.items() if names and ours not in columns}
    names = {**{ours: those[0] for ours, those in guessed.items()}, **columns}
    if "loss" not in names:
        _refuse_wide(place, found)
        raise DataError(
            f"{place} row 1: which column is the loss? Name it: --map loss=COLUMN. Columns: {_listed(found)}."
        )
    if not set(names) & set(AXES):
        raise DataError(
            f"{place} row 1: which column is the size? Name it: --map n=COLUMN (or d, c). Columns: {_listed(found)}."
        )
    _refuse_embeddings(place, found, names, columns)
    _refuse_active(place, found, names, columns)
    return ColumnChoice(names, {ours: those[1:] for ours, those in guessed.items()}, frozenset(guessed))


def _refuse_embeddings(place: str, found: Sequence[str], names: Mapping[str, str], columns: Mapping[str, str]) -> None:
    """Raises DataError if the chosen number of parameters includes embeddings, which have a column of their own."""
    theirs = names.get("n")
    if theirs is None or "n" in columns or NON_EMBEDDING.match(re.sub(r"[^a-z0-9]+", "_", theirs.lower())):
        return
    embeddings = next((name for name in found if _EMBEDDINGS.fullmatch(plain_name(name, is_count=True))), None)
    if embeddings is not None:
        raise DataError(
            f"{place}: has the columns {theirs} and {embeddings}; n must be the number of parameters without "
            f"embeddings. Add a column non_embedding ({theirs} minus {embeddings}), or say --map 'n={theirs}' if "
            f"{theirs} does not include embeddings."
        )


def _refuse_active(place: str, found: Sequence[str], names: Mapping[str, str], columns: Mapping[str, str]) -> None:
    """Raises DataError if a file has two numbers of parameters of a mixture of experts: all, and active ones."""
    theirs = names.get("n")
    active = next((name for name in found if _ACTIVE.fullmatch(plain_name(name, is_count=True))), None)
    if theirs is not None and active is not None and "n" not in columns and theirs != active:
        raise DataError(
            f"{place}: has the columns {theirs} and {active}. For a mixture of experts, n may be the number of all "
            f"parameters or of the active ones. Say which: --map 'n={active}' or --map 'n={theirs}'."
        )


_ACTIVE = re.compile(
    r"(.*_)?(active|activated)_(.*_)?(params?|parameters|n|non_embedding)|(.*_)?(params?|parameters)_active"
)
_EMBEDDINGS = re.compile(r"((n|num)_)?emb(ed|edding|eddings)?(_(params?|parameters))?")


def _listed(found: Sequence[str]) -> str:
    shown = ", ".join(name[:60] for name in found[:30])
    return shown + (f" and {len(found) - 30} more" if len(found) > 30 else "")


def _candidates(ours: str, found: Sequence[str]) -> list[str]:
    """Columns of a file that could be one given column of a table, the most likely first."""
    usual = KNOWN[ours]

    def rank(name: str) -> float:
        plain = plain_name(name, ours in AXES)
        plain = plain if plain in usual else plain_name(_parted(name), ours in AXES)
        whole = re.sub(r"[^a-z0-9]+", "_", name.lower())
        if ours == "n" and (NON_EMBEDDING.match(plain) or (plain in usual and NON_EMBEDDING.match(whole))):
            return -1.0
        return usual.index(plain) if plain in usual else float("inf")

    return sorted((name for name in found if rank(name) < float("inf")), key=rank)


def plain_name(name: str, is_count: bool = False) -> str:
    """Normalise a heading: lower case, underscores, no unit.

    >>> plain_name("Val Loss [eV]")
    'val_loss'
    """
    base, _ = _divided(name, is_count)
    return re.sub(r"[^a-z0-9]+", "_", base.lower()).strip("_")


def words_of(name: str) -> set[str]:
    """Split a heading into its words, in lower case: {created, at} for `createdAt`."""
    return {*plain_name(_parted(name)).split("_")}


def _parted(name: str) -> str:
    """Separate the words of a heading in camel case: `run_Name` for `runName`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name)


def _divided(name: str, is_count: bool) -> tuple[str, str]:
    """Split a heading into (name, unit)."""
    match = _UNIT.fullmatch(name) or (_ENDING.fullmatch(name) if is_count else None)
    return (match["base"], match["unit"].strip()) if match else (name, "")


def factor(place: str, ours: str, name: str, is_mapped: bool) -> float:
    """Factor by which the numbers of a column must be multiplied, from its heading: 1e6 for `params (M)`.

    Raises DataError for an unknown unit, unless the user has mapped the column.

    >>> factor("table.csv", "n", "params (M)", is_mapped=False)
    1000000.0
    """
    _, unit = _divided(name, ours in AXES)
    unit = re.sub(r"(?<=10)(?=[⁰¹²³⁴⁵⁶⁷⁸⁹⁻])", "^", unit).translate(_SUPERSCRIPTS)
    first, _, rest = unit.partition(" ")
    power = _POWER.match(unit)
    if ours not in AXES:
        is_changed = _LOSS_FACTOR.match(unit) or _LOGARITHM.fullmatch(unit) or name.lstrip()[:1] in "-−"
        if is_changed and ours == "loss" and not is_mapped:
            raise DataError(
                f"{place}: by its heading, the column {name!r} holds a multiple, the negative or the logarithm of the "
                f"loss. Put the loss itself into the column, or use the numbers as they are: --map 'loss={name}'."
            )
        return 1.0
    if not unit or unit.lower() in NOUNS or NON_EMBEDDING.match(plain_name(unit)):
        return 1.0
    if power and {*unit[power.end() :].lower().split()} <= NOUNS:
        *exponents, zeros = power.groups()
        return 10.0 ** (len(zeros) if zeros else int(next(filter(None, exponents))))
    if unit in SCALES:
        return SCALES[unit]
    if first in SCALES and {*rest.lower().split()} <= NOUNS:
        return SCALES[first]
    if is_mapped:
        return 1.0
    raise DataError(
        f"{place}: the unit in the heading {name!r} is not known. Write plain numbers ({AXES[ours]}), or use the "
        f"numbers as they are: --map '{ours}={name}'."
    )


def is_scale(unit: str) -> bool:
    """Whether a text is a unit of counts, such as `M` or `1e6`."""
    return unit in SCALES or _POWER.fullmatch(unit) is not None


def _refuse_wide(place: str, found: Sequence[str]) -> None:
    """Raises DataError for a table with one column per run. The message has a command that reshapes the table."""
    steps = _candidates("step", found)
    for pattern in _WIDE if steps else ():
        matches = [match for match in map(pattern.fullmatch, found) if match]
        metrics = [match["metric"] for match in matches]
        losses = [name for name in dict.fromkeys(metrics) if plain_name(name) in KNOWN["loss"]]
        metric = next(iter(losses), max(dict.fromkeys(metrics), key=metrics.count, default=""))
        first = next((match for match in matches if match["metric"] == metric), None)
        runs = list(dict.fromkeys(match["run"] for match in matches if match["metric"] == metric))
        if first is None or not (len(runs) > 1 or (losses and pattern is _WIDE[0])):
            continue
        own = re.sub("__(MIN|MAX)$", "", first[0])
        raise DataError(
            f"{place}: has a column per run ({_few(runs)}); a table needs a row per loss. Melt it with this command, "
            "then add a column n with the parameters of each run: "
            f"{_melt(place, own.replace(first['run'], '', 1), own.endswith(metric), steps[0], metric)}"
        )
    known = {*steps, *(name for ours in KNOWN for name in _candidates(ours, found))}
    bare = [name for name in found if name and name not in known]
    if steps and len(bare) > 1 and not any(_candidates(axis, found) for axis in AXES):
        raise DataError(
            f"{place}: no column is the loss. If each run has a column with its loss ({_few(bare)}), melt the table "
            "with this command, then add a column n with the parameters of each run: "
            f"{_melt(place, '', True, steps[0], 'loss')}"
        )


def _few(names: Sequence[str]) -> str:
    return ", ".join(name[:60] for name in names[:3]) + (", ..." if len(names) > 3 else "")


_NOTHING = '""'


def _melt(place: str, fixed: str, is_ending: bool, step: str, metric: str) -> str:
    """Command that reshapes a table with one column per run to the columns run, step and the metric.

    `fixed` is the part that all headings share.
    """
    file, step, fixed, metric = (json.dumps(text, ensure_ascii=False) for text in (place, step, fixed, metric))
    by = ', delimiter="\\t"' if place.endswith(".tsv") else ""
    taken, cut = ("endswith", "removesuffix") if is_ending else ("startswith", "removeprefix")
    code = (
        f'import csv; rows = csv.DictReader(open({file}, encoding="utf-8-sig", newline=""){by}); '
        'out = csv.writer(open("long.csv", "w", newline="")); '
        f'out.writerow(["run", "step", {metric}]); '
        f"out.writerows([k.{cut}({fixed}), row[{step}], v] for row in rows for k, v in row.items() "
        f"if k{f'.{taken}({fixed})' if fixed != _NOTHING else f' and k != {step}'} and v)"
    )
    return f"python -c {shlex.quote(code)}"
