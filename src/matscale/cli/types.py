"""Types of command-line values: counts such as 30k or 1M, and names that are completed without importing torch."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from matscale.core.data.sources.limits import Limits, using
from matscale.core.units import parse_count, parse_parameters

if TYPE_CHECKING:
    from matscale.core.hosting.loading import Plugin

    ParamType = click.ParamType[Any]
else:
    ParamType = click.ParamType  # takes no parameter before click 8.5


class ParameterCount(ParamType):
    """Type of numbers of parameters: `1M`, `30k`, `1.5B`, `2.5e6`, `12000`."""

    name = "count"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            return parse_parameters(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class CountOrAuto(ParamType):
    """Option type: a whole number of `things` above 0, or the word auto, which the argument `auto` explains."""

    name = "N|auto"

    def __init__(self, things: str, auto: str) -> None:
        self.things, self.auto = things, auto

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        if value == "auto" or (isinstance(value, int) and value > 0):
            return value
        if not (isinstance(value, str) and value.isdecimal() and int(value) > 0):
            self.fail(
                f"{value!r} is not a number of {self.things}. Write for example 4, or auto: {self.auto}.", param, ctx
            )
        return int(value)


class PartOf(ParamType):
    """Type of one of several parts: `3/8` is the third of eight."""

    name = "i/n"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        first, _, of = str(value).partition("/")
        if not (first.isdecimal() and of.isdecimal() and 1 <= int(first) <= int(of)):
            self.fail(f"{value!r} is no part. Write for example 3/8 for the third of eight.", param, ctx)
        return int(first), int(of)


class Amount(ParamType):
    """Type of positive amounts of FLOPs, structures and the like: `1e18`, `50P`, `30k`."""

    name = "amount"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            amount = float(parse_count(value))
        except (ValueError, OverflowError):
            amount = 0.0
        if not 0 < amount < float("inf"):
            self.fail(f"{value!r} is not an amount. Write for example 1e18, 50P, 30k or 12000.", param, ctx)
        return amount


class CommaSeparated(ParamType):
    """Type of several values of another type, separated by commas: `3k,10k,30k`."""

    name = "list"

    def __init__(self, of: ParamType) -> None:
        self.of = of

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[object, ...]:
        parts = str(value).split(",") if isinstance(value, str) else list(value)  # type: ignore[call-overload]
        return tuple(self.of.convert(part.strip() if isinstance(part, str) else part, param, ctx) for part in parts)


class PluginName(ParamType):
    """Type of names that plugins supply.

    Completion reads only metadata and source text, so that torch is not loaded.
    """

    def __init__(self, hook: str = "", metavar: str = "name") -> None:
        """Set up the type; if `hook` is given, completion offers only plugins with this hook."""
        self.hook = hook
        self.name = metavar

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from matscale.core.hosting.catalogue import declared_hooks  # start-up: packaging
        from matscale.core.hosting.host import host

        def offers(plugin: Plugin) -> bool:
            hooks = declared_hooks(plugin.entry)
            return not self.hook or hooks is None or self.hook in hooks

        plugins = [p for p in host().plugins if p.state != "blocked" and p.asked.startswith(incomplete) and offers(p)]
        return [CompletionItem(plugin.asked, help=plugin.entry.distribution) for plugin in plugins]


class LimitSetting(ParamType):
    """Type of one limit on input, as text such as `memory=8GiB`; `_set_limits` combines all limits that are given."""

    name = "limit"

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return "NAME=VALUE"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:

        return [CompletionItem(f"{f.name}=") for f in fields(Limits) if f.name.startswith(incomplete)]


def _set_limits(ctx: click.Context, param: click.Parameter, given: tuple[str, ...]) -> None:
    """Set the given limits while the command runs."""
    if given:
        ctx.with_resource(using(Limits.parse(given)))


limit_option = click.option(
    "--limit", multiple=True, type=LimitSetting(), expose_value=False, callback=_set_limits,
    help="Limit on input: structure, atoms, structures, memory, seconds, expansion, unpacked or members.",
)  # fmt: skip
"""Option `--limit` of commands that read structures or archives. The limits hold while the command runs."""


ArchitectureName = PluginName("register_architectures", "architecture")
"""Type of `--arch` and of an argument that names an architecture."""
TrackerName = PluginName("register_trackers", "tracker")
"""Type of `--track`."""


class Pairs(ParamType):
    """Type of pairs of values: `a=b,c=d`."""

    name = "key=value"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> dict[str, str]:
        if isinstance(value, dict):
            return value
        found = {}
        for part in str(value).split(","):
            key, equals, text = part.partition("=")
            if not (key.strip() and equals and text.strip()):
                self.fail(f"{part!r} is not a pair NAME=VALUE. Write for example n=params,loss=val_loss.", param, ctx)
            found[key.strip()] = text.strip()
        return found
