"""Built-in forms of scaling laws.

They are laws in one variable (`power`, `broken`), in several (`joint`, `repeated`, `farseer`), and laws of mixtures of
experts (`routing`, `experts`).
"""

from __future__ import annotations

from matscale.plugin import Law, hookimpl
from matscale.plugins.laws.broken import BROKEN
from matscale.plugins.laws.experts import EXPERTS, EXPERTS_DATA, GRANULARITY
from matscale.plugins.laws.farseer import FARSEER
from matscale.plugins.laws.joint import CHINCHILLA, KAPLAN
from matscale.plugins.laws.power import FLOOR, POWER
from matscale.plugins.laws.repeated import OVERFITTING, REPETITION
from matscale.plugins.laws.routing import ROUTING


@hookimpl
def register_laws() -> list[Law]:
    one = [POWER, FLOOR, BROKEN]
    several = [CHINCHILLA, KAPLAN, REPETITION, OVERFITTING, FARSEER]
    return [*one, *several, ROUTING, EXPERTS, EXPERTS_DATA, GRANULARITY]
