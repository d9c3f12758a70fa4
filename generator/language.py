"""The vocabulary of the spec language, as tables: adding a function is adding a row."""

from dataclasses import dataclass

# keys of a spec file, in the order in which they are usually written
KEYS = ("name", "summary", "paper", "hyperparameters", "state", "tensors", "require", "lazy_update", "update")
REQUIRED_KEYS = ("name", "summary", "hyperparameters", "update")

HYPERPARAMETER_KEYS = ("default", "range", "doc")
STATE_KEYS = ("per", "init", "when", "mxnet", "doc")
FLAG_KEYS = ("default", "unless_name_ends", "doc")

# names of every rule that are not its own: what the host knows of a call, of a tensor, of the optimizer
HOST_NAMES = {
    "lr": "learning rate of this tensor, schedule and multiplier applied",
    "wd": "weight decay of this tensor, multiplier applied",
    "t": "update count of this tensor, from 1",
    "rescale_grad": "factor of every gradient",
    "clip_gradient": "bound of every gradient element, infinite if off",
}
ARRAY_NAMES = {"weight": "the tensor to update", "grad": "its gradient"}
STATIC_NAMES = {"ndim": "number of dimensions of the tensor"}

# constructor arguments of every optimizer, which a spec cannot take for its own
COMMON_ARGUMENTS = frozenset(
    """
    learning_rate rescale_grad param_idx2name wd clip_gradient lr_scheduler begin_num_update multi_precision
    param_dict aggregate_num use_fused_step rounding seed lazy_update num_update
    """.split()
)

# names that the generated code or the optimizer's interface uses itself
RESERVED = frozenset(
    """
    self p dtype np math i r call kernels terms master index indices weights grads states flags layout
    column strip STRIP prefetch row_scratch
    create_state create_state_multi_precision update update_multi_precision step fused_step host requirements
    set_learning_rate set_lr_mult set_wd_mult uses_wd frozen_at_zero_rate refuses_empty elements rows scalars
    total largest where power spread clip_between
    row_norm row_sum row_mean row_max column_norm column_sum column_mean column_max
    lr_mult wd_mult update_count rule plan bool dict float int kwargs min range str super tuple
    columns present_rows present copy noise_key noise_count draws_noise
    normal_2 normal_3 normal_4 normal_5 normal_6 normal_7 normal_8
    Any Array Callable ClassVar Flag Hyperparameter Layout Mapping Optimizer Rate RowSparse Sequence State
    TensorFlag Variant
    """.split()
)

LARGEST_POWER = 8
MOST_DRAWS = 8
MOST_VARIANTS = 8
MOST_NESTING = 60
LONGEST_UPDATE = 20_000
LONGEST_HOST_FORMULA = 150


@dataclass(frozen=True, slots=True)
class Function:
    """An elementwise function: its argument counts and its name in kernels and reference, and on the host.

    The spellings are keyed by argument count; a host spelling of '' means that the host does not offer it.
    """

    spelling: dict[int, str]
    host: str
    flops: int = 1


FUNCTIONS = {
    "sqrt": Function({1: "sqrt"}, "math.sqrt"),
    "abs": Function({1: "abs"}, "abs"),
    "sign": Function({1: "sign"}, ""),
    "square": Function({1: "square"}, "square"),
    "exp": Function({1: "exp"}, "math.exp", flops=20),
    "log": Function({1: "log"}, "math.log", flops=20),
    "tanh": Function({1: "tanh"}, "math.tanh", flops=25),
    "minimum": Function({2: "minimum"}, "min"),
    "maximum": Function({2: "maximum"}, "max"),
    "clip": Function({2: "clip", 3: "clip_between"}, "min", flops=2),
}

# reduction -> its name in the reference per tensor, per row and per column
REDUCTIONS = {
    "norm": {"tensor": "norm", "row": "row_norm", "column": "column_norm"},
    "sum": {"tensor": "total", "row": "row_sum", "column": "column_sum"},
    "mean": {"tensor": "mean", "row": "row_mean", "column": "column_mean"},
    "max": {"tensor": "largest", "row": "row_max", "column": "column_max"},
}
# a standard normal number for each element, drawn anew in each step; its operations
NOISE = "normal"
NOISE_FLOPS = 150
# what a formula can call
CALLED = frozenset((*FUNCTIONS, *REDUCTIONS, NOISE))
# what other libraries have -> how it is written here
OTHER_FUNCTIONS = {
    "where": "write 'a if condition else b'",
    "relu": "write maximum(x, 0)",
    "pow": "write x ** 2",
}
# of these, what a state may be called in a rule that does not call it
LENDABLE = frozenset({"mean", "norm"})
PER = ("tensor", "row", "column", "model")
STATE_PER = ("element", "row", "column", "tensor")


def draw_name(stream: int) -> str:
    """Return how a kernel calls the numbers of a stream: `normal`, `normal_2` and so on."""
    return NOISE if stream == 1 else f"{NOISE}_{stream}"
