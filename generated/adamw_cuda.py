# Generated from specs/adamw.yaml by stepspec. Do not edit: run "make generate".
"""CUDA kernels of AdamW: functions of one element, row, column or tensor, run by `stepspec.cuda`."""

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
    beta1,
    one_minus_beta1,
    beta2,
    one_minus_beta2,
    rate,
    epsilon,
    wd,
):
    """Return weight, mean and var."""
    # g = clip(rescale_grad * grad, clip_gradient)
    g = clip(rescale_grad * grad, clip_gradient)
    # mean = beta1 * mean + (1 - beta1) * g
    new_mean = beta1 * mean + one_minus_beta1 * g
    # var = beta2 * var + (1 - beta2) * square(g)
    new_var = beta2 * var + one_minus_beta2 * square(g)
    # weight -= rate * (mean / (sqrt(var) + epsilon) + wd * weight)
    return weight - rate * (new_mean / (sqrt(new_var) + epsilon) + wd * weight), new_mean, new_var


@elements(reads=("weight", "grad", "mean", "var"), writes=("weight", "mean", "var"))
def update_correct_bias(
    weight,
    grad,
    mean,
    var,
    rescale_grad,
    clip_gradient,
    beta1,
    one_minus_beta1,
    beta2,
    one_minus_beta2,
    rate_2,
    epsilon,
    wd,
):
    """Return weight, mean and var."""
    # g = clip(rescale_grad * grad, clip_gradient)
    g = clip(rescale_grad * grad, clip_gradient)
    # mean = beta1 * mean + (1 - beta1) * g
    new_mean = beta1 * mean + one_minus_beta1 * g
    # var = beta2 * var + (1 - beta2) * square(g)
    new_var = beta2 * var + one_minus_beta2 * square(g)
    # weight -= rate * (mean / (sqrt(var) + epsilon) + wd * weight)
    return weight - rate_2 * (new_mean / (sqrt(new_var) + epsilon) + wd * weight), new_mean, new_var


# launches: the kernel of every variant, by (correct_bias)
UPDATE = {(False,): update, (True,): update_correct_bias}
