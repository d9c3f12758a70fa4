"""The parameter tensors of the models that the benchmark steps: name -> shape, in the model's order."""

import math
from collections.abc import Callable
from typing import TypeAlias

Shapes: TypeAlias = dict[str, tuple[int, ...]]


def linear(name: str, inputs: int, outputs: int) -> Shapes:
    return {f"{name}_weight": (outputs, inputs), f"{name}_bias": (outputs,)}


def mlp() -> Shapes:
    """784-512-512-10 with biases: 6 tensors, 0.67 million parameters."""
    return linear("fc1", 784, 512) | linear("fc2", 512, 512) | linear("fc3", 512, 10)


def thousand_small() -> Shapes:
    """Return 1000 tensors of 256 elements: the cost of a tensor, not of its elements."""
    return {f"tensor{i}_weight": (256,) for i in range(1000)}


def convolution(name: str, inputs: int, outputs: int, size: int) -> Shapes:
    """Return a convolution without bias and the batch normalisation behind it."""
    return {
        f"{name}_weight": (outputs, inputs, size, size),
        f"{name}_bn_gamma": (outputs,),
        f"{name}_bn_beta": (outputs,),
    }


def resnet50() -> Shapes:
    """ResNet-50 for 1000 classes: 161 tensors, 25.6 million parameters."""
    shapes = convolution("stem", 3, 64, 7)
    inputs = 64
    for stage, (width, blocks) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3)), start=1):
        for block in range(blocks):
            name = f"stage{stage}_block{block}"
            shapes |= convolution(f"{name}_conv1", inputs, width, 1)
            shapes |= convolution(f"{name}_conv2", width, width, 3)
            shapes |= convolution(f"{name}_conv3", width, 4 * width, 1)
            if block == 0:
                shapes |= convolution(f"{name}_shortcut", inputs, 4 * width, 1)
            inputs = 4 * width
    return shapes | linear("fc", inputs, 1000)


def gpt2_small() -> Shapes:
    """GPT-2 small, its output tied to the embedding: 148 tensors, 124 million parameters."""
    width = 768
    shapes: Shapes = {"tokens_weight": (50257, width), "positions_weight": (1024, width)}
    for i in range(12):
        name = f"block{i}"
        shapes |= norm(f"{name}_norm1", width) | linear(f"{name}_attention", width, 3 * width)
        shapes |= linear(f"{name}_projection", width, width) | norm(f"{name}_norm2", width)
        shapes |= linear(f"{name}_fc1", width, 4 * width) | linear(f"{name}_fc2", 4 * width, width)
    return shapes | norm("norm", width)


def norm(name: str, width: int) -> Shapes:
    return {f"{name}_gamma": (width,), f"{name}_beta": (width,)}


def one_large() -> Shapes:
    """Return one tensor of 50 million elements."""
    return {"tensor_weight": (50_000, 1000)}


SETS: dict[str, Callable[[], Shapes]] = {
    "MLP": mlp,
    "1000 small": thousand_small,
    "ResNet-50": resnet50,
    "One of 50 M": one_large,
    "GPT-2 small": gpt2_small,
}


def size(name: str) -> int:
    """Return how many elements one of the SETS has."""
    return sum(math.prod(shape) for shape in SETS[name]().values())
