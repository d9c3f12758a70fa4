# Generated from specs/nadam.yaml by stepspec. Do not edit: run "make generate".
"""CPU kernels of Nadam: serial loops over one chunk of a tensor, run in parallel by `stepspec.cpu`."""

from stepspec.arithmetic import clip, sqrt, square
from stepspec.cpu import elements, scalars


@scalars("new_m_schedule", "g_share", "mean_share")
def combine(m_schedule, momentum, one_minus_momentum, next_momentum):
    """Compute new_m_schedule, g_share, mean_share from numbers of one tensor, in float64."""
    # m_schedule *= momentum
    new_m_schedule = m_schedule * momentum
    # g_share = (1 - momentum) / (1 - m_schedule)
    g_share = one_minus_momentum / (1.0 - new_m_schedule)
    # mean_share = next_momentum / (1 - m_schedule * next_momentum)
    mean_share = next_momentum / (1.0 - new_m_schedule * next_momentum)
    return new_m_schedule, g_share, mean_share


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
    one_minus_beta2,
    lr,
    mean_share,
    g_share,
    one_minus_beta2_pow_t,
    epsilon,
):
    """Write weight, mean and var."""
    for i in range(weight.size):
        # g = clip(rescale_grad * grad, clip_gradient) + wd * weight
        g = clip(rescale_grad * grad[i], clip_gradient) + wd * weight[i]
        # mean = beta1 * mean + (1 - beta1) * g
        new_mean = beta1 * mean[i] + one_minus_beta1 * g
        # var = beta2 * var + (1 - beta2) * square(g)
        new_var = beta2 * var[i] + one_minus_beta2 * square(g)
        # weight -= lr * (mean_share * mean + g_share * g) / (sqrt(var / (1 - beta2 ** t)) + epsilon)
        weight[i] = (
            weight[i]
            - lr * (mean_share * new_mean + g_share * g) / (sqrt(new_var / one_minus_beta2_pow_t) + epsilon)
        )
        mean[i] = new_mean
        var[i] = new_var


# launches: the kernel of every variant
COMBINE = {(): combine}
UPDATE = {(): update}
