# Generated from specs/signum.yaml by stepspec. Do not edit: run "make generate".
"""CUDA kernels of Signum: functions of one element, row, column or tensor, run by `stepspec.cuda`."""

from stepspec.arithmetic import clip, sign
from stepspec.cuda import elements


@elements(reads=("weight", "grad"), writes=("weight",))
def update(weight, grad, one_minus_lr_times_wd_plus_wd_lh, lr):
    """Return weight."""
    # weight = (1 - lr * (wd + wd_lh)) * weight - lr * sign(grad)
    return one_minus_lr_times_wd_plus_wd_lh * weight - lr * sign(grad)


@elements(reads=("weight", "grad", "mom"), writes=("weight", "mom"))
def update_mom(
    weight,
    grad,
    mom,
    rescale_grad,
    clip_gradient,
    wd,
    momentum,
    one_minus_momentum,
    one_minus_lr_times_wd_lh,
    lr,
):
    """Return weight and mom."""
    # g = clip(rescale_grad * grad, clip_gradient) + wd * weight
    g = clip(rescale_grad * grad, clip_gradient) + wd * weight
    # mom = momentum * mom + (1 - momentum) * g
    new_mom = momentum * mom + one_minus_momentum * g
    # weight = (1 - lr * wd_lh) * weight - lr * sign(mom)
    return one_minus_lr_times_wd_lh * weight - lr * sign(new_mom), new_mom


# launches: the kernel of every variant, by (momentum > 0)
UPDATE = {(False,): update, (True,): update_mom}
