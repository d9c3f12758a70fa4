# Generated from specs/ftrl.yaml by stepspec. Do not edit: run "make generate".
"""CPU kernels of Ftrl: serial loops over one chunk of a tensor, run in parallel by `stepspec.cpu`."""

from stepspec.arithmetic import clip, sign, sqrt, square
from stepspec.cpu import elements


@elements("weight", "grad", "n", "z")
def update(weight, grad, n, z, rescale_grad, clip_gradient, lr, lamda1, zero, beta, wd):
    """Write weight, n and z."""
    for i in range(weight.size):
        # g = clip(rescale_grad * grad, clip_gradient)
        g = clip(rescale_grad * grad[i], clip_gradient)
        # old_n = n
        old_n = n[i]
        # n += square(g)
        new_n = n[i] + square(g)
        # z += g - (sqrt(n) - sqrt(old_n)) / lr * weight
        new_z = z[i] + (g - (sqrt(new_n) - sqrt(old_n)) / lr * weight[i])
        # shrunk = sign(z) * lamda1 - z if abs(z) > lamda1 else 0
        shrunk = sign(new_z) * lamda1 - new_z if abs(new_z) > lamda1 else zero
        # weight = shrunk / ((beta + sqrt(n)) / lr + wd)
        weight[i] = shrunk / ((beta + sqrt(new_n)) / lr + wd)
        n[i] = new_n
        z[i] = new_z


# launches: the kernel of every variant
UPDATE = {(): update}
