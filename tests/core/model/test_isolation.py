"""What code of others does to the process inside of `isolation` is undone; what it makes remains."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import warnings
from typing import Any

import numpy as np
import pytest
import torch

from matscale.core.model.isolation import isolation


def state() -> dict[str, Any]:
    return {
        "default type": torch.get_default_dtype(),
        "torch": torch.get_rng_state().tolist(),
        "numpy": np.random.get_state()[1].tolist(),  # noqa: NPY002
        "python": random.getstate(),
        "sharing": torch.multiprocessing.get_sharing_strategy(),
        "starting": torch.multiprocessing.get_start_method(allow_none=True),
        "environment": dict(os.environ),
        "warnings": list(warnings.filters),
    }


def disturb() -> None:
    """All that packages were seen to do when they are imported."""
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(123)
    np.random.seed(123)  # noqa: NPY002
    random.seed(123)
    torch.multiprocessing.set_sharing_strategy("file_system")
    torch.multiprocessing.set_start_method("spawn", force=True)
    warnings.filterwarnings("ignore", message="anything")
    os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"
    os.environ["MATSCALE_TEST_CHANGED"] = "after"
    del os.environ["MATSCALE_TEST_REMOVED"]


@isolation()
def disturb_and_fail() -> None:
    disturb()
    raise ZeroDivisionError


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", raising=False)
    monkeypatch.setenv("MATSCALE_TEST_CHANGED", "before")
    monkeypatch.setenv("MATSCALE_TEST_REMOVED", "before")


def test_the_process_is_as_it_was() -> None:
    before = state()
    with isolation():
        disturb()
        changed = [name for name, value in state().items() if value != before[name]]
        made = torch.zeros(1)
    assert changed == list(before)
    assert state() == before
    assert made.dtype == torch.float64


def test_the_process_is_as_it_was_after_an_error_too() -> None:
    before = state()
    with pytest.raises(ZeroDivisionError):
        disturb_and_fail()
    assert state() == before


def test_a_child_process_inherits_nothing_of_it() -> None:
    with isolation():
        disturb()
    script = "import json, os; print(json.dumps(dict(os.environ)))"
    child = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    seen = json.loads(child.stdout)
    assert "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD" not in seen
    assert (seen["MATSCALE_TEST_CHANGED"], seen["MATSCALE_TEST_REMOVED"]) == ("before", "before")


def test_what_others_warn_of_is_their_own_affair() -> None:
    with isolation():
        warnings.warn("deprecated since long", DeprecationWarning, stacklevel=1)
    with pytest.warns(UserWarning, match="heard"):
        warnings.warn("heard", UserWarning, stacklevel=1)


def test_what_others_print_does_not_end_in_the_results(capsys: pytest.CaptureFixture[str]) -> None:
    with isolation():
        print("no acceleration found")
    assert capsys.readouterr() == ("", "no acceleration found\n")
