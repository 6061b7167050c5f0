"""Import a plugin safely: an import that fails in any way gives the plugin a state and a reason.

Each plugin has its own pluggy manager. Therefore a failed import leaves nothing behind, and a hook can be called for
one plugin alone.
"""

from __future__ import annotations

import re
import sys
import traceback
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, Literal

import pluggy

from matscale.core import hookspecs
from matscale.core.errors import PluginError, did_you_mean
from matscale.core.hosting.catalogue import GROUP, Entry, canonical, declared_hooks
from matscale.core.hosting.provided import collect
from matscale.core.hosting.requirements import conflicts
from matscale.version import API_VERSION, __version__

Status = Literal["not loaded", "ok", "failed", "incompatible", "blocked", "clash"]


class IncompatiblePluginError(PluginError):
    """Error for a plugin that was written for another version of the plugin interface."""


@dataclass
class Plugin:
    """Plugin: its entry point, whether it is loaded, and what it supplies."""

    entry: Entry
    state: Literal["not loaded", "ok", "failed", "incompatible", "blocked"] = "not loaded"
    trouble: str = ""
    """Reason why the plugin cannot be used; empty if there is none."""
    clash: str = ""
    """Reason why the name alone does not refer to this plugin; empty if it does.

    Such a plugin is still found as `distribution:name`.
    """
    error: BaseException | None = None
    """Exception that was raised when the plugin was imported, with its traceback."""
    api: tuple[int, int] | None = None
    """API_VERSION that the plugin states; None if it states none or is not loaded."""
    implements: list[str] = field(default_factory=list)
    provides: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Values that the plugin supplies, by kind and then by name."""
    hook: Any = None
    """Object of pluggy with a method for each hook of this plugin; None before the plugin is loaded."""

    @property
    def name(self) -> str:
        return self.entry.name

    @property
    def status(self) -> Status:
        return "clash" if self.clash and self.state in ("ok", "not loaded") else self.state

    @property
    def reason(self) -> str:
        return self.trouble or self.clash

    @property
    def hooks(self) -> list[str]:
        """Names of the hooks that the plugin implements. Before it is loaded, they are found in its source."""
        return self.implements or declared_hooks(self.entry) or []

    @property
    def asked(self) -> str:
        """Name by which this plugin is found: `name`, or `distribution:name` if the name is ambiguous."""
        return self.entry.qualified if self.clash else self.name

    def describe(self) -> str:
        """Name, distribution and version, as a text for messages."""
        return f"{self.name!r} ({self.entry.distribution} {self.entry.version})"

    @property
    def title(self) -> str:
        """Text for messages: the word `Plugin`, then name, distribution and version."""
        return f"Plugin {self.describe()}"

    def load(self) -> Plugin:
        """Import the plugin, check it and collect what it supplies, at the first call only.

        An error is not raised, but stored in `trouble` and `error`; only KeyboardInterrupt is raised.
        """
        if self.state == "not loaded":
            try:
                with redirect_stdout(sys.stderr):  # prints of a plugin must not mix with results of a command
                    self._load()
                self.state = "ok"
            except (Exception, SystemExit) as error:  # a plugin must not end the process; signals must pass
                self.state = "incompatible" if isinstance(error, IncompatiblePluginError) else "failed"
                self.trouble, self.error = explain(error, self.entry), error
                self.implements, self.provides, self.hook = [], {}, None
        return self

    def _load(self) -> None:
        if self.entry.fault:
            raise PluginError(self.entry.fault)
        plugin = EntryPoint(self.entry.name, self.entry.value, GROUP).load()
        self.api = stated_api(plugin, self.entry)
        manager = pluggy.PluginManager(GROUP)
        manager.add_hookspecs(hookspecs)
        known = set(vars(manager.hook))
        manager.register(plugin, self.entry.qualified)
        self.implements = sorted(caller.name for caller in manager.get_hookcallers(plugin) or ())
        refuse_unknown_hooks(manager, known)
        self.hook = manager.hook
        self.provides = collect(manager.hook, self.implements)

    def require(self) -> Plugin:
        """Load the plugin, because it was requested by name.

        Raises PluginError if it cannot be used, with the reason and advice.
        """
        self.load()
        if self.state == "ok":
            return self
        advice = f" `matscale plugins check {self.asked}` shows the traceback." if self.state == "failed" else ""
        raise PluginError(self.complaint() + advice) from self.error

    def complaint(self) -> str:
        """Sentence for messages that says why the plugin cannot be used."""
        verb = {"blocked": "is blocked", "incompatible": "does not fit this matscale"}.get(self.state, "cannot be used")
        return f"{self.title} {verb}: {self.trouble}"


def stated_api(plugin: Any, entry: Entry) -> tuple[int, int] | None:
    """Read the API_VERSION that a plugin states; None if it states none.

    Raises IncompatiblePluginError if this matscale does not support the version.
    """
    stated = getattr(plugin, "API_VERSION", getattr(sys.modules.get(entry.module), "API_VERSION", None))
    if stated is None:
        return None
    ours = "{}.{}".format(*API_VERSION)
    if not (isinstance(stated, (tuple, list)) and len(stated) == 2 and all(type(part) is int for part in stated)):
        raise IncompatiblePluginError(f"it states API_VERSION = {stated!r}, which is not a pair such as {API_VERSION}.")
    major, minor = stated
    if major == API_VERSION[0] and minor <= API_VERSION[1]:
        return major, minor
    newer = (major, minor) > API_VERSION
    cure = "upgrade matscale" if newer else f"look for a newer {entry.distribution}"
    raise IncompatiblePluginError(
        f"it was written for plugin interface {major}.{minor}; matscale {__version__} has {ours}. "
        f"Either {cure}, or install a version of {entry.distribution} that was made for {ours}."
    )


def refuse_unknown_hooks(manager: pluggy.PluginManager, known: set[str]) -> None:
    """Raises PluginError if a plugin implements an unknown hook, or a hook wrapper.

    The message suggests the nearest known hook. Wrappers are not supported, since plugins are called one at a time.
    """
    try:
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        unknown = sorted(set(vars(manager.hook)) - known)
        if not unknown:
            raise
        raise PluginError(
            f"it implements an unknown hook, {unknown[0]!r}. {did_you_mean(unknown[0], known)}"
        ) from error
    for caller in vars(manager.hook).values():
        if any(impl.wrapper or impl.hookwrapper for impl in caller.get_hookimpls()):
            raise PluginError(
                f"its {caller.name} is a hook wrapper, but plugins are called one at a time. Return a value instead."
            )


def explain(error: BaseException, entry: Entry) -> str:
    """Explain an error of a plugin in a sentence or two.

    The text says where the error was raised, what to install, and which installed versions do not fit.
    """
    return " ".join(filter(None, [_raised(error, entry), conflicts(entry)]))


def _raised(error: BaseException, entry: Entry) -> str:
    if isinstance(error, PluginError):
        return str(error)
    text = " ".join(str(error).split())
    raised = f"{type(error).__name__}: {text}" if text else type(error).__name__
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"{raised}. {install_hint(error.name, entry)}"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not _is_machinery(Path(f.filename))]
    return f"it raised {raised}" + "".join(f" at {frame.filename}:{frame.lineno}" for frame in frames[-1:]) + "."


def install_hint(missing: str, entry: Entry) -> str:
    """Advice on what to install if a module that a plugin needs is missing."""
    if f"{entry.module}.".startswith(f"{missing}."):
        return f"The installation of {entry.distribution} is incomplete or out of date: install it again."
    for requirement in entry.requires:
        name = re.match(r"[\w.-]+", requirement)
        extra = re.search(r"""extra\s*==\s*['"]([\w.-]+)['"]""", requirement)
        if name and canonical(name.group()) == canonical(missing.partition(".")[0]):
            wanted = f"{entry.distribution}[{extra.group(1)}]" if extra else requirement.partition(";")[0].strip()
            return f'Install what it needs: pip install "{wanted}".'
    return f"Install what it needs: pip install {missing.partition('.')[0]} (or see the page of {entry.distribution})."


def plugin_traceback(error: BaseException) -> str:
    """Traceback of an error, from the first line of the plugin on: without matscale's and importlib's lines."""
    tb = error.__traceback__
    while tb is not None and _is_machinery(Path(tb.tb_frame.f_code.co_filename)):
        tb = tb.tb_next
    return "".join(traceback.format_exception(type(error), error, tb))


def _is_machinery(file: Path) -> bool:
    return (
        file.parent == Path(__file__).parent
        or "<frozen" in str(file)
        or not {"importlib", "pluggy"}.isdisjoint(file.parts)
    )
