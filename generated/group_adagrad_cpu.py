# Generated from specs/group_adagrad.yaml by stepspec. Do not edit: run "make generate".
"""CPU kernels of GroupAdaGrad: serial loops over one chunk of a tensor, run in parallel by `stepspec.cpu`."""

from stepspec.arithmetic import clip, row_mean, sqrt, square
from stepspec.cpu import rows
from stepspec.walks import STRIP, prefetch, row_scratch, strip


@rows(element=("weight", "grad"), row=("history",))
def update(weight, grad, history, rescale_grad, clip_gradient, lr, epsilon):
    """Write weight and history."""
    terms = row_scratch(weight)
    for r in range(weight.shape[0]):
        for column in range(0, weight.shape[1], STRIP):
            prefetch(weight, r, column)
            for i in strip(weight, column):
                # g = clip(rescale_grad * grad, clip_gradient)
                g = clip(rescale_grad * grad[r, i], clip_gradient)
                # history += mean(square(g), per=row)
                terms[i] = square(g)
        row_mean_square_g = row_mean(terms)
        new_history = history[r] + row_mean_square_g
        for column in range(0, weight.shape[1], STRIP):
            prefetch(grad, r + 1, column)
            for i in strip(weight, column):
                g = clip(rescale_grad * grad[r, i], clip_gradient)
                # weight -= lr * g / (sqrt(history) + epsilon)
                weight[r, i] = weight[r, i] - lr * g / (sqrt(new_history) + epsilon)
        history[r] = new_history


# launches: the kernel of every variant
UPDATE = {(): update}
