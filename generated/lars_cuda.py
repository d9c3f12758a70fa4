# Generated from specs/lars.yaml by stepspec. Do not edit: run "make generate".
"""CUDA kernels of LARS: functions of one element, row, column or tensor, run by `stepspec.cuda`."""

from stepspec.arithmetic import clip
from stepspec.cuda import elements, scalars


@elements(reads=("weight", "grad"), reduces={"w_norm": "norm", "g_norm": "norm"})
def reduce(weight, grad, rescale_grad):
    """Return the terms of w_norm and g_norm."""
    # w_norm = norm(weight)
    # g_norm = norm(rescale_grad * grad)
    return weight, rescale_grad * grad


@scalars("lr_times_trust")
def combine(w_norm, g_norm, eta, wd, epsilon, lr):
    """Compute lr_times_trust from numbers of one tensor, in float64."""
    # trust = eta * w_norm / (g_norm + wd * w_norm + epsilon) if adapt and w_norm > 0 and g_norm > 0 else 1
    trust = eta * w_norm / (g_norm + wd * w_norm + epsilon) if w_norm > 0.0 and g_norm > 0.0 else 1.0
    return lr * trust


@elements(reads=("weight", "grad"), writes=("weight",))
def update(weight, grad, rescale_grad, clip_gradient, wd, lr):
    """Return weight."""
    # g = clip(rescale_grad * grad, clip_gradient) + wd * weight
    g = clip(rescale_grad * grad, clip_gradient) + wd * weight
    # mom = momentum * mom + lr * trust * g
    mom = lr * g
    # weight -= mom
    return weight - mom


@elements(reads=("weight", "grad"), writes=("weight",))
def update_adapt(weight, grad, rescale_grad, clip_gradient, wd, lr_times_trust):
    """Return weight."""
    # g = clip(rescale_grad * grad, clip_gradient) + wd * weight
    g = clip(rescale_grad * grad, clip_gradient) + wd * weight
    # mom = momentum * mom + lr * trust * g
    mom = lr_times_trust * g
    # weight -= mom
    return weight - mom


@elements(reads=("weight", "grad", "mom"), writes=("weight", "mom"))
def update_mom(weight, grad, mom, rescale_grad, clip_gradient, wd, momentum, lr):
    """Return weight and mom."""
    # g = clip(rescale_grad * grad, clip_gradient) + wd * weight
    g = clip(rescale_grad * grad, clip_gradient) + wd * weight
    # mom = momentum * mom + lr * trust * g
    new_mom = momentum * mom + lr * g
    # weight -= mom
    return weight - new_mom, new_mom


@elements(reads=("weight", "grad", "mom"), writes=("weight", "mom"))
def update_mom_adapt(weight, grad, mom, rescale_grad, clip_gradient, wd, momentum, lr_times_trust):
    """Return weight and mom."""
    # g = clip(rescale_grad * grad, clip_gradient) + wd * weight
    g = clip(rescale_grad * grad, clip_gradient) + wd * weight
    # mom = momentum * mom + lr * trust * g
    new_mom = momentum * mom + lr_times_trust * g
    # weight -= mom
    return weight - new_mom, new_mom


# launches: the kernel of every variant, by (momentum > 0, adapt)
REDUCE = {(False, True): reduce, (True, True): reduce}
COMBINE = {(False, True): combine, (True, True): combine}
UPDATE = {
    (False, False): update,
    (False, True): update_adapt,
    (True, False): update_mom,
    (True, True): update_mom_adapt,
}
