"""The plugin host, with distributions that are really installed: each fault ends where DESIGN.md §4 says it ends."""

from __future__ import annotations

import sys

import pytest

from little import Site, architecture
from matscale.core.data.batch import BatchShape
from matscale.core.errors import ConfigError, PluginError
from matscale.core.hosting.observers import PluginWarning
from matscale.core.train.stop import Interrupted
from matscale.version import API_VERSION

SHAPE = BatchShape(n_structures=1, n_atoms=2, n_edges=4, sum_atoms_squared=4)


def is_imported(name: str) -> bool:
    return name in sys.modules


# Finding ------------------------------------------------------------------------------------------------------------


def test_a_plugin_is_imported_when_it_is_asked_for_and_alone(site: Site) -> None:
    site.install("my-linear", architecture("linear"))
    site.install("my-other", architecture("other"))
    host = site.host()
    assert [plugin.status for plugin in host.plugins] == ["not loaded", "not loaded"]
    assert not is_imported("my_linear")
    assert host.architecture("linear").name == "linear"
    assert is_imported("my_linear")
    assert not is_imported("my_other")


def test_hooks_are_known_before_anything_is_imported(site: Site) -> None:
    site.install("my-linear", architecture("linear"))
    assert site.host().plugins[0].hooks == ["register_architectures"]
    assert not is_imported("my_linear")


def test_a_plugin_whose_source_has_other_hooks_is_not_imported_for_a_kind_that_it_lacks(site: Site) -> None:
    site.install("my-linear", architecture("linear"))
    assert site.host().laws() == []
    assert not is_imported("my_linear")


def test_a_plugin_with_a_misspelt_hook_is_imported_so_that_its_error_is_heard(site: Site) -> None:
    site.install("my-laws", architecture("linear").replace("register_architectures", "register_lawz"))
    site.host().laws()
    assert is_imported("my_laws")


def test_an_architecture_is_found_in_a_plugin_of_another_name(site: Site) -> None:
    site.install("my-zoo", architecture("cat", "dog"))
    host = site.host()
    assert host.architecture("dog").name == "dog"
    assert host.origin("dog") == ("my-zoo", "1.0")
    assert [a.name for a in host.architectures()] == ["cat", "dog"]


def test_a_wrong_name_is_answered_with_the_nearest_right_one(site: Site) -> None:
    site.install("my-linear", architecture("linear"))
    with pytest.raises(ConfigError, match=r"no architecture 'linaer'. Did you mean 'linear'"):
        site.host().architecture("linaer")
    with pytest.raises(ConfigError, match=r"No plugin is called 'linaer'. Did you mean 'linear'"):
        site.host().plugin("linaer")


def test_a_qualified_name_means_one_distribution_however_it_is_spelt(site: Site) -> None:
    site.install("my-linear", architecture("linear"))
    assert site.host().architecture("My_Linear:linear").name == "linear"
    with pytest.raises(ConfigError):
        site.host().architecture("nobody:linear")


def test_what_a_plugin_prints_does_not_reach_the_results(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.install("my-linear", "print('hello')\n" + architecture("linear"))
    site.host().architecture("linear")
    assert capsys.readouterr() == ("", "hello\n")


# Faults at import ---------------------------------------------------------------------------------------------------


def test_a_plugin_broken_at_import_is_an_error_for_those_who_ask_and_nothing_to_others(site: Site) -> None:
    site.install("my-broken", "1 / 0")
    site.install("my-linear", architecture("linear"))
    host = site.host()
    with pytest.raises(PluginError, match=r"'broken' \(my-broken 1.0\) cannot be used: it raised ZeroDivisionError"):
        host.architecture("broken")
    assert [a.name for a in host.architectures()] == ["linear"]
    broken = host.plugin("broken")
    assert (broken.status, broken.hooks) == ("failed", [])
    assert "my_broken.py:1" in broken.reason
    assert isinstance(broken.error, ZeroDivisionError)


def test_a_plugin_that_exits_at_import_ends_nothing(site: Site) -> None:
    site.install("my-quitter", "import sys; sys.exit(3)")
    site.install("my-linear", architecture("linear"))
    host = site.host()
    host.load_all()
    assert [plugin.status for plugin in host.plugins] == ["ok", "failed"]
    with pytest.raises(PluginError, match="SystemExit: 3"):
        host.architecture("quitter")


def test_an_interrupt_at_import_is_the_users_and_goes_through(site: Site) -> None:
    site.install("my-slow", "raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        site.host().architecture("slow")


@pytest.mark.parametrize(
    ("requires", "hint"),
    [
        ((), "pip install not_there"),
        (("not-there>=2.1",), 'pip install "not-there>=2.1"'),
        (("numpy", 'not-there>=2.1; extra == "gpu"'), r'pip install "my-needy\[gpu\]"'),
    ],
)
def test_a_missing_module_is_answered_with_what_to_install(site: Site, requires: tuple[str, ...], hint: str) -> None:
    site.install("my-needy", "import not_there.part", requires=requires)
    with pytest.raises(PluginError, match=hint):
        site.host().architecture("needy")


def test_an_entry_point_without_its_module_says_that_the_installation_is_out_of_date(site: Site) -> None:
    site.install("my-linear", architecture("linear"))
    (site.folder / "my_linear.py").unlink()
    with pytest.raises(PluginError, match=r"my-linear is incomplete or out of date"):
        site.host().architecture("linear")


def test_damaged_entry_points_are_that_distributions_fault_alone(site: Site) -> None:
    site.install("my-linear", architecture("linear"))
    site.install("my-damaged", "")
    (site.folder / "my_damaged-1.0.dist-info" / "entry_points.txt").write_text("[matscale]\nno equals sign\n")
    host = site.host()
    host.load_all()
    assert {p.name: p.status for p in host.plugins} == {"linear": "ok", "my-damaged": "failed"}
    assert "entry_points.txt cannot be read" in host.plugin("my-damaged").reason


# Interface versions -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [(API_VERSION[0] + 1, 0), (API_VERSION[0], API_VERSION[1] + 1), (0, 9)])
def test_a_plugin_for_another_interface_is_incompatible(site: Site, version: tuple[int, int]) -> None:
    site.install("my-future", f"API_VERSION = {version}\n" + architecture("future"))
    host = site.host()
    with pytest.raises(PluginError, match=rf"interface {version[0]}\.{version[1]}; matscale .* has"):
        host.architecture("future")
    assert host.plugin("future").status == "incompatible"
    assert host.architectures() == []


def test_a_plugin_for_this_interface_is_taken(site: Site) -> None:
    site.install("my-linear", f"API_VERSION = {API_VERSION}\n" + architecture("linear"))
    assert site.host().architecture("linear").name == "linear"


@pytest.mark.parametrize("version", ["'1.0'", "1", "(1, 'x')", "(1, 0, 0)"])
def test_an_interface_version_that_is_no_pair_is_incompatible(site: Site, version: str) -> None:
    site.install("my-odd", f"API_VERSION = {version}\n" + architecture("odd"))
    with pytest.raises(PluginError, match="not a pair"):
        site.host().architecture("odd")


# Names --------------------------------------------------------------------------------------------------------------


def test_a_built_in_name_is_reserved_and_the_outsider_is_reached_by_its_distribution(site: Site) -> None:
    site.install("matscale", architecture("schnet"), name="schnet", module="builtin_schnet")
    site.install("my-schnet", architecture("schnet"))
    host = site.host()
    assert host.origin("schnet")[0] == "matscale"
    outsider = host.architecture("my-schnet:schnet")
    assert outsider.name == "my-schnet:schnet"  # the name in a run record must find the same one again
    assert host.origin(outsider.name)[0] == "my-schnet"
    assert host.architecture(outsider.name) is outsider
    clashing = host.plugin("my-schnet:schnet")
    assert (clashing.status, clashing.reason) == (
        "clash",
        "the name is that of a built-in plugin: ask for my-schnet:schnet.",
    )
    assert [a.name for a in host.architectures()] == ["schnet", "my-schnet:schnet"]


def test_two_outsiders_of_one_name_are_both_named_and_neither_is_imported(site: Site) -> None:
    site.install("my-tiny", architecture("tiny"))
    site.install("your-tiny", architecture("tiny"), version="2.0")
    host = site.host()
    assert [plugin.status for plugin in host.plugins] == ["clash", "clash"]
    with pytest.raises(PluginError, match=r"my-tiny 1.0 and your-tiny 2.0.* my-tiny:tiny or your-tiny:tiny"):
        host.architecture("tiny")
    assert not is_imported("my_tiny")
    assert host.origin("your-tiny:tiny") == ("your-tiny", "2.0")


def test_blocking_one_of_two_outsiders_gives_the_name_to_the_other(site: Site) -> None:
    site.install("my-tiny", architecture("tiny"))
    site.install("your-tiny", architecture("tiny"))
    host = site.host(blocked=("my-tiny:tiny",))
    assert host.origin("tiny")[0] == "your-tiny"
    assert [plugin.status for plugin in host.plugins] == ["blocked", "ok"]


def test_two_outsiders_with_one_architecture_are_told_apart_by_distribution(site: Site) -> None:
    site.install("my-zoo", architecture("tiny"), name="zoo")
    site.install("your-park", architecture("tiny"), name="park")
    host = site.host()
    with pytest.raises(PluginError, match="my-zoo:tiny or your-park:tiny"):
        host.architecture("tiny")
    assert [a.name for a in host.architectures()] == ["my-zoo:tiny", "your-park:tiny"]
    host.load_all()
    assert [plugin.status for plugin in host.plugins] == ["clash", "clash"]


def test_an_outsiders_architecture_does_not_take_a_built_ins_place(site: Site) -> None:
    site.install("matscale", architecture("schnet"), name="schnet", module="builtin_schnet")
    site.install("a-zoo", architecture("schnet"), name="zoo")
    host = site.host()
    assert host.origin("schnet")[0] == "matscale"
    assert [a.name for a in host.architectures()] == ["schnet", "a-zoo:schnet"]


@pytest.mark.parametrize("other", ["my_extra", "my_copy"])
def test_two_entry_points_of_one_package_are_both_named(site: Site, other: str) -> None:
    site.install("my-extra", architecture("linear"), name="first")
    (site.folder / "my_copy.py").write_text(architecture("linear"))
    points = site.folder / "my_extra-1.0.dist-info" / "entry_points.txt"
    points.write_text(f"[matscale]\nfirst = my_extra\nsecond = {other}\n")
    host = site.host()
    for name in ("linear", "my-extra:linear"):
        with pytest.raises(PluginError) as caught:
            host.architecture(name)
        said = str(caught.value)
        assert f"first = 'my_extra' of my-extra 1.0 and second = '{other}' of my-extra 1.0" in said
        assert "or leave one out: MATSCALE_BLOCK_PLUGINS=my-extra:second" in said
        assert "Say which" not in said
    host.load_all()
    assert all("2 entry points" in plugin.reason for plugin in host.plugins)
    assert site.host(blocked=("my-extra:second",)).architecture("linear").name == "linear"


@pytest.mark.parametrize("remains", ["METADATA", "entry_points.txt"])
def test_a_broken_duplicate_of_a_distribution_is_no_clash(site: Site, remains: str) -> None:
    site.install("my-tiny", architecture("tiny"), version="2.0")
    broken = site.folder / "my_tiny-1.0.dist-info"  # comes first in the folder
    broken.mkdir()
    whole = site.folder / "my_tiny-2.0.dist-info" / remains
    (broken / remains).write_text(whole.read_text().replace("2.0", "1.0"))
    host = site.host()
    assert [(p.name, p.entry.version, p.status) for p in host.plugins] == [("tiny", "2.0", "not loaded")]
    assert host.architecture("tiny").name == "tiny"


# Blocking -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("blocked", [("linear",), ("my-linear:linear",)])
def test_a_blocked_plugin_is_not_imported_even_when_asked_for(site: Site, blocked: tuple[str, ...]) -> None:
    site.install("my-linear", architecture("linear"))
    host = site.host(blocked=blocked)
    with pytest.raises(PluginError, match="is blocked: by MATSCALE_BLOCK_PLUGINS"):
        host.architecture("linear")
    assert host.architectures() == []
    assert not is_imported("my_linear")
    assert host.plugins[0].status == "blocked"


def test_without_plugins_the_built_in_ones_remain(site: Site) -> None:
    site.install("matscale", architecture("schnet"), name="schnet", module="builtin_schnet")
    site.install("my-linear", architecture("linear"))
    host = site.host(only_builtin=True)
    assert [a.name for a in host.architectures()] == ["schnet"]
    with pytest.raises(PluginError, match="MATSCALE_NO_PLUGINS"):
        host.architecture("linear")


def test_blocking_a_name_that_no_plugin_has_is_noted(site: Site) -> None:
    site.install("my-linear", architecture("linear"))
    assert site.host(blocked=("linaer",)).unknown_blocks == ["linaer"]


# Hooks --------------------------------------------------------------------------------------------------------------


def test_a_misspelt_hook_is_refused_by_name_with_the_nearest(site: Site) -> None:
    source = "from matscale import hookimpl\n@hookimpl\ndef register_architecture():\n    return []\n"
    site.install("my-typo", source)
    host = site.host()
    with pytest.raises(PluginError, match=r"unknown hook, 'register_architecture'. Did you mean 'register_architec"):
        host.architecture("typo")
    assert host.plugin("typo").status == "failed"
    assert host.plugin("typo").hook is None


def test_a_hook_with_an_unknown_argument_is_refused(site: Site) -> None:
    site.install("my-args", "from matscale import hookimpl\n@hookimpl\ndef run_started(runn):\n    pass\n")
    host = site.host()
    with pytest.raises(PluginError, match="runn"):
        host.architecture("args")
    assert "pluggy" not in host.plugin("args").reason  # where in our machinery it was noticed helps nobody


def test_a_hook_wrapper_is_refused(site: Site) -> None:
    source = """
        from matscale import hookimpl
        @hookimpl(wrapper=True)
        def register_losses():
            return (yield)
    """
    site.install("my-wrap", source)
    with pytest.raises(PluginError, match="register_losses is a hook wrapper"):
        site.host().architecture("wrap")


@pytest.mark.parametrize(
    ("returned", "complaint"),
    [
        ("['schnet']", r"'schnet' \(str\) in it; each must be a matscale.core.model.architecture:Architecture"),
        ("None", r"returned None \(NoneType\); it must return a list"),
        ("42", r"returned 42 \(int\)"),
        ("[a, a]", "two values called 'linear'"),
        ("[replace(a, name='my model')]", "a value called 'my model'"),
        ("[replace(a, config=dict)]", "not an ArchitectureConfig"),
        ("[replace(a, build=None)]", "build is None"),
        ("[replace(a, sizes={'S': 3})]", "size 'S' is not a LinearConfig"),
        ("1 / 0", "ZeroDivisionError"),
    ],
)
def test_a_hook_that_returns_nonsense_fails_its_plugin_and_says_what(site: Site, returned: str, complaint: str) -> None:
    nonsense = f"""
from dataclasses import replace
a = register_architectures()[0]
@hookimpl
def register_architectures():
    return {returned}
"""
    site.install("my-linear", architecture("linear") + nonsense)
    host = site.host()
    with pytest.raises(PluginError, match=complaint):
        host.architecture("linear")
    assert host.plugin("linear").status == "failed"
    assert host.architectures() == []


def test_a_command_is_found_by_the_name_of_its_entry_point(site: Site) -> None:
    source = """
        import click
        from matscale import hookimpl
        @hookimpl
        def register_commands():
            return [click.Command("greet")]
    """
    site.install("my-greet", source)
    host = site.host()
    command = host.command("greet")
    assert command is not None
    assert command.name == "greet"
    assert host.command("groot") is None


def test_step_flops_come_from_the_hook_before_the_formula_of_the_architecture(site: Site) -> None:
    hook = "\n@hookimpl\ndef step_flops(config, shape):\n    return 10 * config.width * shape.n_atoms\n"
    site.install("my-linear", architecture("linear") + hook)
    site.install("my-plain", architecture("plain"))
    host = site.host()
    plain, linear = host.architecture("plain"), host.architecture("linear")
    assert host.step_flops(linear, linear.config(), SHAPE) == 80.0
    assert site.host().step_flops(plain, plain.config(), SHAPE) is None


def test_flops_that_are_no_number_are_refused(site: Site) -> None:
    site.install("my-linear", architecture("linear") + "\n@hookimpl\ndef step_flops():\n    return float('nan')\n")
    host = site.host()
    linear = host.architecture("linear")
    with pytest.raises(PluginError, match="returned nan"):
        host.step_flops(linear, linear.config(), SHAPE)


def test_a_formula_that_raises_concerns_its_own_architecture_only(site: Site) -> None:
    site.install("my-linear", architecture("linear") + "\n@hookimpl\ndef step_flops():\n    return 1 / 0\n")
    site.install("my-plain", architecture("plain"))
    host = site.host()
    linear, plain = host.architecture("linear"), host.architecture("plain")
    with pytest.raises(PluginError, match=r"ZeroDivisionError.* for its own architecture 'linear'"):
        host.step_flops(linear, linear.config(), SHAPE)
    with pytest.warns(PluginWarning, match="not asked again"):
        assert host.step_flops(plain, plain.config(), SHAPE) is None
    assert host.step_flops(plain, plain.config(), SHAPE) is None


# Observers ----------------------------------------------------------------------------------------------------------

WATCHER = """
    from matscale import hookimpl
    seen = []
    @hookimpl
    def step_ended(metrics):
        seen.append(metrics["step"])
        metrics.clear()
"""
RAISER = """
    from matscale import hookimpl
    calls = []
    @hookimpl
    def step_ended(run, metrics):
        calls.append(metrics["step"])
        {fault}
"""


@pytest.mark.parametrize("fault", ["1 / 0", "raise SystemExit(1)", "assert False"])
def test_an_observer_that_raises_is_switched_off_with_one_warning_and_the_others_go_on(site: Site, fault: str) -> None:
    site.install("my-raiser", RAISER.format(fault=fault))
    site.install("my-watcher", WATCHER)
    observers = site.host().observers(["raiser", "watcher"])
    with pytest.warns(PluginWarning, match=r"'raiser' .*switched off for the rest of this run"):
        observers.step_ended(run=None, metrics={"step": 0})
    for step in (1, 2):  # a second warning would be an error here
        observers.step_ended(run=None, metrics={"step": step})
    assert sys.modules["my_raiser"].calls == [0]
    assert sys.modules["my_watcher"].seen == [0, 1, 2]
    assert observers.names == ["watcher"]


def test_an_observer_cannot_change_the_metrics_of_a_run(site: Site) -> None:
    site.install("my-watcher", WATCHER)
    metrics = {"step": 1.0}
    site.host().observers(["watcher"]).step_ended(run=None, metrics=metrics)
    assert metrics == {"step": 1.0}


def test_only_plugins_that_a_run_names_watch_it(site: Site) -> None:
    site.install("my-watcher", WATCHER)
    site.install("my-zoo", architecture("cat"), name="zoo")
    host = site.host()
    next(plugin for plugin in host.plugins if plugin.name == "watcher").load()
    assert host.observers(["cat"]).names == ["zoo"]  # the plugin of an architecture watches the runs of it
    host.observers(["cat"]).step_ended(run=None, metrics={"step": 1.0})
    assert sys.modules["my_watcher"].seen == []  # imported, and not told of the run
    assert host.observers(["watcher", "watcher"]).names == ["watcher"]
    with pytest.raises(ConfigError, match=r"no plugin 'wacher' to observe the run\. Did you mean 'watcher'"):
        host.observers(["wacher"])
    assert host.observers(["watcher"], host.architecture("cat")).names == ["watcher", "zoo"]


def test_an_observer_that_was_asked_for_and_is_broken_is_an_error(site: Site) -> None:
    site.install("my-broken", "1 / 0")
    with pytest.raises(PluginError, match="ZeroDivisionError"):
        site.host().observers(["broken"])
    with pytest.raises(ConfigError):
        site.host().observers(["brokn"])


def test_a_signal_while_a_plugin_is_imported_stops_the_run_and_is_no_fault_of_the_plugin(site: Site) -> None:
    site.install("my-slow", "from matscale.core.train.stop import Interrupted\nraise Interrupted('SIGTERM')\n")
    with pytest.raises(Interrupted):
        site.host().plugin("slow").load()
