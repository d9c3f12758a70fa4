# Generated from specs/adadelta.yaml by stepspec. Do not edit: run "make generate".
"""CUDA kernels of AdaDelta: functions of one element, row, column or tensor, run by `stepspec.cuda`."""

from stepspec.arithmetic import clip, sqrt, square
from stepspec.cuda import elements


@elements(reads=("weight", "grad", "acc_delta", "acc_g"), writes=("weight", "acc_delta", "acc_g"))
def update(weight, grad, acc_delta, acc_g, rescale_grad, clip_gradient, wd, rho, one_minus_rho, epsilon, lr):
    """Return weight, acc_delta and acc_g."""
    # g = clip(rescale_grad * grad, clip_gradient) + wd * weight
    g = clip(rescale_grad * grad, clip_gradient) + wd * weight
    # acc_g = rho * acc_g + (1 - rho) * square(g)
    new_acc_g = rho * acc_g + one_minus_rho * square(g)
    # delta = sqrt(acc_delta + epsilon) / sqrt(acc_g + epsilon) * g
    delta = sqrt(acc_delta + epsilon) / sqrt(new_acc_g + epsilon) * g
    # acc_delta = rho * acc_delta + (1 - rho) * square(delta)
    new_acc_delta = rho * acc_delta + one_minus_rho * square(delta)
    # weight -= lr * delta
    return weight - lr * delta, new_acc_delta, new_acc_g


# launches: the kernel of every variant
UPDATE = {(): update}
