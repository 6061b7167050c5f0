"""Measure the properties of built-in crystals with a model, and compare them with a reference."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from ase.calculators.emt import EMT
from ase.data import chemical_symbols

from matscale.core.errors import ConfigError, DataError, MatscaleError, PluginError, did_you_mean
from matscale.core.inference.load import calculator
from matscale.core.progress import SILENT, Reporter
from matscale.core.properties.crystals import CRYSTALS, crystal, deformed, elements_of, lattice_constant, possible
from matscale.core.properties.crystals import supercell as repeated
from matscale.core.properties.diatomic import diatomic_curve
from matscale.core.properties.elastic import elastic_constants
from matscale.core.properties.eos import Equation, equation_of_state
from matscale.core.properties.nve import energy_drift
from matscale.core.properties.path import smoothness
from matscale.core.properties.phonons import phonons
from matscale.core.runs.record import Run

NAMES = ("eos", "elastic", "phonons", "nve", "path", "diatomic")
"""Names of the properties."""
EMT_ELEMENTS = frozenset(("Al", "Ni", "Cu", "Pd", "Ag", "Pt", "Au"))
"""Elements of which ASE's EMT describes crystals."""
FARTHEST = 6.0
"""Largest distance of diatomic curves [Å], if the cutoff of the model is not shorter."""


@dataclass(frozen=True)
class Model:
    """Model to measure: an ASE calculator, and the elements that it knows."""

    name: str
    calculator: Any
    elements: frozenset[str]
    cutoff: float | None = None
    """Distance [Å] beyond which the model cannot predict two atoms; None if there is none"""

    @classmethod
    def of_run(cls, name: str, run: Run, **options: Any) -> Model:
        """Load the model of a run; options and errors are those of `matscale.calculator`."""
        made = calculator(run, **options)
        potential = made.potential
        cutoff = potential.graph.cutoff if potential.graph.has_edges and not potential.isolated else None
        return cls(name, made, frozenset(chemical_symbols[z] for z in potential.elements), cutoff)

    @classmethod
    def emt(cls) -> Model:
        """Make ASE's effective-medium theory, a fast potential for seven metals."""
        return cls("emt", EMT(), EMT_ELEMENTS)


@dataclass(frozen=True)
class Measured:
    """Properties of one crystal, or of a pair of atoms, by name; those that could not be measured with the reason."""

    found: dict[str, Any] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        """Values as JSON-ready dictionaries; `failed` has the reasons."""
        found = {name: _plain(asdict(one)) for name, one in self.found.items()}
        return {**found, **({"failed": self.failed} if self.failed else {})}


Results = Mapping[str, Measured]
"""Properties of one model, by crystal (`Cu`) or pair (`Cu-Cu`)."""


def chosen(names: Sequence[str]) -> list[str]:
    """Check names of properties. Raises ConfigError for a name that does not exist."""
    for name in names:
        if name not in NAMES:
            raise ConfigError(f"There is no property {name!r}. {did_you_mean(name, NAMES)}")
    return [name for name in NAMES if name in names]


def crystals_for(models: Sequence[Model], reference: Model | None, names: Sequence[str] = ()) -> list[str]:
    """Choose crystals: those named, or all that models and reference allow (the models, if the reference has none).

    Raises ConfigError for an unknown crystal, and DataError for one with an element that a model does not know, or if
    no built-in crystal is left.
    """
    for name in names:
        crystal(name)
        for model in models:
            if unseen := elements_of(name) - model.elements:
                raise DataError(
                    f"{name}: {model.name} was not trained on {', '.join(sorted(unseen))}. Leave this crystal out; "
                    f"the elements of the model allow {', '.join(possible(model.elements)) or 'no built-in crystal'}."
                )
    if names:
        return [name for name in CRYSTALS if name in names]
    allowed = possible(frozenset.intersection(*(model.elements for model in models)))
    if not allowed:
        raise DataError(
            f"No built-in crystal has only elements that {', '.join(model.name for model in models)} "
            f"{'was' if len(models) == 1 else 'were'} trained on. There are: {', '.join(CRYSTALS)}."
        )
    both = [name for name in allowed if reference is not None and elements_of(name) <= reference.elements]
    return both or allowed


def measure(
    model: Model,
    crystals: Sequence[str],
    names: Sequence[str] = NAMES,
    *,
    time_step: float = 2.0,
    duration: float = 1.0,
    farthest: float = FARTHEST,
    progress: Reporter = SILENT,
) -> dict[str, Measured]:
    """Measure properties of crystals; see the modules of `matscale.core.properties` for each.

    Elastic constants and phonons are measured at the lattice constant that the model itself gives; dynamics and paths
    start from the tabulated one, so that all models see the same structures. A property that fails is kept as the
    reason. Raises PluginError if phonopy is asked for and not installed.

    >>> from matscale.core.properties.measure import Model, measure
    >>> found = measure(Model.emt(), ["Cu"], ["eos"])
    >>> round(found["Cu"].found["eos"].lattice_constant, 2)
    3.59
    """
    results = {name: Measured() for name in crystals}
    in_bulk = [name for name in NAMES if name in names and name != "diatomic"]
    symbols = sorted(set().union(*map(elements_of, crystals))) if "diatomic" in names else []
    total, done = len(crystals) * len(in_bulk) + len(symbols), 0

    def attempt(subject: str, name: str, function: Callable[[], Any]) -> None:
        nonlocal done
        progress.stage(f"Properties of {model.name}", done, total)
        done += 1
        measured = results.setdefault(subject, Measured())
        try:
            measured.found[name] = function()
        except PluginError:
            raise
        except MatscaleError as error:
            measured.failed[name] = str(error)

    for subject in crystals:
        atoms = crystal(subject)
        functions: dict[str, Callable[[], Any]] = {
            "eos": partial(equation_of_state, atoms, model.calculator),
            "elastic": partial(_where_at_rest, elastic_constants, subject, model, results),
            "phonons": partial(_where_at_rest, phonons, subject, model, results),
            "nve": partial(energy_drift, repeated(atoms), model.calculator, time_step, duration),
            "path": partial(smoothness, repeated(atoms), model.calculator),
        }
        for name in in_bulk:
            attempt(subject, name, functions[name])
    for symbol in symbols:
        attempt(f"{symbol}-{symbol}", "diatomic", partial(diatomic_curve, symbol, model.calculator, farthest))
    progress.stage(f"Properties of {model.name}", total, total)
    return results


def farthest_of(models: Iterable[Model]) -> float:
    """Largest distance [Å] of diatomic curves that all models can predict."""
    return min([FARTHEST, *(0.99 * model.cutoff for model in models if model.cutoff is not None)])


def _where_at_rest(function: Callable[..., Any], subject: str, model: Model, results: Results) -> Any:
    """Call `function` with the primitive cell at the lattice constant that the model gives, and the calculator."""
    atoms, measured = crystal(subject), results[subject]
    if "eos" in measured.failed:
        raise DataError(measured.failed["eos"])
    found: Equation = measured.found.get("eos") or equation_of_state(atoms, model.calculator)
    at_rest = deformed(atoms, found.lattice_constant / lattice_constant(atoms) - 1, model.calculator)
    return function(at_rest, model.calculator)


def columns(results: Results, reference: Results | None) -> dict[str, float | None]:
    """Errors of a model in one row: the mean over crystals, then those of each crystal as `Cu_bulk_modulus_error`.

    The units are in the docstrings of `columns` of each property. A crystal that the reference lacks does not count. If
    one that counts could not be measured, the mean is None: over the others it would be another quantity.
    """
    rows: dict[tuple[str, str], dict[str, float]] = {}
    incomplete: set[str] = set()
    for subject, measured in results.items():
        theirs = reference[subject].found if reference and subject in reference else {}
        for name, one in measured.found.items():
            for column, value in one.columns(theirs.get(name)).items():
                rows.setdefault((name, column), {})[subject] = value
        incomplete |= {name for name in measured.failed if reference is None or name == "nve" or name in theirs}
    means = {
        column: None if name in incomplete else float(np.mean([*values.values()]))
        for (name, column), values in rows.items()
    }
    each = {f"{subject}_{column}": value for (_, column), values in rows.items() for subject, value in values.items()}
    return {**means, **each, "n_failed": sum(len(measured.failed) for measured in results.values())}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


def reference_of(text: str, **options: Any) -> Model | None:
    """Reference by name: `emt`, `none`, or the folder of a run. Raises ConfigError for a folder without a run."""
    if text == "none":
        return None
    if text == "emt":
        return Model.emt()
    if not Path(text).is_dir():
        raise ConfigError(f"--reference {text}: there is no such run. Give the folder of a run, emt or none.")
    return Model.of_run(text, Run.open(text), **options)
