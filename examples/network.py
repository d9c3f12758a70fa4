"""A two-layer network in plain NumPy: pixels, one hidden layer of ReLU units, ten digits."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.float32]
Labels: TypeAlias = npt.NDArray[np.int64]

PIXELS, HIDDEN, DIGITS = 64, 128, 10


class Network:
    """Weights of the network, its loss and the gradients of that loss.

    `names` and `weights` run in parallel; a layer's weight has shape (units, inputs), so that a row
    belongs to one unit. The weights are float32 arrays.
    """

    names = ("fc1_weight", "fc1_bias", "fc2_weight", "fc2_bias")

    def __init__(self, seed: int) -> None:
        random = np.random.default_rng(seed)
        self.weights = [
            layer(random, HIDDEN, PIXELS),
            np.zeros(HIDDEN, np.float32),
            layer(random, DIGITS, HIDDEN),
            np.zeros(DIGITS, np.float32),
        ]

    def take(self, weights: Sequence[npt.NDArray[Any]]) -> None:
        """Compute with these weights from now on, widened to float32 if they are of half precision."""
        self.weights = [weight.astype(np.float32, copy=False) for weight in weights]

    def forward(self, images: Floats) -> tuple[Floats, Floats]:
        """Return the hidden units (n, HIDDEN) and the logits (n, DIGITS) of images (n, PIXELS)."""
        weight1, bias1, weight2, bias2 = self.weights
        hidden = np.maximum(images @ weight1.T + bias1, 0)
        return hidden, hidden @ weight2.T + bias2

    def gradients(self, images: Floats, labels: Labels) -> tuple[float, list[Floats]]:
        """Return the mean cross-entropy of a batch and its gradients, one array per weight."""
        hidden, logits = self.forward(images)
        log_odds = log_softmax(logits)
        picked = np.arange(len(labels)), labels
        loss = -float(np.mean(log_odds[picked]))

        error = np.exp(log_odds)  # softmax - one-hot, over n: the gradient at the logits
        error[picked] -= 1
        error /= len(labels)
        back = (error @ self.weights[2]) * (hidden > 0)
        return loss, [back.T @ images, back.sum(axis=0), error.T @ hidden, error.sum(axis=0)]

    def accuracy(self, images: Floats, labels: Labels) -> float:
        """Return the share of images whose largest logit is the label's."""
        return float(np.mean(self.forward(images)[1].argmax(axis=1) == labels))


def layer(random: np.random.Generator, units: int, inputs: int) -> Floats:
    """Return He-initialised weights of one layer, shape (units, inputs)."""
    return random.standard_normal((units, inputs), np.float32) * np.float32(np.sqrt(2 / inputs))


def log_softmax(logits: Floats) -> Floats:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))
