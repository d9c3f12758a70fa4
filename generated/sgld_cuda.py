# Generated from specs/sgld.yaml by stepspec. Do not edit: run "make generate".
"""CUDA kernels of SGLD: functions of one element, row, column or tensor, run by `stepspec.cuda`."""

from stepspec.arithmetic import clip
from stepspec.cuda import elements


@elements(reads=("weight", "grad", "normal"), writes=("weight",))
def update(weight, grad, normal, rescale_grad, clip_gradient, wd, lr_over_two, sqrt_lr):
    """Return weight."""
    # g = clip(rescale_grad * grad, clip_gradient) + wd * weight
    g = clip(rescale_grad * grad, clip_gradient) + wd * weight
    # weight -= lr / 2 * g - sqrt(lr) * normal()
    return weight - (lr_over_two * g - sqrt_lr * normal)


# launches: the kernel of every variant
UPDATE = {(): update}
