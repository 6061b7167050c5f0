"""Plugin host: finds architectures, laws, readers and the like by name, importing as few plugins as possible.

The name X is looked up in the plugin whose entry point is called X, then in the built-in plugins, then in all others.
Names of built-in plugins cannot be taken by others; `distribution:X` means the X of that distribution. A plugin that is
broken, blocked or incompatible raises an error if it is requested by name, and is ignored otherwise.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

from matscale.core import hookspecs
from matscale.core.errors import ConfigError, MatscaleError, PluginError, did_you_mean
from matscale.core.hosting.catalogue import Entry, canonical, declared_hooks, discover
from matscale.core.hosting.loading import Plugin
from matscale.core.hosting.observers import Observers, PluginWarning, Tracking
from matscale.core.hosting.provided import KINDS

if TYPE_CHECKING:
    import click

    from matscale.core.data.batch import BatchShape
    from matscale.core.data.sources.reader import Reader
    from matscale.core.data.synthetic.labelers import Labeler
    from matscale.core.fairchem.importer import Importer
    from matscale.core.hosting.observers import Tracking
    from matscale.core.model.architecture import Architecture, ArchitectureConfig
    from matscale.core.scaling.law import Law
    from matscale.core.study.launcher import Launcher
    from matscale.core.train.loss import Loss

BLOCK = "MATSCALE_BLOCK_PLUGINS"
"""Environment variable with plugins to block, separated by commas, as `name` or `distribution:name`."""
ONLY_BUILTIN = "MATSCALE_NO_PLUGINS"
"""Environment variable; 1 means that only the built-in plugins are used."""


@cache
def host() -> Host:
    """Return the plugin host of this process. The first call finds the installed plugins."""
    only_builtin = os.environ.get(ONLY_BUILTIN, "").strip().lower() not in ("", "0", "false", "no")
    blocked = [name.strip() for name in os.environ.get(BLOCK, "").split(",") if name.strip()]
    return Host(discover(), blocked=blocked, only_builtin=only_builtin)


def get(name: str) -> Architecture:
    """Find an architecture by `name`, or by `distribution:name` as one string."""
    return host().architecture(name)


@dataclass(frozen=True)
class Found:
    """Value that a plugin supplies (an architecture, a law, ...), with this plugin."""

    plugin: Plugin
    value: Any


class Host:
    """Plugin host: keeps the installed plugins, and finds the values that they supply by name."""

    def __init__(self, entries: Iterable[Entry], blocked: Sequence[str] = (), only_builtin: bool = False) -> None:
        self.plugins = [Plugin(entry) for entry in entries]
        for plugin in self.plugins:
            if plugin.name in blocked or plugin.entry.qualified in blocked:
                plugin.state, plugin.trouble = "blocked", f"by {BLOCK} in the environment."
            elif only_builtin and not plugin.entry.builtin:
                plugin.state, plugin.trouble = "blocked", f"by {ONLY_BUILTIN} in the environment."
        names = {name for p in self.plugins for name in (p.name, p.entry.qualified)}
        self.unknown_blocks = [name for name in blocked if name not in names]
        self._renamed: dict[str, Architecture] = {}
        _mark_clashes(self.plugins)

    # By name ----------------------------------------------------------------------------------------------------------

    def architecture(self, name: str) -> Architecture:
        """Find the architecture called `name`.

        The attribute `name` of the result can be given here to find the architecture again. Raises ConfigError that
        suggests the nearest names, or PluginError if the plugin is broken.
        """
        return self._architecture(self.find("architecture", name))

    def loss(self, name: str) -> Loss:
        found: Loss = self.find("loss", name).value
        return found

    def labeler(self, name: str) -> Labeler:
        found: Labeler = self.find("labeler", name).value
        return found

    def law(self, name: str) -> Law:
        found: Law = self.find("law", name).value
        return found

    def launcher(self, name: str) -> Launcher:
        found: Launcher = self.find("launcher", name).value
        return found

    def tracking(self, name: str) -> Tracking:
        """Find the tracker called `name`, and return it as an observer of a run.

        Raises PluginError if a module that the tracker needs is missing.
        """
        found = self.find("tracker", name)
        return Tracking.of(found.value, found.plugin)

    def command(self, name: str) -> click.Command | None:
        """Find the command called `name`, which the plugin of the same name supplies.

        None if there is no such plugin, or if it has no command.
        """
        named = self._named(name)
        found: click.Command | None = named.require().provides.get("command", {}).get(_plain(name)) if named else None
        return found

    def origin(self, name: str) -> tuple[str, str]:
        """Distribution, and its version, that supplies the architecture called `name`."""
        entry = self.find("architecture", name).plugin.entry
        return entry.distribution, entry.version

    def plugin(self, name: str) -> Plugin:
        """Find a plugin by the name of its entry point.

        Raises ConfigError that suggests the nearest name, or PluginError if several plugins have this name.
        """
        named = self._named(name)
        if named is None:
            raise ConfigError(f"No plugin is called {name!r}. {did_you_mean(name, (p.asked for p in self.plugins))}")
        return named

    def find(self, kind: str, name: str) -> Found:
        """Find a value by its kind ("architecture", "law", ...) and name.

        The plugins are searched in the order given at the top of this module. Raises ConfigError if no plugin supplies
        the value, and PluginError if several do or the plugin is broken.
        """
        named = self._named(name)
        if named and (value := named.require().provides.get(kind, {}).get(_plain(name))) is not None:
            return Found(named, value)
        distribution = _distribution(name)
        if distribution is None:
            for found in self._providers(kind, name, (p for p in self.plugins if p.entry.builtin)):
                return found
        others = [p for p in self.plugins if not p.entry.builtin or distribution is not None]
        providers = list(self._providers(kind, name, self._of(distribution, others)))
        if len(providers) > 1:
            raise _ambiguous(f"{kind} {_plain(name)!r}", _plain(name), [found.plugin for found in providers])
        if not providers:
            raise self._unknown(kind, name)
        return providers[0]

    # All of a kind ----------------------------------------------------------------------------------------------------

    def architectures(self) -> list[Architecture]:
        """All available architectures, built-in ones first, each with the name by which it is found."""
        return [self._architecture(found) for found in self._all("architecture")]

    def losses(self) -> list[Loss]:
        return [found.value for found in self._all("loss")]

    def labelers(self) -> list[Labeler]:
        return [found.value for found in self._all("labeler")]

    def laws(self) -> list[Law]:
        """Laws of all plugins: those of built-in plugins first, then in the order of the plugins."""
        return [found.value for found in self._all("law")]

    def launchers(self) -> list[Launcher]:
        return [found.value for found in self._all("launcher")]

    def importers(self) -> list[Importer]:
        return [found.value for found in self._all("importer")]

    def readers(self) -> list[Reader]:
        return [found.value for found in self._all("reader")]

    def load_all(self) -> None:
        """Import every plugin. An error of a plugin is not raised, but stored in its `trouble` and `error`."""
        for plugin in self.plugins:
            plugin.load()
        for found in self._all("architecture"):
            asked = self._asked("architecture", found)
            if asked != found.value.name and not found.plugin.clash:
                found.plugin.clash = f"another plugin has an architecture {found.value.name!r}: ask for {asked}."
                try:
                    self.find("architecture", asked)
                except PluginError as error:  # both are of one package
                    found.plugin.clash = str(error)

    # Hooks with a question --------------------------------------------------------------------------------------------

    def step_flops(self, architecture: Architecture, config: ArchitectureConfig, shape: BatchShape) -> float | None:
        """Compute the FLOPs of one optimizer step by a formula; None if there is no formula.

        The hook `step_flops` of the architecture's plugin is called first, then that of other loaded plugins, then
        `step_flops` of the architecture. The first answer counts.
        """
        loaded = [p for p in self.plugins if p.state == "ok" and "step_flops" in p.implements]
        for plugin in sorted(loaded, key=lambda p: architecture.config not in _configs(p)):
            value = _guarded_flops(plugin, architecture, config, shape)
            if value is not None:
                return _checked_flops(value, f"The hook step_flops of plugin {plugin.describe()}")
        if architecture.step_flops is None:
            return None
        return _checked_flops(architecture.step_flops(config, shape), f"step_flops of {architecture.name!r}")

    def observers(
        self, names: Sequence[str], architecture: Architecture | None = None, trackers: Sequence[str] = ()
    ) -> Observers:
        """Observers of a run: the plugins in `names`, the plugin of the run's architecture, and the `trackers`.

        The name of an architecture stands for its plugin. Raises ConfigError or PluginError for a name that is not
        available.
        """
        named = [self._watcher(name).require() for name in names]
        own = [p for p in self.plugins if architecture and architecture.config in _configs(p)]
        return Observers([*named, *own, *map(self.tracking, trackers)])

    # Within -----------------------------------------------------------------------------------------------------------

    def _watcher(self, name: str) -> Plugin:
        if plugin := self._named(name):
            return plugin
        try:
            return self.find("architecture", name).plugin
        except ConfigError:
            known = did_you_mean(name, (p.asked for p in self.plugins))
            raise ConfigError(f"There is no plugin {name!r} to observe the run. {known}") from None

    def _of(self, distribution: str | None, plugins: Iterable[Plugin]) -> list[Plugin]:
        return [p for p in plugins if distribution is None or canonical(p.entry.distribution) == distribution]

    def _named(self, name: str) -> Plugin | None:
        """Find a plugin by the name of its entry point; None if there is none.

        A blocked plugin does not hide another plugin of the same name.
        """
        distribution = _distribution(name)
        named = [p for p in self._of(distribution, self.plugins) if p.name == _plain(name)]
        rivals = [p for p in named if p.state != "blocked"] or named
        reserved = [p for p in named if p.entry.builtin]
        if distribution is None and not reserved and len(rivals) > 1:
            raise _ambiguous(f"plugin {name!r}", name, rivals)
        return next(iter(reserved or rivals), None)

    def _providers(self, kind: str, name: str, plugins: Iterable[Plugin]) -> Iterator[Found]:
        for plugin in plugins:
            value = plugin.load().provides.get(kind, {}).get(_plain(name)) if _may_supply(plugin, kind) else None
            if value is not None:
                yield Found(plugin, value)

    def _all(self, kind: str) -> list[Found]:
        supplying = [p for p in self.plugins if _may_supply(p, kind)]
        return [Found(p, value) for p in supplying for value in p.load().provides.get(kind, {}).values()]

    def _asked(self, kind: str, found: Found) -> str:
        """Name by which a value is found: its `name`, or else `distribution:name`.

        The longer form is needed if the name alone is ambiguous, or is that of another value.
        """
        try:
            plain_finds_it = self.find(kind, found.value.name).value is found.value
        except MatscaleError:
            plain_finds_it = False
        return found.value.name if plain_finds_it else f"{found.plugin.entry.distribution}:{found.value.name}"

    def _architecture(self, found: Found) -> Architecture:
        """Return the architecture with the name by which it is found.

        Each call returns the same object.
        """
        architecture: Architecture = found.value
        asked = self._asked("architecture", found)
        if asked == architecture.name:
            return architecture
        return self._renamed.setdefault(asked, replace(architecture, name=asked))

    def _unknown(self, kind: str, name: str) -> MatscaleError:
        known = [self._asked(kind, found) for found in self._all(kind)]
        silent = [p for p in self.plugins if p.state in ("failed", "incompatible", "blocked")]
        note = (
            f" Not available, for reasons that `matscale plugins list --load` gives: {_join(silent)}." if silent else ""
        )
        return ConfigError(f"There is no {kind} {name!r}. {did_you_mean(name, known)}{note}")


def _may_supply(plugin: Plugin, kind: str) -> bool:
    """Whether a plugin may supply values of a kind.

    False only for a plugin that is not imported yet, and whose source implements other hooks of matscale, but not the
    hook for this kind.
    """
    if plugin.state != "not loaded":
        return True
    hooks = declared_hooks(plugin.entry)
    # An unknown name may be a misspelt hook: such a plugin is imported, so that its error is reported.
    return not hooks or KINDS[kind].hook in hooks or any(not hasattr(hookspecs, hook) for hook in hooks)


def _plain(name: str) -> str:
    return name.rpartition(":")[2]


def _distribution(name: str) -> str | None:
    distribution, colon, _ = name.rpartition(":")
    return canonical(distribution) if colon else None


def _join(plugins: Iterable[Plugin]) -> str:
    return ", ".join(sorted({plugin.asked for plugin in plugins}))


def _ambiguous(what: str, name: str, rivals: list[Plugin]) -> PluginError:
    """Error for a name that several plugins have; `distribution:name` tells them apart unless they share a package."""
    qualified = [f"{p.entry.distribution}:{name}" for p in rivals]
    if len(set(map(canonical, qualified))) == len(qualified):
        owners = " and ".join(f"{p.entry.distribution} {p.entry.version}" for p in rivals)
        return PluginError(f"The {what} comes from {owners}. Say which one is meant: {' or '.join(qualified)}.")
    points = " and ".join(
        f"{p.name} = {p.entry.value!r} of {p.entry.distribution} {p.entry.version}" for p in rivals
    )  # fmt: skip
    advice = "Keep one of them in the pyproject.toml of the package, under [project.entry-points.matscale]"
    if len({p.entry.qualified for p in rivals}) == len(rivals):
        advice += f", or leave one out: {BLOCK}={rivals[-1].entry.qualified}"
    return PluginError(f"The {what} comes from {len(rivals)} entry points: {points}. {advice}.")


def _mark_clashes(plugins: list[Plugin]) -> None:
    """Set `clash` of each plugin whose name another distribution uses, too.

    No plugin is imported: the names are in the metadata.
    """
    for plugin in plugins:
        if plugin.entry.builtin:
            continue
        rivals = [p for p in plugins if p.name == plugin.name and p is not plugin]
        reserved = [p for p in rivals if p.entry.builtin]
        contested = [p for p in rivals if p.state != "blocked" and plugin.state != "blocked"]
        if reserved:
            plugin.clash = f"the name is that of a built-in plugin: ask for {plugin.entry.qualified}."
        elif contested:
            others = " and ".join(p.entry.distribution for p in contested)
            plugin.clash = f"{others} has a plugin of the same name: ask for {plugin.entry.qualified}."


def _configs(plugin: Plugin) -> list[type]:
    return [architecture.config for architecture in plugin.provides.get("architecture", {}).values()]


def _guarded_flops(plugin: Plugin, architecture: Architecture, config: ArchitectureConfig, shape: BatchShape) -> Any:
    """Call the hook step_flops of a plugin and return its answer.

    If the hook raises an error, it becomes a PluginError for the plugin of the architecture, and a warning for other
    plugins.
    """
    try:
        return plugin.hook.step_flops(architecture=architecture, config=config, shape=shape)
    except Exception as error:
        message = f"Plugin {plugin.describe()} raised {type(error).__name__}: {error} in its hook step_flops"
        if architecture.config in _configs(plugin):
            raise PluginError(f"{message}, for its own architecture {architecture.name!r}.") from error
        plugin.implements.remove("step_flops")
        warnings.warn(f"{message}; it is not asked again.", PluginWarning, stacklevel=4)
        return None


def _checked_flops(value: Any, source: str) -> float:
    if isinstance(value, (int, float)) and math.isfinite(value) and value >= 0:
        return float(value)
    raise PluginError(f"{source} returned {value!r}; it must return a number of FLOPs, or None.")
