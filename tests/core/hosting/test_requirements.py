"""A plugin that fails beside packages of other versions than it was made for: the message names them."""

from __future__ import annotations

import pytest

from little import Site, architecture
from matscale.core.errors import PluginError
from matscale.core.hosting import requirements

BROKEN = "raise ImportError('cannot import name o4')"


def test_a_plugin_that_fails_beside_another_version_says_which_it_was_made_for(site: Site) -> None:
    site.install("its-model", "", version="2.0")
    site.install("my-old", BROKEN, requires=("its-model>=1.0,<2", "numpy"))
    with pytest.raises(PluginError) as failure:
        site.host().architecture("old")
    assert "ImportError: cannot import name o4" in str(failure.value)
    assert 'my-old requires its-model<2,>=1.0, installed is its-model 2.0: pip install "its-model<2,>=1.0".' in str(
        failure.value
    )
    assert "numpy" not in str(failure.value)


def test_a_pin_that_matscale_cannot_share_is_no_advice_to_break_matscale(site: Site) -> None:
    site.install("its-model", "", requires=("e3nn==0.4.4",))
    site.install("my-old", BROKEN, requires=("its-model",))  # the conflict is one step away
    complaint = r"its-model requires e3nn==0\.4\.4, installed is e3nn 0\.6.*, and matscale needs e3nn<0\.7,>=0\.6"
    with pytest.raises(PluginError, match=complaint + r"\. .*pip install --no-deps its-model"):
        site.host().architecture("old")
    assert "e3nn==0.4.4, installed" in site.host().plugin("old").load().reason  # in `plugins list --load` as well


def test_packages_that_need_each_other_are_followed_once(site: Site) -> None:
    site.install("its-model", "", requires=("their-layers", "not a requirement"))
    site.install("their-layers", "", requires=("its-model>=3",))
    site.install("my-old", BROKEN, requires=("its-model",))
    with pytest.raises(PluginError, match=r"their-layers requires its-model>=3, installed is its-model 1\.0"):
        site.host().architecture("old")


@pytest.mark.parametrize("requires", ['its-model<2; extra == "gpu"', 'its-model<2; python_version < "3"', "its-model"])
def test_what_is_not_asked_for_here_is_no_conflict(site: Site, requires: str) -> None:
    site.install("its-model", "", version="2.0")
    site.install("my-old", BROKEN, requires=(requires,))
    with pytest.raises(PluginError, match=r"o4 at .*my_old\.py:1\. `matscale plugins check old`"):
        site.host().architecture("old")


def test_a_plugin_that_works_beside_another_version_is_taken(site: Site) -> None:
    site.install("its-model", "", version="2.0")
    site.install("my-linear", architecture("linear"), requires=("its-model<2",))
    assert site.host().architecture("linear").name == "linear"


def test_a_checkout_without_metadata_has_no_needs_of_its_own(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requirements, "BUILTIN", "matscale-that-is-not-installed")
    site.install("my-old", BROKEN, requires=("e3nn==0.4.4",))
    with pytest.raises(PluginError, match=r'installed is e3nn 0\.6.*: pip install "e3nn==0\.4\.4"'):
        site.host().architecture("old")
