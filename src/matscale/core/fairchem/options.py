"""Options of a model of fairchem, by our names: nothing that changes a number is passed over."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from matscale.core.errors import ConfigError


def renamed(
    what: str,
    given: Mapping[str, Any],
    names: Mapping[str, str],
    *,
    only: Mapping[str, tuple[Any, ...]],
    without_effect: Collection[str],
) -> dict[str, Any]:
    """Values of `given` under our `names`; None stands for left out.

    `only`: the values that options without a name of ours may have. Raises ConfigError that names `what`, the option
    and its value, if it has another value or is in none of the three.

    >>> renamed("net", {"channels": 8, "otf": True}, {"channels": "width"}, only={}, without_effect={"otf"})
    {'width': 8}
    """
    found: dict[str, Any] = {}
    for key, value in given.items():
        if key in names:
            found |= {names[key]: value} if value is not None else {}
        elif key in only:
            if not any(value == known and isinstance(value, bool) == isinstance(known, bool) for known in only[key]):
                raise ConfigError(f"{key} = {value!r}: {what} has only {only[key][-1]!r}. Such a model cannot be read.")
        elif key not in without_effect:
            raise ConfigError(f"unknown option {key} = {value!r} of {what}.")
    return found
