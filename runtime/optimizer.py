"""The base class of all optimizers: states and updates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from stepspec.checks import check_index, check_weight
from stepspec.formats import is_half
from stepspec.places import copied
from stepspec.sparse import RowSparse
from stepspec.states import Array
from stepspec.steps import Steps

if TYPE_CHECKING:
    from stepspec.overview import Overview


class Optimizer(Steps):
    """Base of all optimizers.

    Parameters
    ----------
    learning_rate : float in [0, inf) or None
        None takes the scheduler's base rate, or 0.01 without one. A number overrides the scheduler's base.
    rescale_grad : float
        Factor of every gradient; any finite number.
    param_idx2name : dict of int to str, optional
        Names of tensors, for multipliers, flags and messages.
    wd : float in [0, inf)
        Weight decay.
    clip_gradient : float in (0, inf), optional
        Bound of every rescaled gradient element; None (read as inf) is off.
    lr_scheduler : callable, optional
        From the number of updates to a learning rate; those of `stepspec.lr_scheduler` have a base rate.
    begin_num_update : int
        The update count every tensor starts from.
    multi_precision : bool
        Keep float32 masters of half precision weights, with states in float32; other weights need none.
    param_dict : dict of int to object, optional
        Objects whose attributes `lr_mult`, `wd_mult` and flags decide for the tensor of that index.
    aggregate_num : int or inf, optional
        Tensors per launch; None and inf: all. Results do not depend on it.
    use_fused_step : bool
        Whether `update` takes `fused_step` (compiled) or `step` (NumPy). They give the same bits.
    rounding : {"nearest", "stochastic"}
        How weights in half precision without a master are rounded. Stochastic rounding is unbiased: a small
        update moves the weight with a probability, where rounding to nearest would lose it.
    seed : int in [0, 2**64)
        Decides all noise, the rule's and that of stochastic rounding, together with a tensor's name (or else
        its index), its update count and the element's position; nothing else does.

    Raises
    ------
    TypeError
        For an unknown argument or one of a wrong type.
    ValueError
        For a value out of its range.

    """

    def create_state(self, index: int, weight: Array) -> dict[str, Array]:
        """Return the states of one tensor before its first update, by name; {} if it keeps none.

        They lie where the weight does: on a GPU they are arrays of the same library, on the same device.

        Raises
        ------
        TypeError
            If `weight` is no array of float16, bfloat16, float32 or float64, NumPy's or on a GPU.

        Warns
        -----
        UserWarning
            Once, for a weight in half precision without a master that is rounded to nearest.

        """
        return self._create_state(index, weight)

    def create_state_multi_precision(self, index: int, weight: Array) -> dict[str, Array]:
        """Return the states; with `multi_precision`, of a half precision weight those of its master.

        The float32 copy of the weight, ``"master"``, is one of them then. All else is as in `create_state`.
        """
        index = check_index(index)
        seen = check_weight(self._label(index), weight)
        if not (self.multi_precision and is_half(seen.dtype)):
            return self.create_state(index, weight)
        master = copied(weight, np.dtype(np.float32))
        return {**self.create_state(index, master), "master": master}

    def step(
        self,
        indices: Sequence[int],
        weights: Sequence[Array],
        grads: Sequence[Array | RowSparse],
        states: Sequence[dict[str, Array]],
    ) -> None:
        """Update weights and states in place: the reference, in NumPy; not for arrays on a GPU."""
        raise NotImplementedError(f"{type(self).__name__} has no step")

    def fused_step(
        self,
        indices: Sequence[int],
        weights: Sequence[Array],
        grads: Sequence[Array | RowSparse],
        states: Sequence[dict[str, Array]],
    ) -> None:
        """Update weights and states in place with compiled kernels: the bits of `step`."""
        raise NotImplementedError(f"{type(self).__name__} has no fused_step")

    def update(
        self,
        indices: Sequence[int],
        weights: Sequence[Array],
        grads: Sequence[Array | RowSparse],
        states: Sequence[dict[str, Array]],
    ) -> None:
        """Update some tensors in place, by `fused_step` or, if `use_fused_step` is False, by `step`.

        Parameters
        ----------
        indices : list of int
            The tensors' numbers, each once.
        weights : list of numpy.ndarray, or of arrays on a GPU
            float16, bfloat16, float32 or float64, writable, any shape and strides; no two may overlap.
            Arrays on a GPU have `__cuda_array_interface__`, as PyTorch's, CuPy's and Numba's do. All of a
            call are on the host, or all on one GPU.
        grads : list of arrays or RowSparse
            Shapes of the weights, any of their dtypes; float64 for float64 weights only. Never written; may
            be read-only, and shared by tensors.
        states : list of dict
            What `create_state` gave for each tensor; `create_state_multi_precision` with `multi_precision`.

        Raises
        ------
        TypeError
            For what is no list, no array, no dict, or has the wrong dtype.
        ValueError
            For wrong shapes, missing states, read-only or overlapping arrays, arrays in different places, and
            numbers out of range. Both name the tensor, and a refused call changes neither arrays nor counts.
        RuntimeError
            If another thread is in the middle of an update of this optimizer.

        """
        run = self.fused_step if self.use_fused_step else self.step
        run(indices, weights, grads, states)

    def update_multi_precision(
        self,
        indices: Sequence[int],
        weights: Sequence[Array],
        grads: Sequence[Array | RowSparse],
        states: Sequence[dict[str, Array]],
    ) -> None:
        """Do the same as `update`, which takes masters too: the name that users of MXNet know."""
        self.update(indices, weights, grads, states)

    def plan(
        self,
        indices: Sequence[int],
        weights: Sequence[Array],
        grads: Sequence[Array | RowSparse],
        states: Sequence[dict[str, Array]],
    ) -> Overview:
        """Return what `fused_step` would do with these tensors, without doing it; print it to read it.

        It makes the checks of a step, raises what that would raise, and compiles the kernels.
        """
        from stepspec.call import rehearse

        return rehearse(self, (indices, weights, grads, states))

    # ------------------------------------------------------------------ what generated code calls

    def _create_state(self, index: int, weight: Array) -> dict[str, Array]:
        """Make the states of one tensor, C-contiguous, in its dtype."""
        index = check_index(index)
        seen = check_weight(self._label(index), weight)
        flags, ndim = self._flags(index), max(seen.ndim, 1)
        layout = self._layout(flags, ndim)
        if is_half(seen.dtype):
            self._warn_of_rounding(index, seen)
        states = {name: state.create(weight) for name, state in layout.items()}
        self._note_layout(flags, ndim, layout)
        return states
