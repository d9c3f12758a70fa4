# Generated from specs/lans.yaml by stepspec. Do not edit: run "make generate".
"""CPU kernels of LANS: serial loops over one chunk of a tensor, run in parallel by `stepspec.cpu`."""

from stepspec.arithmetic import clip, clip_between, sqrt, square
from stepspec.cpu import elements, scalars


@elements("weight", "grad", g_norm="norm", norm_weight="norm")
def reduce_1(weight, grad, g_norm, norm_weight, rescale_grad):
    """Collect the terms of g_norm, norm_weight."""
    for i in range(weight.size):
        # g_norm = norm(rescale_grad * grad)
        g_norm[i] = rescale_grad * grad[i]
        # w_norm = clip(norm(weight), lower_bound, upper_bound)
        norm_weight[i] = weight[i]


@scalars("divisor", "w_norm")
def combine_2(g_norm, norm_weight, lower_bound, upper_bound):
    """Compute divisor, w_norm from numbers of one tensor, in float64."""
    # divisor = g_norm if g_norm > 0 else 1
    divisor = g_norm if g_norm > 0.0 else 1.0
    # w_norm = clip(norm(weight), lower_bound, upper_bound)
    w_norm = clip_between(norm_weight, lower_bound, upper_bound)
    return divisor, w_norm


@elements("weight", "grad", "mean", "var", m_norm="norm", d_norm="norm")
def reduce_2(
    weight,
    grad,
    mean,
    var,
    m_norm,
    d_norm,
    rescale_grad,
    divisor,
    clip_gradient,
    beta1,
    one_minus_beta1,
    beta2,
    one_minus_beta2,
    one_minus_beta2_pow_t,
    epsilon,
    one_minus_beta1_pow_t,
    wd,
):
    """Collect the terms of m_norm, d_norm."""
    for i in range(weight.size):
        # g = clip(rescale_grad * grad / divisor, clip_gradient)
        g = clip(rescale_grad * grad[i] / divisor, clip_gradient)
        # mean = beta1 * mean + (1 - beta1) * g
        new_mean = beta1 * mean[i] + one_minus_beta1 * g
        # var = beta2 * var + (1 - beta2) * square(g)
        new_var = beta2 * var[i] + one_minus_beta2 * square(g)
        # scale = sqrt(var / (1 - beta2 ** t)) + epsilon
        scale = sqrt(new_var / one_minus_beta2_pow_t) + epsilon
        # m = mean / (1 - beta1 ** t) / scale + wd * weight
        m = new_mean / one_minus_beta1_pow_t / scale + wd * weight[i]
        # d = g / scale + wd * weight
        d = g / scale + wd * weight[i]
        # m_norm = norm(m)
        m_norm[i] = m
        # d_norm = norm(d)
        d_norm[i] = d


@scalars("beta1_times_m_trust", "one_minus_beta1_times_d_trust")
def combine_3(w_norm, m_norm, d_norm, beta1, one_minus_beta1):
    """Compute beta1_times_m_trust, one_minus_beta1_times_d_trust from numbers of one tensor, in float64."""
    # m_trust = w_norm / m_norm if w_norm > 0 and m_norm > 0 else 1
    m_trust = w_norm / m_norm if w_norm > 0.0 and m_norm > 0.0 else 1.0
    # d_trust = w_norm / d_norm if w_norm > 0 and d_norm > 0 else 1
    d_trust = w_norm / d_norm if w_norm > 0.0 and d_norm > 0.0 else 1.0
    beta1_times_m_trust = beta1 * m_trust
    one_minus_beta1_times_d_trust = one_minus_beta1 * d_trust
    return beta1_times_m_trust, one_minus_beta1_times_d_trust


@elements("weight", "grad", "mean", "var")
def update(
    weight,
    grad,
    mean,
    var,
    rescale_grad,
    divisor,
    clip_gradient,
    beta1,
    one_minus_beta1,
    beta2,
    one_minus_beta2,
    one_minus_beta2_pow_t,
    epsilon,
    one_minus_beta1_pow_t,
    wd,
    lr,
    beta1_times_m_trust,
    one_minus_beta1_times_d_trust,
):
    """Write weight, mean and var."""
    for i in range(weight.size):
        # g = clip(rescale_grad * grad / divisor, clip_gradient)
        g = clip(rescale_grad * grad[i] / divisor, clip_gradient)
        # mean = beta1 * mean + (1 - beta1) * g
        new_mean = beta1 * mean[i] + one_minus_beta1 * g
        # var = beta2 * var + (1 - beta2) * square(g)
        new_var = beta2 * var[i] + one_minus_beta2 * square(g)
        # scale = sqrt(var / (1 - beta2 ** t)) + epsilon
        scale = sqrt(new_var / one_minus_beta2_pow_t) + epsilon
        # m = mean / (1 - beta1 ** t) / scale + wd * weight
        m = new_mean / one_minus_beta1_pow_t / scale + wd * weight[i]
        # d = g / scale + wd * weight
        d = g / scale + wd * weight[i]
        # weight -= lr * (beta1 * m_trust * m + (1 - beta1) * d_trust * d)
        weight[i] = weight[i] - lr * (beta1_times_m_trust * m + one_minus_beta1_times_d_trust * d)
        mean[i] = new_mean
        var[i] = new_var


# launches: the kernel of every variant
REDUCE_1 = {(): reduce_1}
COMBINE_2 = {(): combine_2}
REDUCE_2 = {(): reduce_2}
COMBINE_3 = {(): combine_3}
UPDATE = {(): update}
