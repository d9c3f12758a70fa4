"""A trainer: steps all tensors of a model by name, with groups, clipping, and steps that can be left out."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from types import MappingProxyType
from typing import Any

from stepspec import checkpoint
from stepspec.exclusive import Exclusive
from stepspec.groups import Options, make_groups
from stepspec.hyperparameters import Flag, Hyperparameter, number
from stepspec.joint import Apart, GroupCall, Rescaling, survey
from stepspec.names import check_params, missing_names
from stepspec.optimizer import Optimizer
from stepspec.sparse import RowSparse
from stepspec.states import Array
from stepspec.updater import States, Updater

log = logging.getLogger("stepspec")


class Trainer:
    """Steps the tensors of a model, called by their names.

    Parameters
    ----------
    params : dict of str to numpy.ndarray
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
        For a value out of its range, overlapping weights, and a pattern of `groups` without tensors.

    """

    clip_global_norm = Hyperparameter("(0, inf)", default=math.inf)
    skip_nonfinite = Flag()

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
        self.skipped = 0
        self.global_norm: float | None = None
        self._groups = make_groups(self._params, optimizer, groups, hyperparameters)
        self._exclusive, self._apart, self._rescaling = Exclusive(), Apart(), Rescaling()

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
        """The rate of the tensors in no group, at the current number of updates, before multipliers."""
        return self.optimizer._rate_at(max(group.optimizer.num_update for group in self._groups))

    def set_learning_rate(self, lr: float) -> None:
        """Set the rate of all tensors but those of groups with their own `learning_rate` or `lr_scheduler`.

        Raises
        ------
        TypeError, ValueError
            If `lr` is no rate, or a scheduler decides it.

        """
        for group in self._groups:
            if not group.own_rate:
                group.optimizer.set_learning_rate(lr)

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
        grads : dict of str to numpy.ndarray or RowSparse
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
        missing = missing_names(self._params, grads, ignore_missing)
        with self._turn(), ExitStack() as stack:
            calls = self._calls(grads, missing, stack)
            self._rescale(calls, lambda rescale_grad: rescale_grad / size)
            careful = self.skip_nonfinite or self.clip_global_norm < math.inf
            if careful or len(calls) > 1:
                for call in calls:
                    call.verify()
                self._apart.check(calls)
            if careful and not self._judge(calls):
                return False
            for call in calls:
                call.run()
        return True

    def _change(self, name: str, value: float | bool) -> None:
        """Set an attribute that has been checked."""
        self.__dict__[name] = value

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Keep other threads out, and the optimizers' own `rescale_grad` as it is in the end."""
        turn = self._exclusive.take("Trainer")
        try:
            self._rescaling.restore()
            yield
        finally:
            self._rescaling.restore()
            self._exclusive.give_back(turn)

    def _calls(self, grads: Mapping[str, Any], missing: set[str], stack: ExitStack) -> list[GroupCall]:
        """Return what each group does that has any gradient."""
        names, calls = tuple(self._params), []
        for group in self._groups:
            indices = [index for index in group.weights if names[index] not in missing]
            if indices:
                states = stack.enter_context(group.states_of(indices))
                weights = [group.weights[index] for index in indices]
                own = [grads[names[index]] for index in indices]
                calls.append(GroupCall(group, indices, weights, own, states))
        return calls

    def _rescale(self, calls: Sequence[GroupCall], change: Callable[[float], float]) -> None:
        for call in calls:
            optimizer = call.group.optimizer
            self._rescaling.set(optimizer, change(optimizer.rescale_grad))

    def _judge(self, calls: Sequence[GroupCall]) -> bool:
        """Measure the gradients of a step, and clip them; False if the step is to be left out."""
        norm, broken = survey(calls)
        if self.clip_global_norm < math.inf:
            self.global_norm = float(norm)
            factor = norm.factor_to(self.clip_global_norm)
            self._rescale(calls, lambda rescale_grad: rescale_grad * factor)
        if broken is None:
            return True
        if not self.skip_nonfinite:
            log.warning("the gradient of %s holds inf or NaN: no gradient of this step is clipped", broken)
            return True
        self.skipped += 1
        log.warning("step left out, the gradient of %s holds inf or NaN; %d so far", broken, self.skipped)
        return False

    # ------------------------------------------------------------------ checkpoints

    def save_states(self, path: str | os.PathLike[str]) -> None:
        """Write states, counts, hyperparameters and schedules of the optimizers to a file; not the weights.

        See `stepspec.checkpoint.save`.
        """
        with self._turn():
            checkpoint.save(path, self._parts())

    def load_states(self, path: str | os.PathLike[str], strict: bool = True) -> list[str]:
        """Go on from a file of `save_states`, written by a Trainer with the same names and groups.

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
            return checkpoint.load(path, self._parts(), strict=strict)

    def _parts(self) -> dict[str, checkpoint.Part]:
        return {group.pattern: group.part() for group in self._groups}
