# Generated from specs/adamax.yaml by stepspec. Do not edit: run "make generate".
"""CPU kernels of Adamax: serial loops over one chunk of a tensor, run in parallel by `stepspec.cpu`."""

from stepspec.arithmetic import clip, maximum
from stepspec.cpu import elements


@elements("weight", "grad", "mean", "var")
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
    """Write weight, mean and var."""
    for i in range(weight.size):
        # g = clip(rescale_grad * grad, clip_gradient) + wd * weight
        g = clip(rescale_grad * grad[i], clip_gradient) + wd * weight[i]
        # mean = beta1 * mean + (1 - beta1) * g
        new_mean = beta1 * mean[i] + one_minus_beta1 * g
        # var = maximum(beta2 * var, abs(g))
        new_var = maximum(beta2 * var[i], abs(g))
        # weight -= lr / (1 - beta1 ** t) * mean / (var + epsilon)
        weight[i] = weight[i] - lr_over_one_minus_beta1_pow_t * new_mean / (new_var + epsilon)
        mean[i] = new_mean
        var[i] = new_var


# launches: the kernel of every variant
UPDATE = {(): update}
