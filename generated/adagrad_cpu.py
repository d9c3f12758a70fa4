# Generated from specs/adagrad.yaml by stepspec. Do not edit: run "make generate".
"""CPU kernels of AdaGrad: serial loops over one chunk of a tensor, run in parallel by `stepspec.cpu`."""

from stepspec.arithmetic import clip, sqrt, square
from stepspec.cpu import elements


@elements("weight", "grad", "history")
def update(weight, grad, history, rescale_grad, clip_gradient, wd, lr, epsilon):
    """Write weight and history."""
    for i in range(weight.size):
        # g = clip(rescale_grad * grad, clip_gradient) + wd * weight
        g = clip(rescale_grad * grad[i], clip_gradient) + wd * weight[i]
        # history += square(g)
        new_history = history[i] + square(g)
        # weight -= lr * g / (sqrt(history) + epsilon)
        weight[i] = weight[i] - lr * g / (sqrt(new_history) + epsilon)
        history[i] = new_history


# launches: the kernel of every variant
UPDATE = {(): update}
