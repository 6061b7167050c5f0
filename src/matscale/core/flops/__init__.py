"""FLOPs of training: counted by running a batch, or given by a formula. docs/flops.md has the definition.

`count` counts a step, `cost` gives the cost of any batch from counts or a formula, `probes` chooses the batches to
count, `peaks` has the peak FLOP/s of devices.
"""

from __future__ import annotations

from matscale.core.flops.cost import TOLERANCE, Cost, Polynomial, cost_of, fit
from matscale.core.flops.count import Count, count_prediction, count_step, measure_step, measure_step_flops
from matscale.core.flops.kernels import flops_of_kernel
from matscale.core.flops.peaks import Peak, is_same_device, measured_peak, named_peak, peak_of
from matscale.core.flops.probes import Probes, probes_of

__all__ = [
    "TOLERANCE",
    "Cost",
    "Count",
    "Peak",
    "Polynomial",
    "Probes",
    "cost_of",
    "count_prediction",
    "count_step",
    "fit",
    "flops_of_kernel",
    "is_same_device",
    "measure_step",
    "measure_step_flops",
    "measured_peak",
    "named_peak",
    "peak_of",
    "probes_of",
]
