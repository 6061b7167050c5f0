"""`matscale models`: counts that anyone can recompute, under keys that scripts rely on."""

from __future__ import annotations

import json
import re

import pytest
from click.testing import CliRunner, Result

from little import Site, architecture
from matscale.cli import main
from matscale.core.data.graph import Graph
from matscale.core.errors import ConfigError
from matscale.core.estimate.describe import configuration, describe, reference_crystal
from matscale.core.hosting.host import get, host
from matscale.core.model.architecture import DatasetInfo

KEYS = {"name", "size", "config", "parameters", "flops_per_atom", "claims"}


def matscale(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments, catch_exceptions=False)


def shown(*arguments: str) -> dict:
    result = matscale("models", "show", *arguments, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def test_show_counts_the_parameters_of_the_model_that_is_built() -> None:
    page = shown("schnet", "--params", "30k")
    schnet = get("schnet")
    model = schnet.model(schnet.config.parse(page["config"]), DatasetInfo.any(), seed=0)
    assert page["parameters"]["total"] == sum(p.numel() for p in model.parameters())
    assert page["parameters"]["total"] == pytest.approx(30_000, rel=0.05)
    assert "rotation" in page["claims"]
    assert page["parameters"]["total"] == page["parameters"]["embedding"] + page["parameters"]["non_embedding"]


def test_show_has_the_stable_keys_and_names_a_published_size() -> None:
    page = shown("schnet", "--size", "oc20-all")
    assert set(page) >= KEYS
    assert page["size"] == "oc20-all"
    assert page["parameters"]["total"] == 9_088_513
    assert set(page["parameters"]) == {"total", "trainable", "embedding", "non_embedding"}
    assert page["distribution"] == "matscale"


def test_set_overrides_the_chosen_size() -> None:
    page = shown("schnet", "--size", "oc20-all", "--set", "n_layers=1")
    assert page["config"]["n_layers"] == 1
    assert page["config"]["hidden"] == 1024
    assert page["size"] is None


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        (("shcnet",), "Did you mean 'schnet'?"),
        (("schnet", "--size", "oc20-al"), "Did you mean 'oc20-all'?"),
        (("schnet", "--set", "n_layer=1"), "Did you mean 'n_layers'?"),
        (("schnet", "--params", "lots"), "Write for example 30k, 1M"),
        (("schnet", "--params", "1M", "--size", "oc20-all"), "both choose a configuration"),
    ],
)
def test_a_wrong_choice_ends_with_2_and_says_what_is_right(arguments: tuple[str, ...], answer: str) -> None:
    result = matscale("models", "show", *arguments)
    assert result.exit_code == 2
    assert answer in result.stderr


def test_the_page_for_people_states_the_neighbours_behind_the_flops() -> None:
    page = matscale("models", "show", "schnet").stdout
    assert "at 42 neighbours per atom" in page
    assert "arXiv:1706.08566" in page
    assert "Interaction radius [Å]." in page


def test_the_page_says_which_count_is_the_n_of_laws() -> None:
    counts = shown("fcn", "--params", "3k")["parameters"]
    page = matscale("models", "show", "fcn", "--params", "3k").stdout
    assert f"{counts['non_embedding']:,} non-embedding (the N of laws)" in page
    assert "embeddings included" in " ".join(matscale("models", "show", "--help").stdout.split())


def test_the_list_has_every_built_in_architecture_under_the_keys_of_show() -> None:
    result = matscale("models", "list", "--json")
    rows = {row["name"]: row for row in json.loads(result.stdout)}
    assert {"fcn", "transformer", "schnet"} <= set(rows)
    for row in rows.values():
        assert set(row) >= KEYS - {"config"}
        assert "config" not in row
        assert row["parameters"]["total"] > 0
        assert row["flops_per_atom"] > 0


def test_the_list_of_sizes_has_a_row_for_each_published_one() -> None:
    rows = json.loads(matscale("models", "list", "--sizes", "--json").stdout)
    assert {row["size"] for row in rows if row["name"] == "schnet"} == set(get("schnet").sizes)
    assert all(row["flops_per_atom"] > 0 for row in rows if row["name"] == "schnet")


def test_without_a_formula_flops_are_counted_for_one_model_and_not_for_all_its_sizes(site: Site) -> None:
    sized = architecture("sized").replace("dial=", "sizes={'S': LinearConfig(width=3)}, dial=")
    site.install("my-sized", sized)
    assert json.loads(site.run("models", "show", "sized", "--size", "S", "--json").stdout)["flops_per_atom"] > 0
    rows = json.loads(site.run("models", "list", "--sizes", "--json").stdout)
    assert [(r["size"], r["flops_per_atom"]) for r in rows if r["name"] == "sized"] == [("S", None)]


@pytest.mark.parametrize("cutoff", [3.0, 6.0, 12.0])
def test_in_the_reference_crystal_every_atom_has_42_neighbours_at_any_cutoff(cutoff: float) -> None:
    batch = reference_crystal(Graph.radius(cutoff), 13)
    assert batch.n_atoms == 20
    assert batch.edges()[1].bincount().tolist() == [42] * 20


def test_a_graph_of_the_nearest_has_as_many_neighbours_as_it_says() -> None:
    batch = reference_crystal(Graph.nearest(12.0, 20), 13)
    assert batch.edges()[1].bincount().tolist() == [20] * 20
    assert reference_crystal(Graph.dense(), 13).n_edges == 0


def test_the_list_names_papers_and_the_neighbours_behind_the_flops() -> None:
    rows = {row["name"]: row for row in json.loads(matscale("models", "list", "--json").stdout)}
    assert rows["schnet"]["reference"] == "arXiv:1706.08566"
    assert rows["schnet"]["neighbors_per_atom"] == 42
    heading, *lines = matscale("models", "list").stdout.splitlines()
    assert heading.split() == ["NAME", "SIZE", "PARAMETERS", "FLOPS/ATOM", "NEIGHBOURS", "PAPER", "CLAIMS"]
    assert any("arXiv:2306.12059" in line for line in lines if line.startswith("eqv2"))


def test_show_count_runs_a_step_and_reports_elementwise_work_besides() -> None:
    page = shown("schnet", "--params", "10k", "--count")
    assert page["counted_per_atom"]["contractions"] == pytest.approx(page["flops_per_atom"], rel=1e-3)
    assert 0 < page["counted_per_atom"]["elementwise"] < page["flops_per_atom"]
    text = matscale("models", "show", "schnet", "--params", "10k", "--count").stdout
    assert re.search(r"counted .* element-wise \(\d+\.\d %\) besides", text)
    assert "counted_per_atom" not in shown("schnet", "--params", "10k")


@pytest.mark.parametrize("name", ["fcn", "transformer", "schnet", "eqv2", "gemnet", "escaip"])
def test_a_formula_and_a_counted_step_agree_on_flops_per_atom(name: str) -> None:
    from matscale.core.flops import measure_step_flops

    family = get(name)
    config = family.ladder(30_000)
    batch = reference_crystal(family.graph(config), 13)
    measured = measure_step_flops(family, config, batch) / batch.n_atoms
    assert describe(family, config, host()).flops_per_atom == pytest.approx(measured, rel=0.01)


def test_one_way_to_choose_a_size_at_a_time() -> None:
    with pytest.raises(ConfigError, match="give one of them"):
        configuration(get("schnet"), size="oc20-all", n_params=1000)


def test_every_built_in_supplies_under_the_name_of_its_entry_point() -> None:
    """What makes the names of built-in plugins reserved without importing them all."""
    named = {plugin.name for plugin in host().plugins if plugin.entry.builtin}
    supplied = [
        name
        for plugin in host().plugins
        if plugin.entry.builtin
        for kind in ("architecture", "labeler", "command")
        for name in plugin.load().provides.get(kind, {})
    ]
    assert len(supplied) >= 3
    assert set(supplied) <= named


def test_every_built_in_plugin_works_and_states_its_hooks_in_its_source() -> None:
    for plugin in host().plugins:
        if plugin.entry.builtin:
            declared = plugin.hooks
            assert plugin.load().status == "ok", plugin.reason
            assert plugin.implements == sorted(declared)


def test_an_architecture_that_cannot_be_built_does_not_take_the_list_with_it(site: Site) -> None:
    site.install("my-fails", architecture("fails").replace("return Linear(config)", "raise MemoryError('too big')"))
    site.install("my-broken", "1 / 0")
    result = site.run("models", "list", "--json")
    assert result.exit_code == 0
    rows = {row["name"]: row for row in json.loads(result.stdout)}
    assert rows["fails"]["parameters"] is None
    assert rows["schnet"]["parameters"]["total"] > 0
    assert "fails: cannot be built (ConfigError: architecture.config of fails: makes a model" in result.stderr
    assert re.search(r"Left out: .*\bbroken\b", result.stderr)
    shown = site.run("models", "show", "fails")
    assert shown.exit_code == 2
    assert "architecture.config of fails: makes a model that does not fit in the memory (too big)" in shown.stderr


def test_a_model_that_looks_at_the_values_of_its_tensors_is_counted_all_the_same(site: Site) -> None:
    looking = "    def __init__(self, config):\n        assert torch.ones(1).item() == 1\n"
    site.install("my-looker", architecture("looker").replace("    def __init__(self, config):\n", looking))
    result = site.run("models", "show", "looker", "--json")
    assert json.loads(result.stdout)["parameters"]["total"] == 119 * 4 + 5 + 24 + 45


def test_an_outsider_with_a_built_in_name_is_listed_and_shown_as_its_distributions(site: Site) -> None:
    site.install("my-schnet", architecture("schnet"))
    rows = json.loads(site.run("models", "list", "--json").stdout)
    assert {"schnet", "my-schnet:schnet"} <= {row["name"] for row in rows}
    page = json.loads(site.run("models", "show", "my-schnet:schnet", "--json").stdout)
    assert (page["name"], page["distribution"]) == ("my-schnet:schnet", "my-schnet")


def test_asking_for_a_broken_architecture_ends_with_2_its_own_error_and_what_to_install(site: Site) -> None:
    site.install("my-needy", "import not_there", requires=("not-there>=2",))
    result = site.run("models", "show", "needy")
    assert result.exit_code == 2
    assert "No module named 'not_there'" in result.stderr
    assert 'pip install "not-there>=2"' in result.stderr


def test_show_gives_every_option_one_line() -> None:
    page = matscale("models", "show", "eqv2").stdout
    names = [line.split()[0] for line in page.split("\nconfiguration\n")[1].splitlines()]
    assert names == list(get("eqv2").config.model_fields)


def test_a_long_value_does_not_move_its_meaning_off_the_screen(site: Site) -> None:
    source = (
        architecture("wide")
        + """
from dataclasses import replace
(FAMILY,) = register_architectures()
class Wide(FAMILY.config):
    elements: tuple[int, ...] = tuple(range(1, 119))
    \"\"\"Rows of the tables.\"\"\"
@hookimpl
def register_architectures():
    return [replace(FAMILY, config=Wide, ladder=lambda n: Wide())]
"""
    )
    site.install("my-wide", source)
    page = site.run("models", "show", "wide").stdout
    (line,) = [line for line in page.splitlines() if "Rows of the tables." in line]
    assert "[1, 2, 3, 4" in line
    assert "117, 118]" in line
    assert len(line) < 120
