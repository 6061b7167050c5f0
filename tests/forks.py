"""Processes that begin at once: forks of one that has imported what trainings need, which takes seconds each time."""

from __future__ import annotations

import multiprocessing

from matscale.core.study.preload import MODULES

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["pytest", "matscale.plugins.losses", *MODULES])
