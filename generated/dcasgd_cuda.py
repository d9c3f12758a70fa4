# Generated from specs/dcasgd.yaml by stepspec. Do not edit: run "make generate".
"""CUDA kernels of DCASGD: functions of one element, row, column or tensor, run by `stepspec.cuda`."""

from stepspec.arithmetic import clip, square
from stepspec.cuda import elements


@elements(reads=("weight", "grad", "previous_weight"), writes=("weight", "previous_weight"))
def update(weight, grad, previous_weight, rescale_grad, clip_gradient, wd, lamda, lr):
    """Return weight and previous_weight."""
    # g = clip(rescale_grad * grad, clip_gradient) + wd * weight
    g = clip(rescale_grad * grad, clip_gradient) + wd * weight
    # compensated = g + lamda * square(g) * (weight - previous_weight)
    compensated = g + lamda * square(g) * (weight - previous_weight)
    # mom = momentum * mom + lr * compensated
    mom = lr * compensated
    # previous_weight = weight
    new_previous_weight = weight
    # weight -= mom
    return weight - mom, new_previous_weight


@elements(reads=("weight", "grad", "mom", "previous_weight"), writes=("weight", "mom", "previous_weight"))
def update_mom(weight, grad, mom, previous_weight, rescale_grad, clip_gradient, wd, lamda, momentum, lr):
    """Return weight, mom and previous_weight."""
    # g = clip(rescale_grad * grad, clip_gradient) + wd * weight
    g = clip(rescale_grad * grad, clip_gradient) + wd * weight
    # compensated = g + lamda * square(g) * (weight - previous_weight)
    compensated = g + lamda * square(g) * (weight - previous_weight)
    # mom = momentum * mom + lr * compensated
    new_mom = momentum * mom + lr * compensated
    # previous_weight = weight
    new_previous_weight = weight
    # weight -= mom
    return weight - new_mom, new_mom, new_previous_weight


# launches: the kernel of every variant, by (momentum > 0)
UPDATE = {(False,): update, (True,): update_mom}
