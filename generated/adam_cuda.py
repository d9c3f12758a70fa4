# Generated from specs/adam.yaml by stepspec. Do not edit: run "make generate".
"""CUDA kernels of Adam: functions of one element, row, column or tensor, run by `stepspec.cuda`."""

from stepspec.arithmetic import clip, sqrt, square
from stepspec.cuda import elements


@elements(reads=("weight", "grad", "mean", "var"), writes=("weight", "mean", "var"))
def update(
    weight,
    grad,
    mean,
    var,
    rescale_grad,
    clip_gradient,
    wd,
    beta1,
    one_minus_beta1,
    beta2,
    one_minus_beta2,
    rate,
    epsilon,
):
    """Return weight, mean and var."""
    # g = clip(rescale_grad * grad, clip_gradient) + wd * weight
    g = clip(rescale_grad * grad, clip_gradient) + wd * weight
    # mean = beta1 * mean + (1 - beta1) * g
    new_mean = beta1 * mean + one_minus_beta1 * g
    # var = beta2 * var + (1 - beta2) * square(g)
    new_var = beta2 * var + one_minus_beta2 * square(g)
    # weight -= rate * mean / (sqrt(var) + epsilon)
    return weight - rate * new_mean / (sqrt(new_var) + epsilon), new_mean, new_var


# launches: the kernel of every variant
UPDATE = {(): update}
