"""The learning rate, weight decay and count of every tensor of a call, and which of them are refused."""

from __future__ import annotations

import math
from collections.abc import Sequence

from stepspec.rates import BEYOND_FLOAT32, Rates, host_scalar
from stepspec.settings import Settings


class Rating(Settings):
    """Looks up what the tensors of a call are updated with."""

    def _rate_after(self, highest: int) -> float:
        """Return the rate before multipliers of a call that raises counts of which this is the highest."""
        return self._rate_at(max(highest + 1, self._counts.highest, self._begin))

    def _check_rates(self, rates: Rates, indices: Sequence[int], single: Sequence[int]) -> None:
        """Refuse rates that are not finite, also in float32, which computes the tensors at `single`."""
        for k, rate in enumerate(rates.distinct):
            finite = math.isfinite(rate.lr) and math.isfinite(rate.wd)
            if finite and (self.uses_wd or rate.wd == 0):
                continue
            label = self._label(indices[rates.first(k)])
            if not finite:
                raise ValueError(f"{label}: a rate is not finite: lr = {rate.lr}, wd = {rate.wd}")
            raise ValueError(
                f"{label}: {type(self).__name__} has no weight decay, but wd is {rate.wd}; "
                "set wd or the tensor's wd_mult to 0"
            )
        if not single:
            return
        highest = max(max(rate.lr, rate.wd) for rate in rates.distinct)
        if max(highest, abs(self.rescale_grad)) < BEYOND_FLOAT32:
            return
        for position in single:
            rate = rates.distinct[rates.of[position]]
            for name, value in (("lr", rate.lr), ("wd", rate.wd), ("rescale_grad", self.rescale_grad)):
                if abs(value) >= BEYOND_FLOAT32:
                    label = self._label(indices[position])
                    raise ValueError(f"{label} is computed in float32, where {name} = {value} is infinite")

    def _check_host(self, rates: Rates, indices: Sequence[int]) -> None:
        """Compute every host scalar once, so that none fails between two writes."""
        for k, rate in enumerate(rates.distinct):
            if not (self.frozen_at_zero_rate and rate.lr == 0):
                for name in self.host:
                    host_scalar(self, name, rate, self._label(indices[rates.first(k)]))

    def _label(self, index: int) -> str:
        return self._per_tensor.label(index)
