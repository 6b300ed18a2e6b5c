"""Errors as one line. Of an error in settings it says what was given, and what is allowed."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, TypeGuard, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError


def first_line(error: object) -> str:
    """Return the first line of an error's message, with its type where the message alone would not explain it."""
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    return f"{type(error).__name__}: {text}" if isinstance(error, LookupError | AttributeError | NameError) else text


def no_data(path: Path, kind: Literal["folder", "file"]) -> str:
    """Return one line about a ``path`` of data where there is nothing, such as that of a study from another folder.

    Args:
        path: The path that was given.
        kind: What it should be.
    """
    source = {"folder": "folder:PATH", "file": "numpy:FILE.npz"}[kind]
    fixed = path.expanduser().is_absolute()
    where = "" if fixed else f" in {Path.cwd()}; go to the folder where it is"
    then = "; name yours" if fixed else ", or name yours"
    return f"{path}: no such {kind}{where}{then}, as in --data {source} (for dropopt train: --set data.name={source})"


def explain(error: ValidationError, model: type[BaseModel], values: Any, *, short: Iterable[str] = ()) -> str:
    """Return one line about the first error in ``values``: what was given and what is allowed.

    Args:
        error: What pydantic raised.
        model: The model that refused ``values``.
        values: What was given.
        short: Names that may be given besides the fields of ``model``, since they stand for other settings.
    """
    # An unknown key is the likelier cause of a missing one.
    first = min(error.errors(), key=lambda one: one["type"] == "missing")
    if first["type"] == "value_error":
        return str(first["ctx"]["error"])
    if first["type"] == "missing":
        return f"{'.'.join(map(str, first['loc']))} is required"
    owner, given, path = model, values, []
    for part in first["loc"]:
        path.append(str(part))
        field = owner.model_fields.get(str(part))
        if field is None:  # unknown key
            inside = (f"it is a setting of {section}; " for section in _sections_with(str(part), owner))
            known = [*owner.model_fields, *(short if owner is model else ())]
            return f"unknown setting {'.'.join(path)!r}; {next(inside, '')}{suggestion(str(part), known)}"
        if not _is_section(field.annotation):
            return f"{'.'.join(path)} must be {allowed(owner, str(part))}, got {given[part]!r}"
        owner, given = field.annotation, given[part]
    such = f", such as {{'name': {given!r}}}" if isinstance(given, str) and "name" in owner.model_fields else ""
    return f"{'.'.join(path) or model.__name__} must be a mapping of settings{such}, got {given!r}"


def _sections_with(name: str, owner: type[BaseModel]) -> list[str]:
    """Return the fields of ``owner`` that are sections with a setting ``name``."""
    fields = owner.model_fields.items()
    return [key for key, field in fields if _is_section(field.annotation) and name in field.annotation.model_fields]


def _is_section(annotation: Any) -> TypeGuard[type[BaseModel]]:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return ``did you mean 'alpha'? known: ...`` for a misspelt ``name``."""
    known = list(known)
    folded = {one.casefold(): one for one in known}
    close = difflib.get_close_matches(name.casefold(), folded, n=1)
    return (f"did you mean {folded[close[0]]!r}? " if close else "") + "known: " + (", ".join(known) or "none")


def allowed(model: type[BaseModel], name: str) -> str:
    """Return what the setting ``name`` of ``model`` may be, in words: ``in [0, 1]``, ``one of a, b``."""
    field = model.model_fields[name]
    return _words(field.annotation, field.metadata)


_Bound = tuple[float, str] | None


def _range(metadata: Iterable[Any]) -> tuple[_Bound, _Bound]:
    """Return (lowest, '[' or '(') and (highest, ']' or ')') of pydantic's constraints; None where unbounded."""
    low: _Bound = None
    high: _Bound = None
    for item in metadata:
        for rule in getattr(item, "metadata", [item]):  # a nested Field keeps its rules inside
            low = (rule.ge, "[") if hasattr(rule, "ge") else (rule.gt, "(") if hasattr(rule, "gt") else low
            high = (rule.le, "]") if hasattr(rule, "le") else (rule.lt, ")") if hasattr(rule, "lt") else high
    return low, high


def _words(annotation: Any, metadata: Iterable[Any] = ()) -> str:
    origin = get_origin(annotation)
    if origin is Annotated:
        return _words(annotation.__origin__, annotation.__metadata__)
    if origin is Literal:
        values = [str(value) for value in get_args(annotation)]
        return values[0] if len(values) == 1 else "one of " + ", ".join(values)
    if origin in (Union, UnionType):
        return " or ".join(_words(arm) for arm in get_args(annotation))
    if origin is tuple:
        arms = get_args(annotation)
        return f"a list, each {_words(arms[0])}" if arms[-1] is ... else f"{len(arms)} of them, each {_words(arms[0])}"
    if annotation in (int, float):
        low, high = _range(metadata)
        kind = "an integer" if annotation is int else "a number"
        if low and high:
            return ("an integer " if annotation is int else "") + f"in {low[1]}{low[0]:g}, {high[0]:g}{high[1]}"
        if low:
            return f"{kind} {'>=' if low[1] == '[' else '>'} {low[0]:g}"
        return f"{kind} {'<=' if high[1] == ']' else '<'} {high[0]:g}" if high else f"a finite {kind[2:].lstrip()}"
    if annotation is str and metadata:
        ends = ("min_length", "max_length")
        least, most = (next(getattr(rule, end) for rule in metadata if hasattr(rule, end)) for end in ends)
        return f"text of {least} to {most} characters"
    return {bool: "true or false", str: "text", type(None): "nothing"}.get(annotation, "a mapping")
