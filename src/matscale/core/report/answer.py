"""Answer on the first screen of a report: which architecture, how much cheaper, law or no law, in words.

The sections below the answer repeat its statements with figures.
"""

from __future__ import annotations

from markupsafe import Markup

from matscale.core.report.analysis import Analysis, main_axis
from matscale.core.report.words import OVER, chip, exponents, ranking, reach, refused
from matscale.core.runs.config import LABEL_OF, LossConfig
from matscale.core.scaling.comparison.compare import Comparison
from matscale.core.scaling.result import Fit
from matscale.core.scaling.text import counted, listed, size
from matscale.core.scaling.verdict import LOCAL_SLOPE

UNITS = {"energy": "eV/atom", "forces": "eV/Å", "stress": "eV/Å³"}


def compared(analysis: Analysis) -> Comparison | None:
    """Comparison of the loss over the main variable, or else over the first one that has a comparison."""
    found = [one for one in analysis.comparisons if one.target == "loss"]
    axis = "" if analysis.table is None else main_axis(analysis.table)
    return min(found, key=lambda one: one.axis != axis, default=None)


def fits_shown(analysis: Analysis) -> list[Fit]:
    """Laws of the loss that the answer describes: those over the main variable."""
    return [] if analysis.table is None else analysis.fits_in(main_axis(analysis.table))


def headline(analysis: Analysis) -> str:
    """Headline of the page: the result in one line."""
    if analysis.table is None:
        return "No laws: " + analysis.refusal.partition(". ")[0].rstrip(".") + "."
    comparison, fits = compared(analysis), fits_shown(analysis)
    if comparison is not None:
        of = counted(len(comparison.ranking), "architecture")
        first, second = comparison.ranking[:2]
        at = f"at {comparison.axis.upper()} = {size(comparison.at)}"
        if first.high < second.low:
            return f"{first.architecture} has the lowest loss of {of} {at}."
        return f"{first.architecture} and {second.architecture} cannot be told apart {at}: their intervals overlap."
    if not fits:
        return "No law: too few sizes, or none that differ."
    fit = fits[0]
    over = OVER["".join(fit.axes)]
    if fit.is_law:
        return f"The loss of {fit.architecture} follows a law in {over}."
    if fit.verdict == LOCAL_SLOPE:
        return f"The loss of {fit.architecture} has a slope in {over}, and no law."
    return f"The loss of {fit.architecture} follows no law in {over}: {fit.verdict}."


def answer(analysis: Analysis) -> list[str]:
    """Sentences below the headline: losses, costs of architectures compared, laws, reasons against laws."""
    if analysis.table is None:
        return [Markup("<b>{}</b> {}").format("Why:", analysis.refusal)]
    said: list[str] = []
    comparison = compared(analysis)
    if comparison is not None:
        said += [*(f"{told}." for told in comparison.cheaper[:3]), ranking(comparison)]
        differ = [f"{pair.first} and {pair.second}: {pair.verdict}" for pair in comparison.facing_first]
        said.append(f"Exponents: {listed(differ, most=4, by='; ')}.")
    fits = fits_shown(analysis)
    for fit in fits[:4]:
        head = Markup("{} <b>{}</b>").format(chip(fit.verdict), fit.architecture)
        if fit.is_law or fit.verdict == LOCAL_SLOPE:
            said.append(Markup("{}: {} over {}.").format(head, exponents(fit), reach(fit)))
        else:
            said.append(Markup("{}: {}.").format(head, fit.reasons[0].text if fit.reasons else "no law is claimed"))
    if len(fits) > 4:
        said.append(f"{len(fits) - 4} more architectures: see the verdicts.")
    axis = main_axis(analysis.table)
    said += [refused(one) for one in analysis.refused if one.target == "loss" and one.way in (axis, "")][:3]
    return said


def definitions() -> dict[str, str]:
    """Meaning of the quantities in the figures, by name."""
    loss = LossConfig()
    terms = {name: loss.term(name) for name in ("energy", "forces", "stress_isotropic", "stress_anisotropic")}
    parts = [f"{term.weight:g} × {name.replace('_', ' ')} [{UNITS[LABEL_OF[name]]}]" for name, term in terms.items()]
    return {
        "validation loss": (
            f"{' + '.join(parts)}: mean errors on structures that were held out from training (of forces, the mean "
            "length of the error). It is the same for every architecture, whatever loss was trained."
        ),
        "N": "trainable parameters without embeddings",
        "D": "structures in the training part",
        "C": "FLOPs of training: forward and backward passes of all steps",
    }
