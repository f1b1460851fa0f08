"""Options of registered functions: their keyword-only parameters, typed and with defaults."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from collabedit.errors import InputError

__all__ = ["checked_options", "declared_options", "parse_options", "summary_of"]

#: Types of options: those that the command line and a delta's metadata can write.
_KINDS = (int, float, bool, str)


def declared_options(
    name: str, function: Callable[..., Any], context: frozenset[str] = frozenset()
) -> dict[str, Any]:
    """The options of a function with their defaults.

    Args:
        name: the function's registered name.
        function: the function.
        context: keyword-only parameters that are not options.

    Raises:
        TypeError: when an option has no default or is not annotated as one of int, float, bool and
            str.
    """
    kinds = get_type_hints(function)
    options = {}
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is not parameter.KEYWORD_ONLY or parameter.name in context:
            continue
        if kinds.get(parameter.name) not in _KINDS or parameter.default is parameter.empty:
            raise TypeError(
                f"{name}: declare the option {parameter.name} with a default and one of the types "
                f"{', '.join(kind.__name__ for kind in _KINDS)}, such as "
                f"{parameter.name}: float = 1.0"
            )
        options[parameter.name] = parameter.default
    return options


def checked_options(
    name: str,
    function: Callable[..., Any],
    defaults: Mapping[str, Any],
    given: Mapping[str, Any],
) -> dict[str, Any]:
    """The options with defaults filled in, each of the type that the function declares.

    Args:
        name: the function's registered name.
        function: the function.
        defaults: of its options.
        given: values, or texts from the command line.

    Raises:
        InputError: when an option is not one of the function's, or not of its type.
    """
    unknown = sorted(set(given) - set(defaults))
    if unknown:
        known = ", ".join(defaults) or "none"
        raise InputError(f"{name} has no option {unknown[0]!r}; its options: {known}")
    kinds = get_type_hints(function)
    return {
        **defaults,
        **{
            key: _converted(name, key, value, kinds[key], defaults[key])
            for key, value in given.items()
        },
    }


def _converted(name: str, key: str, value: Any, kind: type, default: Any) -> Any:
    try:
        converted: object = TypeAdapter(kind).validate_python(value)
    except ValidationError:
        raise InputError(
            f"{name}: {key} must be of type {kind.__name__}, found {value!r}; "
            f"write it like {key}={default}"
        ) from None
    if isinstance(converted, float) and not math.isfinite(converted):
        raise InputError(f"{name}: {key} must be finite, found {value!r}")
    return converted


def parse_options(pairs: list[str], where: str) -> dict[str, str]:
    """Options from texts such as ``keep=0.1``.

    Args:
        pairs: the texts.
        where: their origin in error messages, such as ``--option``.

    Raises:
        InputError: when a text is not such a pair.
    """
    options = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not value:
            raise InputError(f"{where}: cannot read {pair!r}; write it like keep=0.1")
        options[name.strip()] = value.strip()
    return options


def summary_of(function: Callable[..., Any]) -> str:
    """First line of a function's documentation."""
    return (inspect.getdoc(function) or "").partition("\n")[0]
