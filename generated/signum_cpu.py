# Generated from specs/signum.yaml by stepspec. Do not edit: run "make generate".
"""CPU kernels of Signum: serial loops over one chunk of a tensor, run in parallel by `stepspec.cpu`."""

from stepspec.arithmetic import clip, sign
from stepspec.cpu import elements


@elements("weight", "grad")
def update(weight, grad, one_minus_lr_times_wd_plus_wd_lh, lr):
    """Write weight."""
    for i in range(weight.size):
        # weight = (1 - lr * (wd + wd_lh)) * weight - lr * sign(grad)
        weight[i] = one_minus_lr_times_wd_plus_wd_lh * weight[i] - lr * sign(grad[i])


@elements("weight", "grad", "mom")
def update_mom(
    weight,
    grad,
    mom,
    rescale_grad,
    clip_gradient,
    wd,
    momentum,
    one_minus_momentum,
    one_minus_lr_times_wd_lh,
    lr,
):
    """Write weight and mom."""
    for i in range(weight.size):
        # g = clip(rescale_grad * grad, clip_gradient) + wd * weight
        g = clip(rescale_grad * grad[i], clip_gradient) + wd * weight[i]
        # mom = momentum * mom + (1 - momentum) * g
        new_mom = momentum * mom[i] + one_minus_momentum * g
        # weight = (1 - lr * wd_lh) * weight - lr * sign(mom)
        weight[i] = one_minus_lr_times_wd_lh * weight[i] - lr * sign(new_mom)
        mom[i] = new_mom


# launches: the kernel of every variant, by (momentum > 0)
UPDATE = {(False,): update, (True,): update_mom}
