# Generated from specs/lamb.yaml by stepspec. Do not edit: run "make generate".
"""CPU kernels of LAMB: serial loops over one chunk of a tensor, run in parallel by `stepspec.cpu`."""

from stepspec.arithmetic import clip, clip_between, sqrt, square
from stepspec.cpu import elements, scalars


@elements("weight", "grad", "mean", "var", norm_weight="norm", d_norm="norm")
def reduce(
    weight,
    grad,
    mean,
    var,
    norm_weight,
    d_norm,
    rescale_grad,
    clip_gradient,
    beta1,
    one_minus_beta1,
    beta2,
    one_minus_beta2,
    epsilon,
    wd,
):
    """Collect the terms of norm_weight, d_norm."""
    for i in range(weight.size):
        # g = clip(rescale_grad * grad, clip_gradient)
        g = clip(rescale_grad * grad[i], clip_gradient)
        # mean = beta1 * mean + (1 - beta1) * g
        new_mean = beta1 * mean[i] + one_minus_beta1 * g
        # var = beta2 * var + (1 - beta2) * square(g)
        new_var = beta2 * var[i] + one_minus_beta2 * square(g)
        # mean_hat = mean / (1 - beta1 ** t) if bias_correction else mean
        mean_hat = new_mean
        # var_hat = var / (1 - beta2 ** t) if bias_correction else var
        var_hat = new_var
        # direction = mean_hat / (sqrt(var_hat) + epsilon) + wd * weight
        direction = mean_hat / (sqrt(var_hat) + epsilon) + wd * weight[i]
        # w_norm = clip(norm(weight), lower_bound, upper_bound)
        norm_weight[i] = weight[i]
        # d_norm = norm(direction)
        d_norm[i] = direction


@elements("weight", "grad", "mean", "var", norm_weight="norm", d_norm="norm")
def reduce_bias_correction(
    weight,
    grad,
    mean,
    var,
    norm_weight,
    d_norm,
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
    """Collect the terms of norm_weight, d_norm."""
    for i in range(weight.size):
        # g = clip(rescale_grad * grad, clip_gradient)
        g = clip(rescale_grad * grad[i], clip_gradient)
        # mean = beta1 * mean + (1 - beta1) * g
        new_mean = beta1 * mean[i] + one_minus_beta1 * g
        # var = beta2 * var + (1 - beta2) * square(g)
        new_var = beta2 * var[i] + one_minus_beta2 * square(g)
        # mean_hat = mean / (1 - beta1 ** t) if bias_correction else mean
        mean_hat = new_mean / one_minus_beta1_pow_t
        # var_hat = var / (1 - beta2 ** t) if bias_correction else var
        var_hat = new_var / one_minus_beta2_pow_t
        # direction = mean_hat / (sqrt(var_hat) + epsilon) + wd * weight
        direction = mean_hat / (sqrt(var_hat) + epsilon) + wd * weight[i]
        # w_norm = clip(norm(weight), lower_bound, upper_bound)
        norm_weight[i] = weight[i]
        # d_norm = norm(direction)
        d_norm[i] = direction


@scalars("lr_times_trust")
def combine(norm_weight, lower_bound, upper_bound, d_norm, lr):
    """Compute lr_times_trust from numbers of one tensor, in float64."""
    # w_norm = clip(norm(weight), lower_bound, upper_bound)
    w_norm = clip_between(norm_weight, lower_bound, upper_bound)
    # trust = w_norm / d_norm if w_norm > 0 and d_norm > 0 else 1
    trust = w_norm / d_norm if w_norm > 0.0 and d_norm > 0.0 else 1.0
    return lr * trust


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
    epsilon,
    wd,
    lr_times_trust,
):
    """Write weight, mean and var."""
    for i in range(weight.size):
        # g = clip(rescale_grad * grad, clip_gradient)
        g = clip(rescale_grad * grad[i], clip_gradient)
        # mean = beta1 * mean + (1 - beta1) * g
        new_mean = beta1 * mean[i] + one_minus_beta1 * g
        # var = beta2 * var + (1 - beta2) * square(g)
        new_var = beta2 * var[i] + one_minus_beta2 * square(g)
        # mean_hat = mean / (1 - beta1 ** t) if bias_correction else mean
        mean_hat = new_mean
        # var_hat = var / (1 - beta2 ** t) if bias_correction else var
        var_hat = new_var
        # direction = mean_hat / (sqrt(var_hat) + epsilon) + wd * weight
        direction = mean_hat / (sqrt(var_hat) + epsilon) + wd * weight[i]
        # weight -= lr * trust * direction
        weight[i] = weight[i] - lr_times_trust * direction
        mean[i] = new_mean
        var[i] = new_var


@elements("weight", "grad", "mean", "var")
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
    """Write weight, mean and var."""
    for i in range(weight.size):
        # g = clip(rescale_grad * grad, clip_gradient)
        g = clip(rescale_grad * grad[i], clip_gradient)
        # mean = beta1 * mean + (1 - beta1) * g
        new_mean = beta1 * mean[i] + one_minus_beta1 * g
        # var = beta2 * var + (1 - beta2) * square(g)
        new_var = beta2 * var[i] + one_minus_beta2 * square(g)
        # mean_hat = mean / (1 - beta1 ** t) if bias_correction else mean
        mean_hat = new_mean / one_minus_beta1_pow_t
        # var_hat = var / (1 - beta2 ** t) if bias_correction else var
        var_hat = new_var / one_minus_beta2_pow_t
        # direction = mean_hat / (sqrt(var_hat) + epsilon) + wd * weight
        direction = mean_hat / (sqrt(var_hat) + epsilon) + wd * weight[i]
        # weight -= lr * trust * direction
        weight[i] = weight[i] - lr_times_trust * direction
        mean[i] = new_mean
        var[i] = new_var


# launches: the kernel of every variant, by (bias_correction)
REDUCE = {(False,): reduce, (True,): reduce_bias_correction}
COMBINE = {(False,): combine, (True,): combine}
UPDATE = {(False,): update, (True,): update_bias_correction}
