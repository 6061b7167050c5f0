"""Arguments of public functions and options: wrong names raise errors that suggest the nearest valid name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from functools import wraps
from typing import ParamSpec, TypeVar

from matscale.core.errors import ConfigError, did_you_mean

P = ParamSpec("P")
R = TypeVar("R")


def checked(function: Callable[P, R], name: str) -> Callable[P, R]:
    """Wrap a function, so that wrong arguments raise ConfigError in place of TypeError.

    `name` is the public name of the function, for messages.

    >>> from matscale.core.errors import ConfigError
    >>> def area(width, height=1.0): return width * height
    >>> try: checked(area, "matscale.area")(2.0, heigth=3.0)
    ... except ConfigError as error: print(error)
    matscale.area has no argument 'heigth'. Did you mean 'height'? Known: height, width.
    """
    signature = inspect.signature(function)
    known = [p.name for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            signature.bind(*args, **kwargs)
        except TypeError as error:
            unknown = next((key for key in kwargs if key not in known), None)
            if unknown is None:
                raise ConfigError(f"{name}: {error}. Arguments: {', '.join(known)}.") from None
            raise ConfigError(f"{name} has no argument {unknown!r}. {did_you_mean(unknown, known)}") from None
        return function(*args, **kwargs)

    call.__module__, _, call.__qualname__ = name.rpartition(".")  # so that it can be pickled by its public name
    return call


def assigned(text: str, option: str, form: str, example: str, word: str, known: Iterable[str]) -> tuple[str, str]:
    """Split a text such as NAME=VALUE, given to the command-line option `option`, into name and value.

    Raises ConfigError for a text without a value, with the expected `form` and an `example`. Raises ConfigError for a
    name that is not in `known`, and suggests the nearest one; `word` says what the names stand for.

    >>> assigned("memory = 8GiB", "--limit", "NAME=VALUE", "memory=8GiB", "limit", ["memory", "seconds"])
    ('memory', '8GiB')
    """
    name, _, value = (part.strip() for part in text.partition("="))
    if not value:
        raise ConfigError(f"{option} {text}: expected {form}, for example {option} {example}.")
    if name not in known:
        raise ConfigError(f"{option} {text}: no {word} {name!r}. {did_you_mean(name, known)}")
    return name, value
