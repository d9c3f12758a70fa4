# Generated from specs/adamax.yaml by stepspec. Do not edit: run "make generate".
"""CUDA kernels of Adamax: functions of one element, row, column or tensor, run by `stepspec.cuda`."""

from stepspec.arithmetic import clip, maximum
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
    lr_over_one_minus_beta1_pow_t,
    epsilon,
):
    """Return weight, mean and var."""
    # g = clip(rescale_grad * grad, clip_gradient) + wd * weight
    g = clip(rescale_grad * grad, clip_gradient) + wd * weight
    # mean = beta1 * mean + (1 - beta1) * g
    new_mean = beta1 * mean + one_minus_beta1 * g
    # var = maximum(beta2 * var, abs(g))
    new_var = maximum(beta2 * var, abs(g))
    # weight -= lr / (1 - beta1 ** t) * mean / (var + epsilon)
    return weight - lr_over_one_minus_beta1_pow_t * new_mean / (new_var + epsilon), new_mean, new_var


# launches: the kernel of every variant
UPDATE = {(): update}
