# Generated from specs/ftrl.yaml by stepspec. Do not edit: run "make generate".
"""CUDA kernels of Ftrl: functions of one element, row, column or tensor, run by `stepspec.cuda`."""

from stepspec.arithmetic import clip, sign, sqrt, square
from stepspec.cuda import elements


@elements(reads=("weight", "grad", "n", "z"), writes=("weight", "n", "z"))
def update(weight, grad, n, z, rescale_grad, clip_gradient, lr, lamda1, zero, beta, wd):
    """Return weight, n and z."""
    # g = clip(rescale_grad * grad, clip_gradient)
    g = clip(rescale_grad * grad, clip_gradient)
    # old_n = n
    old_n = n
    # n += square(g)
    new_n = n + square(g)
    # z += g - (sqrt(n) - sqrt(old_n)) / lr * weight
    new_z = z + (g - (sqrt(new_n) - sqrt(old_n)) / lr * weight)
    # shrunk = sign(z) * lamda1 - z if abs(z) > lamda1 else 0
    shrunk = sign(new_z) * lamda1 - new_z if abs(new_z) > lamda1 else zero
    # weight = shrunk / ((beta + sqrt(n)) / lr + wd)
    return shrunk / ((beta + sqrt(new_n)) / lr + wd), new_n, new_z


# launches: the kernel of every variant
UPDATE = {(): update}
