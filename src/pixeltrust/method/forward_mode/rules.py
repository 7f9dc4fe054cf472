"""What a rule is, and what rules are written with.

A rule is a generator with the signature of its function, which comes first. Arguments that have a tangent come as `Dual`. It yields the
value, recorded if the pass is, and then, no longer recorded, the tangent.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves, tree_map


class CannotTrace(Exception):
    """The tangents of this pass cannot be followed operation by operation; says what was met."""


class Dual(NamedTuple):
    """A value and its tangent of the same shape and dtype; a tangent of None is zero."""

    value: Any
    tangent: Any


Rule: TypeAlias = Callable[..., Iterator[Any]]


class Rules(dict[Any, Rule]):
    """A rule by function."""

    def for_(self, *names: str) -> Callable[[Rule], Rule]:
        """The rule below is for the functions and methods of these names, wherever torch has them."""

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


def tangent_or_zeros(value: Any) -> Tensor:
    return value.tangent if isinstance(value, Dual) else torch.zeros_like(value)


def scale_tangent(tangent: Tensor | None, factor: float) -> Tensor | None:
    return tangent if tangent is None or factor == 1 else tangent * factor


def add_tangents(*tangents: Tensor | None) -> Tensor | None:
    """Of those that are not zero."""
    add_tangents = None
    for tangent in tangents:
        if tangent is not None:
            add_tangents = tangent if add_tangents is None else add_tangents + tangent
    return add_tangents
