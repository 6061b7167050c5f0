"""Checklist for papers on scaling laws, filled in for a fit; from "(Mis)Fitting: a survey of scaling laws".

Source: arXiv:2502.18969. The checklist has four parts: the assumed form of the law, the training of the models, the
collected data, the fit of the law. Where the records have no answer, the entry reads `not recorded`, and the author of
the paper fills it in.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from matscale.core.scaling.curves.collapse import Collapse
from matscale.core.scaling.result import Fit
from matscale.core.scaling.tables.table import AXES
from matscale.core.scaling.text import counted, percent, size

UNKNOWN = "not recorded"


def checklist(fit: Fit, collapse: Collapse | None = None) -> dict[str, dict[str, str]]:
    """Fill in the checklist for papers on scaling laws: {part: {question: answer}}.

    `collapse` is the result of the collapse check of the architecture's training curves, if they were read.
    """
    training = {**_training(fit), "curves": UNKNOWN if collapse is None else collapse.text}
    return {"law": _law(fit), "training": training, "data": _data(fit), "fitting": _fitting(fit)}


def _law(fit: Fit) -> dict[str, str]:
    names = fit.table.names
    return {
        "form": f"{fit.formula} ({fit.law.reference})",
        "chosen among": ", ".join(c.law.name for c in fit.candidates) or "none: the user chose the form",
        "variables": ", ".join(f"{a}: {AXES.get(a, a)} ({names.get(a, a)})" for a in fit.axes),
        "target": f"{fit.target} ({names.get('loss', 'loss')})",
        "held fixed": fit.fixed or "nothing",
    }


def _training(fit: Fit) -> dict[str, str]:
    facts = fit.table.facts
    epochs = facts.get("epochs") or []
    return {
        "architecture": fit.architecture or UNKNOWN,
        "parameters counted": fit.table.names.get("n", UNKNOWN),
        "schedule": _shown(facts.get("schedule")),
        "learning rates": _shown(facts.get("learning rates")),
        "tuned per size": "see the learning rates: if all sizes have one value, it was not tuned"
        if len(facts.get("learning rates") or []) == 1
        else _shown(facts.get("learning rates")),
        "batch": _shown(facts.get("global batch")),
        "epochs": f"{min(epochs):.3g} to {max(epochs):.3g}" if epochs else UNKNOWN,
        "compute counted by": _shown(facts.get("flops counted by")),
        "devices": _shown(facts.get("devices")),
    }


def _data(fit: Fit) -> dict[str, str]:
    ranges = "; ".join(f"{axis} {size(low)} to {size(high)}" for axis, (low, high) in fit.range.items())
    excluded = "; ".join(dict.fromkeys(one.reason for one in fit.excluded)) or "none"
    facts = fit.table.facts
    return {
        "dataset": _shown(facts.get("dataset")),
        "labels": _shown(facts.get("labels by")),
        "points": f"{len(fit.x)} ({fit.points}) from {counted(len(fit.table), 'run')}",
        "sizes, seeds": f"{counted(fit.n_sizes, 'size')}, {counted(fit.n_seeds, 'seed')}",
        "range": ranges,
        "excluded": f"{len(fit.excluded)}: {excluded}",
        "baselines": ", ".join(f"{k} {v:.4g}" for k, v in fit.baselines.items()) or UNKNOWN,
    }


def _fitting(fit: Fit) -> dict[str, str]:
    facts = fit.facts
    samples = facts.get("bootstrap samples")
    starts = facts.get("starts")
    return {
        "objective": str(facts.get("objective", UNKNOWN)),
        "search": f"variable projection, {starts} starts, {facts['starts that agree']} agree"
        if starts
        else str(facts.get("search", "grid of exponents, then Levenberg-Marquardt")),
        "converged": f"relative gradient {facts['gradient']:.1e}" if "gradient" in facts else UNKNOWN,
        "intervals": f"{fit.level:.0%}, two-level bootstrap, {samples} samples"
        if samples
        else str(facts.get("intervals", f"{fit.level:.0%}, Student's t on {len(fit.x)} points")),
        "extrapolation tested": "; ".join(
            f"{_place(h.at)}: {percent(h.error)}, {'inside' if h.covered else 'outside'} 95 %"
            for h in fit.held_out[-2:]
        )
        or "too few sizes to hold one out",
    }


def _place(at: dict[str, float]) -> str:
    return ", ".join(f"{axis} = {size(value)}" for axis, value in at.items())


def _shown(values: Iterable[Any] | None) -> str:
    """Text of at most six values; a value that is a string contains JSON."""
    if not values:
        return UNKNOWN
    plain = [json.loads(v) if isinstance(v, str) else v for v in values]
    texts = [", ".join(f"{k} {w}" for k, w in v.items() if w) if isinstance(v, dict) else str(v) for v in plain]
    texts = [text for text in texts if text not in ("None", "")]
    return ", ".join(texts[:6]) + (f", ... ({len(texts)} values)" if len(texts) > 6 else "") or UNKNOWN
