# Generated from specs/rmsprop.yaml by stepspec. Do not edit: run "make generate".
"""CUDA kernels of RMSProp: functions of one element, row, column or tensor, run by `stepspec.cuda`."""

from stepspec.arithmetic import clip, sqrt, square
from stepspec.cuda import elements


@elements(reads=("weight", "grad", "var"), writes=("weight", "var"))
def update(weight, grad, var, rescale_grad, clip_gradient, wd, rho, one_minus_rho, lr, epsilon, clip_weights):
    """Return weight and var."""
    # g = clip(rescale_grad * grad, clip_gradient) + wd * weight
    g = clip(rescale_grad * grad, clip_gradient) + wd * weight
    # var = rho * var + (1 - rho) * square(g)
    new_var = rho * var + one_minus_rho * square(g)
    # moved = weight - lr * g / (sqrt(var) + epsilon)
    moved = weight - lr * g / (sqrt(new_var) + epsilon)
    # weight = clip(moved, clip_weights)
    return clip(moved, clip_weights), new_var


@elements(reads=("weight", "grad", "mean", "var"), writes=("weight", "mean", "var"))
def update_mean(
    weight, grad, mean, var, rescale_grad, clip_gradient, wd, rho, one_minus_rho, lr, epsilon, clip_weights
):
    """Return weight, mean and var."""
    # g = clip(rescale_grad * grad, clip_gradient) + wd * weight
    g = clip(rescale_grad * grad, clip_gradient) + wd * weight
    # var = rho * var + (1 - rho) * square(g)
    new_var = rho * var + one_minus_rho * square(g)
    # mean = rho * mean + (1 - rho) * g
    new_mean = rho * mean + one_minus_rho * g
    # mom = momentum * mom - lr * g / sqrt(var - square(mean) + epsilon)
    mom = -(lr * g / sqrt(new_var - square(new_mean) + epsilon))
    # moved = weight + mom
    moved = weight + mom
    # weight = clip(moved, clip_weights)
    return clip(moved, clip_weights), new_mean, new_var


@elements(reads=("weight", "grad", "mean", "mom", "var"), writes=("weight", "mean", "mom", "var"))
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
    """Return weight, mean, mom and var."""
    # g = clip(rescale_grad * grad, clip_gradient) + wd * weight
    g = clip(rescale_grad * grad, clip_gradient) + wd * weight
    # var = rho * var + (1 - rho) * square(g)
    new_var = rho * var + one_minus_rho * square(g)
    # mean = rho * mean + (1 - rho) * g
    new_mean = rho * mean + one_minus_rho * g
    # mom = momentum * mom - lr * g / sqrt(var - square(mean) + epsilon)
    new_mom = momentum * mom - lr * g / sqrt(new_var - square(new_mean) + epsilon)
    # moved = weight + mom
    moved = weight + new_mom
    # weight = clip(moved, clip_weights)
    return clip(moved, clip_weights), new_mean, new_mom, new_var


# launches: the kernel of every variant, by (centered, momentum > 0)
UPDATE = {
    (False, False): update,
    (False, True): update,
    (True, False): update_mean,
    (True, True): update_mean_mom,
}
