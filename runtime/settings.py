"""The arguments of every optimizer: rates, multipliers, names and counts."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from stepspec import arguments
from stepspec.changes import Changes
from stepspec.checks import check_index
from stepspec.counts import Counts
from stepspec.exclusive import Exclusive
from stepspec.hyperparameters import Choice, Flag, Hyperparameter, number
from stepspec.kept import KeptPlans
from stepspec.rates import PerTensor

Scheduler = Callable[[int], float]


class Settings(Changes):
    """What every optimizer is given; see `stepspec.Optimizer`."""

    # of half precision without a master
    _warned = False

    wd = Hyperparameter("[0, inf)")
    rescale_grad = Hyperparameter("(-inf, inf)")
    clip_gradient = Hyperparameter("(0, inf)", default=math.inf)
    multi_precision = Flag()
    rounding = Choice("nearest", "stochastic")
    use_fused_step = Flag()
    _base_rate = Hyperparameter("[0, inf)", called="learning_rate")

    def __init__(
        self,
        learning_rate: float | None = None,
        *,
        rescale_grad: float = 1.0,
        param_idx2name: Mapping[int, str] | None = None,
        wd: float = 0.0,
        clip_gradient: float | None = None,
        lr_scheduler: Scheduler | None = None,
        begin_num_update: int = 0,
        multi_precision: bool = False,
        param_dict: Mapping[int, Any] | None = None,
        aggregate_num: float | None = None,
        use_fused_step: bool = True,
        rounding: str = "nearest",
        seed: int = 0,
        **unknown: Any,
    ) -> None:
        name = type(self).__name__
        arguments.refuse_unknown(type(self), unknown)
        self._prepare()
        self._created = {}
        self._counts = Counts()
        self._begin = arguments.count(f"{name}: begin_num_update", begin_num_update)
        self._per_tensor = PerTensor(name, arguments.names(name, param_idx2name))
        self.param_dict = param_dict if param_dict is not None else {}
        self.rescale_grad = rescale_grad
        self.wd = wd
        self.clip_gradient = clip_gradient
        self._scheduler, self._base_rate = arguments.schedule(type(self), lr_scheduler, learning_rate)
        self.multi_precision = multi_precision
        self.rounding = rounding
        self.seed = seed
        self.use_fused_step = use_fused_step
        self.aggregate_num = aggregate_num

    # ------------------------------------------------------------------ rates

    @property
    def learning_rate(self) -> float:
        """The rate at the current number of updates, before multipliers."""
        return self._rate_at(self.num_update)

    @learning_rate.setter
    def learning_rate(self, value: float) -> None:
        self.set_learning_rate(value)

    def set_learning_rate(self, lr: float) -> None:
        """Set the learning rate; ValueError if a scheduler decides it."""
        if self._scheduler is not None:
            raise ValueError(
                f"{type(self).__name__}: the lr_scheduler decides the learning rate; "
                "set opt.lr_scheduler = None before setting it by hand"
            )
        self._base_rate = lr

    @property
    def lr_scheduler(self) -> Scheduler | None:
        """The scheduler in use: with an overridden base rate it is a copy of the one that was given."""
        return self._scheduler

    @lr_scheduler.setter
    def lr_scheduler(self, scheduler: Scheduler | None) -> None:
        arguments.check_scheduler(type(self).__name__, scheduler)
        self._scheduler = scheduler

    @property
    def num_update(self) -> int:
        """The largest update count of any tensor so far, at least `begin_num_update`."""
        highest = self._counts.highest
        return self._begin if highest < 0 else highest

    @property
    def begin_num_update(self) -> int:
        """The update count every tensor starts from."""
        return self._begin

    def update_count(self, index: int) -> int:
        """Return how many updates a tensor has had, `begin_num_update` included."""
        return self._counts.get(check_index(index), self._begin)

    @property
    def lr_mult(self) -> Mapping[int | str, float]:
        """Factors of the learning rate by index or name."""
        return MappingProxyType(self._per_tensor.lr_mult)

    @property
    def wd_mult(self) -> Mapping[int | str, float]:
        """Factors of the weight decay by index or name."""
        return MappingProxyType(self._per_tensor.wd_mult)

    def set_lr_mult(self, args_lr_mult: Mapping[int | str, float]) -> None:
        """Replace the factors of the learning rate: index or name to a number >= 0.

        For each tensor its `param_dict` object decides, else the index, else the name, else it is 1.
        """
        self._per_tensor.lr_mult = arguments.multipliers(f"{type(self).__name__}: lr_mult", args_lr_mult)
        self._new_version(tensors=True)

    def set_wd_mult(self, args_wd_mult: Mapping[int | str, float]) -> None:
        """Replace the factors of the weight decay; as `set_lr_mult`."""
        self._per_tensor.wd_mult = arguments.multipliers(f"{type(self).__name__}: wd_mult", args_wd_mult)
        self._new_version(tensors=True)

    @property
    def param_dict(self) -> Mapping[int, Any]:
        """Objects by index whose `lr_mult`, `wd_mult` and flags come before all others; read at each call."""
        return self._per_tensor.objects

    @param_dict.setter
    def param_dict(self, objects: Mapping[int, Any]) -> None:
        arguments.check_mapping(f"{type(self).__name__}: param_dict", objects)
        self._per_tensor.objects = objects
        self._new_version(tensors=True)

    @property
    def param_idx2name(self) -> Mapping[int, str]:
        """Names of tensors by index."""
        return MappingProxyType(self._per_tensor.names)

    @param_idx2name.setter
    def param_idx2name(self, names: Mapping[int, str]) -> None:
        self._per_tensor.names = arguments.names(type(self).__name__, names)
        self._plans.clear()
        self._new_version(tensors=True)

    @property
    def aggregate_num(self) -> float | None:
        """Tensors per launch; None and inf: all."""
        return self._aggregate_num

    @aggregate_num.setter
    def aggregate_num(self, value: float | None) -> None:
        self._aggregate_num = arguments.aggregate(f"{type(self).__name__}: aggregate_num", value)

    @property
    def seed(self) -> int:
        """What all noise is drawn from, together with a tensor's name and update count."""
        return self._seed

    @seed.setter
    def seed(self, value: int) -> None:
        self._seed = arguments.seed(f"{type(self).__name__}: seed", value)
        self._new_version()

    def _check_combinations(self) -> None:
        name = type(self).__name__
        if self.rounding == "stochastic" and self.multi_precision:
            raise ValueError(
                f"{name}: rounding = 'stochastic' excludes multi_precision: a weight with a master is its "
                "rounded master; choose one of them"
            )
        if self._lazy and self.multi_precision:
            raise ValueError(f"{name}: lazy_update excludes multi_precision; switch one of them off")
        if self._lazy and not self.use_fused_step:
            raise ValueError(
                f"{name}: lazy_update needs use_fused_step=True: `step` has no lazy form; "
                "switch lazy_update off"
            )

    def _rate_at(self, num_update: int) -> float:
        """Return the learning rate before multipliers; ValueError if the scheduler gives none."""
        if self._scheduler is None:
            rate: float = self.__dict__["_base_rate"]  # quicker than the attribute
            return rate
        label = f"{type(self).__name__}: the lr_scheduler's rate for update {num_update}"
        rate = number(label, self._scheduler(num_update))
        if not 0 <= rate < math.inf:
            raise ValueError(f"{label} must be finite and >= 0, not {rate}")
        return rate

    # ------------------------------------------------------------------ copies

    def __getstate__(self) -> dict[str, Any]:
        """Return what pickling and copying take along: its own counts and names, no plans and no lock."""
        own = {
            "_counts": self._counts.copy(),
            "_created": dict(self._created),
            "_per_tensor": replace(self._per_tensor),
        }
        return {name: value for name, value in (self.__dict__ | own).items() if name not in _MADE_ANEW}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._prepare()

    def _prepare(self) -> None:
        self._plans = KeptPlans()
        self._exclusive = Exclusive()


# plans and the lock: no copy takes them along
_MADE_ANEW = ("_plans", "_exclusive")
