# Generated from specs/sgld.yaml by stepspec. Do not edit: run "make generate".
"""CPU kernels of SGLD: serial loops over one chunk of a tensor, run in parallel by `stepspec.cpu`."""

from stepspec.arithmetic import clip
from stepspec.cpu import elements


@elements("weight", "grad", "normal")
def update(weight, grad, normal, rescale_grad, clip_gradient, wd, lr_over_two, sqrt_lr):
    """Write weight."""
    for i in range(weight.size):
        # g = clip(rescale_grad * grad, clip_gradient) + wd * weight
        g = clip(rescale_grad * grad[i], clip_gradient) + wd * weight[i]
        # weight -= lr / 2 * g - sqrt(lr) * normal()
        weight[i] = weight[i] - (lr_over_two * g - sqrt_lr * normal[i])


# launches: the kernel of every variant
UPDATE = {(): update}
