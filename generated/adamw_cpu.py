# Generated from specs/adamw.yaml by stepspec. Do not edit: run "make generate".
"""CPU kernels of AdamW: serial loops over one chunk of a tensor, run in parallel by `stepspec.cpu`."""

from stepspec.arithmetic import clip, sqrt, square
from stepspec.cpu import elements


@elements("weight", "grad", "mean", "var")
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
    """Write weight, mean and var."""
    for i in range(weight.size):
        # g = clip(rescale_grad * grad, clip_gradient)
        g = clip(rescale_grad * grad[i], clip_gradient)
        # mean = beta1 * mean + (1 - beta1) * g
        new_mean = beta1 * mean[i] + one_minus_beta1 * g
        # var = beta2 * var + (1 - beta2) * square(g)
        new_var = beta2 * var[i] + one_minus_beta2 * square(g)
        # weight -= rate * (mean / (sqrt(var) + epsilon) + wd * weight)
        weight[i] = weight[i] - rate * (new_mean / (sqrt(new_var) + epsilon) + wd * weight[i])
        mean[i] = new_mean
        var[i] = new_var


@elements("weight", "grad", "mean", "var")
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
    """Write weight, mean and var."""
    for i in range(weight.size):
        # g = clip(rescale_grad * grad, clip_gradient)
        g = clip(rescale_grad * grad[i], clip_gradient)
        # mean = beta1 * mean + (1 - beta1) * g
        new_mean = beta1 * mean[i] + one_minus_beta1 * g
        # var = beta2 * var + (1 - beta2) * square(g)
        new_var = beta2 * var[i] + one_minus_beta2 * square(g)
        # weight -= rate * (mean / (sqrt(var) + epsilon) + wd * weight)
        weight[i] = weight[i] - rate_2 * (new_mean / (sqrt(new_var) + epsilon) + wd * weight[i])
        mean[i] = new_mean
        var[i] = new_var


# launches: the kernel of every variant, by (correct_bias)
UPDATE = {(False,): update, (True,): update_correct_bias}
