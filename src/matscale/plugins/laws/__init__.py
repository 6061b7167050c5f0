"""The built-in scaling laws: in one variable (`power`, `broken`), in two or three (`joint`), and `routing`."""

from __future__ import annotations

from matscale.plugin import Law, hookimpl
from matscale.plugins.laws.broken import BROKEN
from matscale.plugins.laws.joint import CHINCHILLA, KAPLAN
from matscale.plugins.laws.power import FLOOR, POWER
from matscale.plugins.laws.repeated import OVERFITTING, REPETITION
from matscale.plugins.laws.routing import ROUTING


@hookimpl
def register_laws() -> list[Law]:
    return [POWER, FLOOR, BROKEN, CHINCHILLA, KAPLAN, REPETITION, OVERFITTING, ROUTING]
