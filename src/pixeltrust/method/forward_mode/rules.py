"""The form of a rule, and the pieces that rules are made of.

A rule is a generator with the arguments of its function, after the function itself. Arguments that have a tangent are a `Dual`. It yields
the value, recorded if the pass is, and then, no longer recorded, the tangent.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves, tree_map


class CannotTrace(Exception):
    """An operation through which tangents cannot be traced; names it."""


class Dual(NamedTuple):
    """A value and its tangent of the same shape and dtype; a tangent of None is zero."""

    value: Any
    tangent: Any


Rule: TypeAlias = Callable[..., Iterator[Any]]


class Rules(dict[Any, Rule]):
    """A table of rules by function."""

    def for_(self, *names: str) -> Callable[[Rule], Rule]:
        """Register the rule below for the functions and methods of these names, wherever torch has them."""

        def enter(rule: Rule) -> Rule:
            places = (torch, Tensor, F)
            self.update({getattr(place, name): rule for place in places for name in names if hasattr(place, name)})
            return rule

        return enter


def is_dual(value: Any) -> bool:
    return isinstance(value, Dual)


def has_dual(*values: Any) -> bool:
    return any(map(is_dual, tree_leaves(values, is_leaf=is_dual)))


def value_of(value: Any) -> Any:
    return value.value if isinstance(value, Dual) else value


def values_of(values: Any) -> Any:
    return tree_map(value_of, values, is_leaf=is_dual)


def tangent_of(value: Any) -> Any:
    return value.tangent if isinstance(value, Dual) else None


def scale_tangent(tangent: Tensor | None, factor: float) -> Tensor | None:
    return tangent if tangent is None or factor == 1 else tangent * factor


def add_tangents(*tangents: Tensor | None) -> Tensor | None:
    """Return the sum of the tangents that are not None, None if there are none."""
    total = None
    for tangent in tangents:
        if tangent is not None:
            total = tangent if total is None else total + tangent
    return total
