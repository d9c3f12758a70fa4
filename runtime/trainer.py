"""A trainer: steps all tensors of a model by name, with groups, clipping, and steps that can be left out."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from stepspec import arguments, checkpoint
from stepspec.exclusive import Exclusive
from stepspec.groups import Options, make_groups, rate, set_rate
from stepspec.hyperparameters import number
from stepspec.joint import Apart, Limits, Overrides, group_calls, rescale
from stepspec.names import check_params, given, truth
from stepspec.optimizer import Optimizer
from stepspec.sparse import RowSparse
from stepspec.states import Array
from stepspec.updater import States, Updater


class Trainer(Limits):
    """Steps the tensors of a model, called by their names.

    Parameters
    ----------
    params : dict of str to numpy.ndarray, or to arrays on a GPU
        The weights, changed in place. The position of a name is the index of its tensor.
    optimizer : str or Optimizer
        The name of an optimizer, made here with `hyperparameters`, or one that exists.
    groups : dict of str to dict, optional
        Pattern of names (``*``, ``?``, ``[...]``) to the hyperparameters that differ for the tensors it
        matches, ``lr_mult`` and ``wd_mult`` among them: ``{"*bias": {"wd": 0.0}}``. The first match wins.
        Each group has an optimizer of its own, and its schedule follows the updates of its own tensors.
    clip_global_norm : float in (0, inf), optional
        Bound of the norm over all rescaled gradients of a step, of row-sparse ones over their rows: beyond it
        all are multiplied by ``clip_global_norm / norm`` on their way into the rule. None (read as inf) is
        off. Where a gradient is not finite nothing is clipped, and a warning is logged.
    skip_nonfinite : bool
        Leave out, for all tensors, a step in which any element of a gradient is inf or NaN; log a warning.
    **hyperparameters
        Arguments of the optimizer.

    Attributes
    ----------
    clip_global_norm : float
    skip_nonfinite : bool
        As given; may be changed between steps.
    skipped : int
        How many steps `skip_nonfinite` has left out.
    global_norm : float or None
        What `clip_global_norm` compared with in the last step that it was on in.

    Raises
    ------
    TypeError
        For an unknown argument or one of a wrong type.
    ValueError
        For a value out of its range, overlapping weights, a pattern of `groups` without tensors, and an
        optimizer that another Trainer has.

    """

    def __init__(
        self,
        params: Mapping[str, Array],
        optimizer: str | Optimizer,
        *,
        groups: Mapping[str, Options] | None = None,
        clip_global_norm: float | None = None,
        skip_nonfinite: bool = False,
        **hyperparameters: Any,
    ) -> None:
        self._params = check_params(params)
        self.clip_global_norm = clip_global_norm
        self.skip_nonfinite = skip_nonfinite
        self._groups = make_groups(self._params, optimizer, groups, hyperparameters)
        self._exclusive, self._apart, self._overrides = Exclusive(), Apart(), Overrides()

    # ------------------------------------------------------------------ what it is made of

    @property
    def params(self) -> Mapping[str, Array]:
        """The weights by name."""
        return MappingProxyType(self._params)

    @property
    def optimizer(self) -> Optimizer:
        """The optimizer of the tensors that are in no group."""
        return self._groups[0].optimizer

    @property
    def updaters(self) -> Mapping[str, Updater]:
        """The optimizer and states of each group by its pattern; of tensors in none by ``""``."""
        return MappingProxyType({group.pattern: group.updater for group in self._groups})

    @property
    def states(self) -> Mapping[str, States]:
        """The states by name of all tensors that have had an update; the arrays themselves."""
        found = {index: states for group in self._groups for index, states in group.updater.states.items()}
        return MappingProxyType({name: found[i] for i, name in enumerate(self._params) if i in found})

    @property
    def learning_rate(self) -> float:
        """The rate of the tensors in no group, at their number of updates, before multipliers.

        If there are none, it is that of the first group.
        """
        return rate(self._groups)

    def set_learning_rate(self, lr: float) -> None:
        """Set the rate of all tensors but those of groups with their own `learning_rate` or `lr_scheduler`.

        Raises
        ------
        TypeError, ValueError
            If `lr` is no rate, a scheduler decides it, or all groups have their own; no rate changes then.

        """
        set_rate(self._groups, lr)

    # ------------------------------------------------------------------ steps

    def step(
        self,
        grads: Mapping[str, Array | RowSparse | None],
        batch_size: float = 1,
        ignore_missing: bool = False,
    ) -> bool:
        """Update the tensors in place; states are created at the first step.

        Parameters
        ----------
        grads : dict of str to numpy.ndarray, array on a GPU, or RowSparse
            A gradient for each name; None counts as missing. Never written.
        batch_size : float > 0
            Divides the gradients: each is multiplied by ``rescale_grad / batch_size``.
        ignore_missing : bool
            Leave tensors without a gradient as they are, their counts too, instead of refusing the step.

        Returns
        -------
        bool
            False if `skip_nonfinite` left the step out, else True.

        Raises
        ------
        TypeError, ValueError
            As `Optimizer.update`, and for unknown or missing names. A refused step changes no tensor of any
            group and no count. (Ctrl-C may come between two groups.)
        RuntimeError
            If another thread is in the middle of a step.

        """
        size = number("batch_size", batch_size)
        if not 0 < size < math.inf:
            raise ValueError(f"batch_size must be finite and > 0, not {batch_size!r}")
        gradients = given(self._params, grads, ignore_missing)
        with self._turn(), ExitStack() as stack:
            calls = group_calls(self._groups, gradients, stack)
            rescale(calls, self._overrides, lambda rescale_grad: rescale_grad / size)
            careful = self.skip_nonfinite or self.clip_global_norm < math.inf
            if careful or len(calls) > 1:
                for call in calls:
                    call.verify(self._overrides)
                self._apart.check(calls)
            if careful and not self._judge(calls, self._overrides):
                return False
            for call in calls:
                call.run()
        return True

    if not TYPE_CHECKING:  # type checkers find mistyped names themselves, unless they see this

        def __setattr__(self, name: str, value: object) -> None:
            """Set what there is; a subclass may have attributes of its own."""
            if type(self) is Trainer and name[0] != "_" and not hasattr(Trainer, name):
                raise AttributeError(arguments.no_attribute(Trainer, name))
            super().__setattr__(name, value)

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Keep other threads out, and the optimizers' own attributes as they are in the end."""
        turn = self._exclusive.take("Trainer")
        try:
            self._overrides.restore()
            yield
        finally:
            self._overrides.restore()
            self._exclusive.give_back(turn)

    # ------------------------------------------------------------------ checkpoints

    def save_states(self, path: str | os.PathLike[str]) -> None:
        """Write states, counts, hyperparameters and schedules of the optimizers to a file; not the weights.

        `clip_global_norm`, `skip_nonfinite` and `skipped` are in it too. See `stepspec.checkpoint.save`.
        """
        with self._turn():
            checkpoint.save(path, self._parts(), self._numbers())

    def load_states(self, path: str | os.PathLike[str], strict: bool = True) -> list[str]:
        """Go on from a file of `save_states`, written by a Trainer with the same names and groups.

        What the file holds replaces what this Trainer was given, hyperparameters and clipping included.

        Returns
        -------
        list of str
            With `strict=False`, what did not fit and was left.

        Raises
        ------
        ValueError
            If the file is damaged or, with `strict`, of something else; nothing is changed then.

        """
        with self._turn():
            strict = truth("strict", strict)
            return checkpoint.load(path, self._parts(), strict=strict, accept=self._accept)

    def _parts(self) -> dict[str, checkpoint.Part]:
        return {group.pattern: group.part() for group in self._groups}
