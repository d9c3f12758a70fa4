# Generated from specs/sgd.yaml by stepspec. Do not edit: run "make generate".
"""CUDA kernels of SGD: functions of one element, row, column or tensor, run by `stepspec.cuda`."""

from stepspec.arithmetic import clip
from stepspec.cuda import elements


@elements(reads=("weight", "grad"), writes=("weight",))
def update(weight, grad, rescale_grad, clip_gradient, wd, lr):
    """Return weight."""
    # g = clip(rescale_grad * grad, clip_gradient) + wd * weight
    g = clip(rescale_grad * grad, clip_gradient) + wd * weight
    # mom = momentum * mom + lr * g
    mom = lr * g
    # weight -= mom
    return weight - mom


@elements(reads=("weight", "grad", "mom"), writes=("weight", "mom"))
def update_mom(weight, grad, mom, rescale_grad, clip_gradient, wd, momentum, lr):
    """Return weight and mom."""
    # g = clip(rescale_grad * grad, clip_gradient) + wd * weight
    g = clip(rescale_grad * grad, clip_gradient) + wd * weight
    # mom = momentum * mom + lr * g
    new_mom = momentum * mom + lr * g
    # weight -= mom
    return weight - new_mom, new_mom


# launches: the kernel of every variant, by (momentum > 0)
UPDATE = {(False,): update, (True,): update_mom}
