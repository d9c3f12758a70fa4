# Generated from specs/nag.yaml by stepspec. Do not edit: run "make generate".
"""CPU kernels of NAG: serial loops over one chunk of a tensor, run in parallel by `stepspec.cpu`."""

from stepspec.arithmetic import clip
from stepspec.cpu import elements


@elements("weight", "grad")
def update(weight, grad, rescale_grad, clip_gradient, wd, lr):
    """Write weight."""
    for i in range(weight.size):
        # g = clip(rescale_grad * grad, clip_gradient) + wd * weight
        g = clip(rescale_grad * grad[i], clip_gradient) + wd * weight[i]
        # weight = weight - (momentum * mom + lr * g)
        weight[i] = weight[i] - lr * g


@elements("weight", "grad", "mom")
def update_mom(weight, grad, mom, rescale_grad, clip_gradient, wd, momentum, lr):
    """Write weight and mom."""
    for i in range(weight.size):
        # g = clip(rescale_grad * grad, clip_gradient) + wd * weight
        g = clip(rescale_grad * grad[i], clip_gradient) + wd * weight[i]
        # mom = momentum * mom + lr * g
        new_mom = momentum * mom[i] + lr * g
        # weight = weight - (momentum * mom + lr * g)
        weight[i] = weight[i] - (momentum * new_mom + lr * g)
        mom[i] = new_mom


# launches: the kernel of every variant, by (momentum > 0)
UPDATE = {(False,): update, (True,): update_mom}
