"""What the compiler tells the runtime of a rule: generated classes fill it in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from stepspec.rates import HostScalar, Rate
from stepspec.states import Layout, TensorFlag, Variant


class Rule:
    """The parts of an optimizer that its spec decides.

    Attributes
    ----------
    rule
        The update rule as text: what a checkpoint compares.
    flags
        The switches of single tensors.
    host
        The scalars that the host computes for kernels, by name.
    requirements
        Conditions across hyperparameters, by their text.
    uses_wd
        Whether weight decay is part of the rule; where not, a non-zero one is refused.
    draws_noise
        Whether the rule has noise, by seed.
    frozen_at_zero_rate
        Whether a learning rate of 0 leaves a tensor alone, as the rule divides by it.
    refuses_empty
        Whether the rule takes a maximum, which an empty tensor does not have.

    """

    rule: ClassVar[str] = ""
    flags: ClassVar[Mapping[str, TensorFlag]] = {}
    host: ClassVar[Mapping[str, HostScalar]] = {}
    requirements: ClassVar[Mapping[str, Callable[[Any], bool]]] = {}
    uses_wd: ClassVar[bool] = True
    draws_noise: ClassVar[bool] = False
    frozen_at_zero_rate: ClassVar[bool] = False
    refuses_empty: ClassVar[bool] = False

    def _layout(self, flags: Mapping[str, bool], ndim: int) -> Layout:
        """Return the states that a tensor with these flags and dimensions keeps."""
        return {}

    def _variant(self, flags: Mapping[str, bool], ndim: int) -> Variant:
        """Return the truth of the rule's static conditions."""
        return ()

    @property
    def _lazy(self) -> bool:
        """Whether rows without gradient are left alone: a switch of rules for which that has a meaning."""
        return bool(self.__dict__.get("lazy_update", False))

    def _lazy_is_exact(self, p: Rate, flags: Mapping[str, bool], ndim: int, dtype: Any) -> bool:
        """Tell whether rows without gradient stay as they are, by a proof; `dtype` is the compute dtype."""
        return False
