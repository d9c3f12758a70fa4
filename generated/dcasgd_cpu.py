# Generated from specs/dcasgd.yaml by stepspec. Do not edit: run "make generate".
"""CPU kernels of DCASGD: serial loops over one chunk of a tensor, run in parallel by `stepspec.cpu`."""

from stepspec.arithmetic import clip, square
from stepspec.cpu import elements


@elements("weight", "grad", "previous_weight")
def update(weight, grad, previous_weight, rescale_grad, clip_gradient, wd, lamda, lr):
    """Write weight and previous_weight."""
    for i in range(weight.size):
        # g = clip(rescale_grad * grad, clip_gradient) + wd * weight
        g = clip(rescale_grad * grad[i], clip_gradient) + wd * weight[i]
        # compensated = g + lamda * square(g) * (weight - previous_weight)
        compensated = g + lamda * square(g) * (weight[i] - previous_weight[i])
        # mom = momentum * mom + lr * compensated
        mom = lr * compensated
        # previous_weight = weight
        previous_weight[i] = weight[i]
        # weight -= mom
        weight[i] = weight[i] - mom


@elements("weight", "grad", "mom", "previous_weight")
def update_mom(weight, grad, mom, previous_weight, rescale_grad, clip_gradient, wd, lamda, momentum, lr):
    """Write weight, mom and previous_weight."""
    for i in range(weight.size):
        # g = clip(rescale_grad * grad, clip_gradient) + wd * weight
        g = clip(rescale_grad * grad[i], clip_gradient) + wd * weight[i]
        # compensated = g + lamda * square(g) * (weight - previous_weight)
        compensated = g + lamda * square(g) * (weight[i] - previous_weight[i])
        # mom = momentum * mom + lr * compensated
        new_mom = momentum * mom[i] + lr * compensated
        # previous_weight = weight
        previous_weight[i] = weight[i]
        # weight -= mom
        weight[i] = weight[i] - new_mom
        mom[i] = new_mom


# launches: the kernel of every variant, by (momentum > 0)
UPDATE = {(False,): update, (True,): update_mom}
