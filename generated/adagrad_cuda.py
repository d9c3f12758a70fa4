# Generated from specs/adagrad.yaml by stepspec. Do not edit: run "make generate".
"""CUDA kernels of AdaGrad: functions of one element, row, column or tensor, run by `stepspec.cuda`."""

from stepspec.arithmetic import clip, sqrt, square
from stepspec.cuda import elements


@elements(reads=("weight", "grad", "history"), writes=("weight", "history"))
def update(weight, grad, history, rescale_grad, clip_gradient, wd, lr, epsilon):
    """Return weight and history."""
    # g = clip(rescale_grad * grad, clip_gradient) + wd * weight
    g = clip(rescale_grad * grad, clip_gradient) + wd * weight
    # history += square(g)
    new_history = history + square(g)
    # weight -= lr * g / (sqrt(history) + epsilon)
    return weight - lr * g / (sqrt(new_history) + epsilon), new_history


# launches: the kernel of every variant
UPDATE = {(): update}
