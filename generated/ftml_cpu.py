# Generated from specs/ftml.yaml by stepspec. Do not edit: run "make generate".
"""CPU kernels of FTML: serial loops over one chunk of a tensor, run in parallel by `stepspec.cpu`."""

from stepspec.arithmetic import clip, sqrt, square
from stepspec.cpu import elements


@elements("weight", "grad", "d", "v", "z")
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
    """Write weight, d, v and z."""
    for i in range(weight.size):
        # g = clip(rescale_grad * grad, clip_gradient) + wd * weight
        g = clip(rescale_grad * grad[i], clip_gradient) + wd * weight[i]
        # v = beta2 * v + (1 - beta2) * square(g)
        new_v = beta2 * v[i] + one_minus_beta2 * square(g)
        # old_d = d
        old_d = d[i]
        # d = (1 - beta1 ** t) / lr * (sqrt(v / (1 - beta2 ** t)) + epsilon)
        new_d = one_minus_beta1_pow_t_over_lr * (sqrt(new_v / one_minus_beta2_pow_t) + epsilon)
        # z = beta1 * z + (1 - beta1) * g - (d - beta1 * old_d) * weight
        new_z = beta1 * z[i] + one_minus_beta1 * g - (new_d - beta1 * old_d) * weight[i]
        # weight = -z / d
        weight[i] = -new_z / new_d
        v[i] = new_v
        d[i] = new_d
        z[i] = new_z


# launches: the kernel of every variant
UPDATE = {(): update}
