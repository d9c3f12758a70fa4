# Generated from specs/group_adagrad.yaml by stepspec. Do not edit: run "make generate".
"""CUDA kernels of GroupAdaGrad: functions of one element, row, column or tensor, run by `stepspec.cuda`."""

from stepspec.arithmetic import clip, sqrt, square
from stepspec.cuda import row_values, rows, terms


@terms(row_mean_square_g="mean")
def update_terms(grad, rescale_grad, clip_gradient):
    """Return the terms of row_mean_square_g."""
    # g = clip(rescale_grad * grad, clip_gradient)
    g = clip(rescale_grad * grad, clip_gradient)
    # history += mean(square(g), per=row)
    return square(g)


@row_values("new_history")
def update_rows(history, row_mean_square_g):
    """Return new_history."""
    # history += mean(square(g), per=row)
    return history + row_mean_square_g


@rows(
    update_terms,
    update_rows,
    element=("weight", "grad"),
    row=("history",),
    writes=("weight",),
    row_writes={"history": "new_history"},
)
def update(weight, grad, new_history, rescale_grad, clip_gradient, lr, epsilon):
    """Return weight."""
    # g = clip(rescale_grad * grad, clip_gradient)
    g = clip(rescale_grad * grad, clip_gradient)
    # weight -= lr * g / (sqrt(history) + epsilon)
    return weight - lr * g / (sqrt(new_history) + epsilon)


# launches: the kernel of every variant
UPDATE = {(): update}
