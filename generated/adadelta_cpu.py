# Generated from specs/adadelta.yaml by stepspec. Do not edit: run "make generate".
"""CPU kernels of AdaDelta: serial loops over one chunk of a tensor, run in parallel by `stepspec.cpu`."""

from stepspec.arithmetic import clip, sqrt, square
from stepspec.cpu import elements


@elements("weight", "grad", "acc_delta", "acc_g")
def update(weight, grad, acc_delta, acc_g, rescale_grad, clip_gradient, wd, rho, one_minus_rho, epsilon, lr):
    """Write weight, acc_delta and acc_g."""
    for i in range(weight.size):
        # g = clip(rescale_grad * grad, clip_gradient) + wd * weight
        g = clip(rescale_grad * grad[i], clip_gradient) + wd * weight[i]
        # acc_g = rho * acc_g + (1 - rho) * square(g)
        new_acc_g = rho * acc_g[i] + one_minus_rho * square(g)
        # delta = sqrt(acc_delta + epsilon) / sqrt(acc_g + epsilon) * g
        delta = sqrt(acc_delta[i] + epsilon) / sqrt(new_acc_g + epsilon) * g
        # acc_delta = rho * acc_delta + (1 - rho) * square(delta)
        acc_delta[i] = rho * acc_delta[i] + one_minus_rho * square(delta)
        # weight -= lr * delta
        weight[i] = weight[i] - lr * delta
        acc_g[i] = new_acc_g


# launches: the kernel of every variant
UPDATE = {(): update}
