# Generated from specs/lamb.yaml by stepspec. Do not edit: run "make generate".
"""CUDA kernels of LAMB: functions of one element, row, column or tensor, run by `stepspec.cuda`."""

from stepspec.arithmetic import clip, clip_between, sqrt, square
from stepspec.cuda import elements, scalars


@elements(reads=("weight", "grad", "mean", "var"), reduces={"norm_weight": "norm", "d_norm": "norm"})
def reduce(
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
    epsilon,
    wd,
):
    """Return the terms of norm_weight and d_norm."""
    # g = clip(rescale_grad * grad, clip_gradient)
    g = clip(rescale_grad * grad, clip_gradient)
    # mean = beta1 * mean + (1 - beta1) * g
    new_mean = beta1 * mean + one_minus_beta1 * g
    # var = beta2 * var + (1 - beta2) * square(g)
    new_var = beta2 * var + one_minus_beta2 * square(g)
    # mean_hat = mean / (1 - beta1 ** t) if bias_correction else mean
    mean_hat = new_mean
    # var_hat = var / (1 - beta2 ** t) if bias_correction else var
    var_hat = new_var
    # w_norm = clip(norm(weight), lower_bound, upper_bound)
    # direction = mean_hat / (sqrt(var_hat) + epsilon) + wd * weight
    return weight, mean_hat / (sqrt(var_hat) + epsilon) + wd * weight


@elements(reads=("weight", "grad", "mean", "var"), reduces={"norm_weight": "norm", "d_norm": "norm"})
def reduce_bias_correction(
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
    one_minus_beta1_pow_t,
    one_minus_beta2_pow_t,
    epsilon,
    wd,
):
    """Return the terms of norm_weight and d_norm."""
    # g = clip(rescale_grad * grad, clip_gradient)
    g = clip(rescale_grad * grad, clip_gradient)
    # mean = beta1 * mean + (1 - beta1) * g
    new_mean = beta1 * mean + one_minus_beta1 * g
    # var = beta2 * var + (1 - beta2) * square(g)
    new_var = beta2 * var + one_minus_beta2 * square(g)
    # mean_hat = mean / (1 - beta1 ** t) if bias_correction else mean
    mean_hat = new_mean / one_minus_beta1_pow_t
    # var_hat = var / (1 - beta2 ** t) if bias_correction else var
    var_hat = new_var / one_minus_beta2_pow_t
    # w_norm = clip(norm(weight), lower_bound, upper_bound)
    # direction = mean_hat / (sqrt(var_hat) + epsilon) + wd * weight
    return weight, mean_hat / (sqrt(var_hat) + epsilon) + wd * weight


@scalars("lr_times_trust")
def combine(norm_weight, lower_bound, upper_bound, d_norm, lr):
    """Compute lr_times_trust from numbers of one tensor, in float64."""
    # w_norm = clip(norm(weight), lower_bound, upper_bound)
    w_norm = clip_between(norm_weight, lower_bound, upper_bound)
    # trust = w_norm / d_norm if w_norm > 0 and d_norm > 0 else 1
    trust = w_norm / d_norm if w_norm > 0.0 and d_norm > 0.0 else 1.0
    return lr * trust


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
    epsilon,
    wd,
    lr_times_trust,
):
    """Return weight, mean and var."""
    # g = clip(rescale_grad * grad, clip_gradient)
    g = clip(rescale_grad * grad, clip_gradient)
    # mean = beta1 * mean + (1 - beta1) * g
    new_mean = beta1 * mean + one_minus_beta1 * g
    # var = beta2 * var + (1 - beta2) * square(g)
    new_var = beta2 * var + one_minus_beta2 * square(g)
    # mean_hat = mean / (1 - beta1 ** t) if bias_correction else mean
    mean_hat = new_mean
    # var_hat = var / (1 - beta2 ** t) if bias_correction else var
    var_hat = new_var
    # direction = mean_hat / (sqrt(var_hat) + epsilon) + wd * weight
    direction = mean_hat / (sqrt(var_hat) + epsilon) + wd * weight
    # weight -= lr * trust * direction
    return weight - lr_times_trust * direction, new_mean, new_var


@elements(reads=("weight", "grad", "mean", "var"), writes=("weight", "mean", "var"))
def update_bias_correction(
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
    one_minus_beta1_pow_t,
    one_minus_beta2_pow_t,
    epsilon,
    wd,
    lr_times_trust,
):
    """Return weight, mean and var."""
    # g = clip(rescale_grad * grad, clip_gradient)
    g = clip(rescale_grad * grad, clip_gradient)
    # mean = beta1 * mean + (1 - beta1) * g
    new_mean = beta1 * mean + one_minus_beta1 * g
    # var = beta2 * var + (1 - beta2) * square(g)
    new_var = beta2 * var + one_minus_beta2 * square(g)
    # mean_hat = mean / (1 - beta1 ** t) if bias_correction else mean
    mean_hat = new_mean / one_minus_beta1_pow_t
    # var_hat = var / (1 - beta2 ** t) if bias_correction else var
    var_hat = new_var / one_minus_beta2_pow_t
    # direction = mean_hat / (sqrt(var_hat) + epsilon) + wd * weight
    direction = mean_hat / (sqrt(var_hat) + epsilon) + wd * weight
    # weight -= lr * trust * direction
    return weight - lr_times_trust * direction, new_mean, new_var


# launches: the kernel of every variant, by (bias_correction)
REDUCE = {(False,): reduce, (True,): reduce_bias_correction}
COMBINE = {(False,): combine, (True,): combine}
UPDATE = {(False,): update, (True,): update_bias_correction}
