# Generated from specs/ftml.yaml by stepspec. Do not edit: run "make generate".
"""CUDA kernels of FTML: functions of one element, row, column or tensor, run by `stepspec.cuda`."""

from stepspec.arithmetic import clip, sqrt, square
from stepspec.cuda import elements


@elements(reads=("weight", "grad", "d", "v", "z"), writes=("weight", "d", "v", "z"))
def update(
    weight,
    grad,
    d,
    v,
    z,
    rescale_grad,
    clip_gradient,
    wd,
    beta2,
    one_minus_beta2,
    one_minus_beta1_pow_t_over_lr,
    one_minus_beta2_pow_t,
    epsilon,
    beta1,
    one_minus_beta1,
):
    """Return weight, d, v and z."""
    # g = clip(rescale_grad * grad, clip_gradient) + wd * weight
    g = clip(rescale_grad * grad, clip_gradient) + wd * weight
    # v = beta2 * v + (1 - beta2) * square(g)
    new_v = beta2 * v + one_minus_beta2 * square(g)
    # old_d = d
    old_d = d
    # d = (1 - beta1 ** t) / lr * (sqrt(v / (1 - beta2 ** t)) + epsilon)
    new_d = one_minus_beta1_pow_t_over_lr * (sqrt(new_v / one_minus_beta2_pow_t) + epsilon)
    # z = beta1 * z + (1 - beta1) * g - (d - beta1 * old_d) * weight
    new_z = beta1 * z + one_minus_beta1 * g - (new_d - beta1 * old_d) * weight
    # weight = -z / d
    return -new_z / new_d, new_d, new_v, new_z


# launches: the kernel of every variant
UPDATE = {(): update}
