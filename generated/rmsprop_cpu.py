# Generated from specs/rmsprop.yaml by stepspec. Do not edit: run "make generate".
"""CPU kernels of RMSProp: serial loops over one chunk of a tensor, run in parallel by `stepspec.cpu`."""

from stepspec.arithmetic import clip, sqrt, square
from stepspec.cpu import elements


@elements("weight", "grad", "var")
def update(weight, grad, var, rescale_grad, clip_gradient, wd, rho, one_minus_rho, lr, epsilon, clip_weights):
    """Write weight and var."""
    for i in range(weight.size):
        # g = clip(rescale_grad * grad, clip_gradient) + wd * weight
        g = clip(rescale_grad * grad[i], clip_gradient) + wd * weight[i]
        # var = rho * var + (1 - rho) * square(g)
        new_var = rho * var[i] + one_minus_rho * square(g)
        # moved = weight - lr * g / (sqrt(var) + epsilon)
        moved = weight[i] - lr * g / (sqrt(new_var) + epsilon)
        # weight = clip(moved, clip_weights)
        weight[i] = clip(moved, clip_weights)
        var[i] = new_var


@elements("weight", "grad", "mean", "var")
def update_mean(
    weight, grad, mean, var, rescale_grad, clip_gradient, wd, rho, one_minus_rho, lr, epsilon, clip_weights
):
    """Write weight, mean and var."""
    for i in range(weight.size):
        # g = clip(rescale_grad * grad, clip_gradient) + wd * weight
        g = clip(rescale_grad * grad[i], clip_gradient) + wd * weight[i]
        # var = rho * var + (1 - rho) * square(g)
        new_var = rho * var[i] + one_minus_rho * square(g)
        # mean = rho * mean + (1 - rho) * g
        new_mean = rho * mean[i] + one_minus_rho * g
        # mom = momentum * mom - lr * g / sqrt(var - square(mean) + epsilon)
        mom = -(lr * g / sqrt(new_var - square(new_mean) + epsilon))
        # moved = weight + mom
        moved = weight[i] + mom
        # weight = clip(moved, clip_weights)
        weight[i] = clip(moved, clip_weights)
        var[i] = new_var
        mean[i] = new_mean


@elements("weight", "grad", "mean", "mom", "var")
def update_mean_mom(
    weight,
    grad,
    mean,
    mom,
    var,
    rescale_grad,
    clip_gradient,
    wd,
    rho,
    one_minus_rho,
    momentum,
    lr,
    epsilon,
    clip_weights,
):
    """Write weight, mean, mom and var."""
    for i in range(weight.size):
        # g = clip(rescale_grad * grad, clip_gradient) + wd * weight
        g = clip(rescale_grad * grad[i], clip_gradient) + wd * weight[i]
        # var = rho * var + (1 - rho) * square(g)
        new_var = rho * var[i] + one_minus_rho * square(g)
        # mean = rho * mean + (1 - rho) * g
        new_mean = rho * mean[i] + one_minus_rho * g
        # mom = momentum * mom - lr * g / sqrt(var - square(mean) + epsilon)
        new_mom = momentum * mom[i] - lr * g / sqrt(new_var - square(new_mean) + epsilon)
        # moved = weight + mom
        moved = weight[i] + new_mom
        # weight = clip(moved, clip_weights)
        weight[i] = clip(moved, clip_weights)
        var[i] = new_var
        mean[i] = new_mean
        mom[i] = new_mom


# launches: the kernel of every variant, by (centered, momentum > 0)
UPDATE = {
    (False, False): update,
    (False, True): update,
    (True, False): update_mean,
    (True, True): update_mean_mom,
}
