# Generated from specs/lars.yaml by stepspec. Do not edit: run "make generate".
"""CPU kernels of LARS: serial loops over one chunk of a tensor, run in parallel by `stepspec.cpu`."""

from stepspec.arithmetic import clip
from stepspec.cpu import elements, scalars


@elements("weight", "grad", w_norm="norm", g_norm="norm")
def reduce(weight, grad, w_norm, g_norm, rescale_grad):
    """Collect the terms of w_norm, g_norm."""
    for i in range(weight.size):
        # w_norm = norm(weight)
        w_norm[i] = weight[i]
        # g_norm = norm(rescale_grad * grad)
        g_norm[i] = rescale_grad * grad[i]


@scalars("lr_times_trust")
def combine(w_norm, g_norm, eta, wd, epsilon, lr):
    """Compute lr_times_trust from numbers of one tensor, in float64."""
    # trust = eta * w_norm / (g_norm + wd * w_norm + epsilon) if adapt and w_norm > 0 and g_norm > 0 else 1
    trust = eta * w_norm / (g_norm + wd * w_norm + epsilon) if w_norm > 0.0 and g_norm > 0.0 else 1.0
    return lr * trust


@elements("weight", "grad")
def update(weight, grad, rescale_grad, clip_gradient, wd, lr):
    """Write weight."""
    for i in range(weight.size):
        # g = clip(rescale_grad * grad, clip_gradient) + wd * weight
        g = clip(rescale_grad * grad[i], clip_gradient) + wd * weight[i]
        # mom = momentum * mom + lr * trust * g
        mom = lr * g
        # weight -= mom
        weight[i] = weight[i] - mom


@elements("weight", "grad")
def update_adapt(weight, grad, rescale_grad, clip_gradient, wd, lr_times_trust):
    """Write weight."""
    for i in range(weight.size):
        # g = clip(rescale_grad * grad, clip_gradient) + wd * weight
        g = clip(rescale_grad * grad[i], clip_gradient) + wd * weight[i]
        # mom = momentum * mom + lr * trust * g
        mom = lr_times_trust * g
        # weight -= mom
        weight[i] = weight[i] - mom


@elements("weight", "grad", "mom")
def update_mom(weight, grad, mom, rescale_grad, clip_gradient, wd, momentum, lr):
    """Write weight and mom."""
    for i in range(weight.size):
        # g = clip(rescale_grad * grad, clip_gradient) + wd * weight
        g = clip(rescale_grad * grad[i], clip_gradient) + wd * weight[i]
        # mom = momentum * mom + lr * trust * g
        new_mom = momentum * mom[i] + lr * g
        # weight -= mom
        weight[i] = weight[i] - new_mom
        mom[i] = new_mom


@elements("weight", "grad", "mom")
def update_mom_adapt(weight, grad, mom, rescale_grad, clip_gradient, wd, momentum, lr_times_trust):
    """Write weight and mom."""
    for i in range(weight.size):
        # g = clip(rescale_grad * grad, clip_gradient) + wd * weight
        g = clip(rescale_grad * grad[i], clip_gradient) + wd * weight[i]
        # mom = momentum * mom + lr * trust * g
        new_mom = momentum * mom[i] + lr_times_trust * g
        # weight -= mom
        weight[i] = weight[i] - new_mom
        mom[i] = new_mom


# launches: the kernel of every variant, by (momentum > 0, adapt)
REDUCE = {(False, True): reduce, (True, True): reduce}
COMBINE = {(False, True): combine, (True, True): combine}
UPDATE = {
    (False, False): update,
    (False, True): update_adapt,
    (True, False): update_mom,
    (True, True): update_mom_adapt,
}
