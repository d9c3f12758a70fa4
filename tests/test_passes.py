"""The compiler's passes, one at a time: a fragment of a rule and what becomes of it."""

from pathlib import Path

import pytest
from fragments import only, rule

from stepspec.generator.analysis import compile_variants, cost, divides_by_rate, uses
from stepspec.generator.cpu_text import print_cpu
from stepspec.generator.errors import SpecError
from stepspec.generator.fold import fold
from stepspec.generator.hoist import hoist, name_noise, name_reductions
from stepspec.generator.ir import Extent, Statements
from stepspec.generator.kernels import print_kernels
from stepspec.generator.language import NOISE_FLOPS
from stepspec.generator.parse import Rule, parse
from stepspec.generator.passes import prune, specialise, straight_line, variants
from stepspec.generator.printer import HostPrinter, ReferencePrinter
from stepspec.generator.reader import load
from stepspec.generator.stages import ArrayKernel, ScalarKernel, lower

SPECS = Path(__file__).parent.parent / "specs"


def lines(statements: Statements) -> list[str]:
    """Return the statements as the reference prints them."""
    printer = ReferencePrinter()
    return [f"{s.target.name} = {printer.text(s.value)}" for s in statements]


MOMENTUM = 'momentum: {default: 0.9, range: "[0, 1)"}'
EPSILON = 'epsilon: {default: 1e-8, range: "[0, inf)"}'
MOM = "mom: {when: momentum > 0}"


@pytest.mark.parametrize(
    ("written", "printed"),
    [
        ("grad - (weight - lr)", "grad - (weight - lr)"),
        ("grad - weight - lr", "grad - weight - lr"),
        ("(grad - weight) - lr", "grad - weight - lr"),
        ("grad / (weight / lr)", "grad / (weight / lr)"),
        ("(grad + weight) * lr", "(grad + weight) * lr"),
        ("-(grad + weight)", "-(grad + weight)"),
        ("-grad * weight", "-grad * weight"),
        ("grad * -weight", "grad * -weight"),
        ("-grad ** 2", "-square(grad)"),
        ("(-grad) ** 3", "power(-grad, 3)"),
        ("grad ** 0.5", "sqrt(grad)"),
        ("2 ** -t * grad", "2 ** -t * grad"),
        ("(lr ** 2) ** t * grad", "(lr**2) ** t * grad"),
        ("lr if grad > 0 else weight", "where(grad > 0, dtype(lr), weight)"),
        ("(lr if t > 5 else wd) * grad", "(lr if t > 5 else wd) * grad"),
        ("lr if t > 5 else grad", "where(t > 5, dtype(lr), grad)"),
        ("grad if t > 5 else weight", "grad if t > 5 else weight"),
        ("lr * norm(grad) * grad", "dtype(lr * norm(grad)) * grad"),
        ("maximum(grad, 1e-8)", "maximum(grad, dtype(1e-08))"),
        (
            "(lr if lr > 1 or wd > 1 and t > 2 else wd) * grad",
            "(lr if lr > 1 or (wd > 1 and t > 2) else wd) * grad",
        ),
        (
            "(lr if (lr > 1 or wd > 1) and t > 2 else wd) * grad",
            "(lr if (lr > 1 or wd > 1) and t > 2 else wd) * grad",
        ),
        ("sqrt(lr) * grad", "math.sqrt(lr) * grad"),
        ("1.50 * grad", "1.5 * grad"),
        ("grad - sqrt(lr) * normal()", "grad - math.sqrt(lr) * p.normal()"),
        ("normal() if normal() > 0 else -normal()", "where(p.normal(2) > 0, p.normal(), -p.normal(3))"),
    ],
)
def test_formulas_keep_their_tree(written: str, printed: str) -> None:
    assert lines(only(rule(f"weight = {written}"))) == [f"weight = {printed}"]


@pytest.mark.parametrize(
    ("written", "folded"),
    [
        ("2 * 3 * grad", "6 * grad"),
        ("0 * grad + lr * weight", "lr * weight"),
        ("grad + 0", "grad"),
        ("0 + grad", "grad"),
        ("(0 - grad) * lr", "-grad * lr"),
        ("1 * grad / 1", "grad"),
        ("0 / grad + lr * weight", "lr * weight"),
        ("sqrt(0) * grad + lr * weight", "lr * weight"),
        ("(lr if 1 > 2 else wd) * grad", "wd * grad"),
        ("lr * grad ** 1.0 * 1", None),
        ("1 / 0 * grad", "1 / 0 * grad"),
        ("--grad", "grad"),
        ("sign(0 * grad - 5) * grad", "-1 * grad"),
        ("sign(0 * grad + lr) * grad", "(1 if lr > 0 else -1 if lr < 0 else 0) * grad"),
        ("clip(0 * grad, 1, 2) * grad", "min(max(0, 1), 2) * grad"),
        ("1e200 * 1e200 * grad", "1e+200 * 1e+200 * grad"),
        ("1e300 ** 2 * grad", "1e+300**2 * grad"),
    ],
)
def test_fold(written: str, folded: str | None) -> None:
    if folded is None:
        with pytest.raises(SpecError, match="raised to 2"):
            rule(f"weight = {written}")
        return
    assert lines(only(rule(f"weight = {written}"))) == [f"weight = {folded}"]


def test_constants_are_carried_through_locals() -> None:
    found = rule("a = 2\nb = a * 3\nweight -= b * lr * grad")
    assert lines(only(found)) == ["weight = weight - 6 * lr * grad"]


def test_specialise_pins_what_a_condition_tells() -> None:
    found = rule("mom = momentum * mom + lr * grad\nweight -= momentum * mom + lr * grad", MOMENTUM, MOM)
    without, with_momentum = variants(found)
    assert lines(specialise(found, without)) == [
        "mom = 0 * 0 + lr * grad",
        "weight = weight - (0 * mom + lr * grad)",
    ]
    assert lines(straight_line(found, without)) == ["weight = weight - lr * grad"]
    assert lines(straight_line(found, with_momentum)) == [
        "mom = momentum * mom + lr * grad",
        "weight = weight - (momentum * mom + lr * grad)",
    ]


def test_specialise_takes_one_branch() -> None:
    found = rule(
        "g = grad\nif decay:\n  g += wd * weight\nweight -= lr * g", tensors="decay: {default: true}"
    )
    texts = [lines(straight_line(found, choice)) for choice in variants(found)]
    assert texts == [
        ["g = grad", "weight = weight - lr * g"],
        ["g = grad", "g = g + wd * weight", "weight = weight - lr * g"],
    ]


def test_static_part_of_a_condition_is_resolved() -> None:
    found = rule(
        "k = 2 if adapt and norm(grad) > 0 else 1\nweight -= lr * k * grad",
        tensors="adapt: {default: true}",
    )
    texts = [lines(straight_line(found, choice)) for choice in variants(found)]
    assert texts == [
        ["weight = weight - lr * grad"],
        ["k = np.float64(2) if norm(grad) > 0 else np.float64(1)", "weight = weight - dtype(lr * k) * grad"],
    ]


def test_prune_drops_what_no_output_needs() -> None:
    found = rule(
        "mom = momentum * mom + grad\nu = mom * 2\nweight -= lr * grad + 0 * u",
        MOMENTUM,
        "mom: {per: element}",
    )
    (choice,) = variants(found)
    assert lines(prune(fold(specialise(found, choice)))) == [
        "mom = momentum * mom + grad",
        "weight = weight - lr * grad",
    ]


def test_a_number_assigned_to_a_state_is_spread() -> None:
    found = rule("s = lr\nweight -= s * s * grad", state="s: {per: element, init: 1}")
    with pytest.raises(SpecError, match="never read"):
        rule("s = lr\nweight -= lr * grad", state="s: {per: element}")
    assert lines(only(found)) == ["s = spread(lr, weight)", "weight = weight - s * s * grad"]


def test_name_reductions() -> None:
    found = rule("h = h + mean(square(grad), per=row)\nweight -= lr * grad / sqrt(h)", state="h: {per: row}")
    assert lines(name_reductions(only(found))) == [
        "row_mean_square_grad = row_mean(square(grad))",
        "h = h + row_mean_square_grad",
        "weight = weight - lr * grad / sqrt(h)",
    ]


def test_a_variant_does_not_renumber_draws() -> None:
    update = "g = grad\nif noisy:\n  g += normal()\nz = normal()\nweight -= lr * g * z * z"
    found = rule(update, tensors="noisy: {default: true}")
    without, with_noise = (lines(straight_line(found, choice)) for choice in variants(found))
    assert without == ["g = grad", "z = p.normal(2)", "weight = weight - lr * g * z * z"]
    assert with_noise[1:3] == ["g = g + p.normal()", "z = p.normal(2)"]


def test_name_noise() -> None:
    found = name_noise(only(rule("weight -= lr * norm(normal()) * (grad - normal())")))
    assert lines(name_reductions(found)) == [
        "norm_normal = norm(normal)",
        "weight = weight - dtype(lr * norm_normal) * (grad - normal_2)",
    ]


def test_noise_costs_no_memory() -> None:
    (found,) = compile_variants(rule("weight -= normal() * normal()"))
    assert (cost(found).reads, cost(found).writes) == (1, 1)
    assert cost(found).flops == 2 * NOISE_FLOPS + 2


def test_hoist_names_the_scalars_of_array_formulas() -> None:
    found = rule("c = 1 - 0.9 ** t\nweight -= lr / c * (grad + 0.5 * wd * norm(grad) * weight)")
    hoisted = hoist(name_reductions(only(found)))
    assert lines(hoisted.statements) == [
        "norm_grad = norm(grad)",
        "half_times_wd_times_norm_grad = half_times_wd * norm_grad",
        "weight = weight - lr_over_c * (grad + dtype(half_times_wd_times_norm_grad) * weight)",
    ]
    assert {name: HostPrinter().text(value) for name, value in hoisted.host.items()} == {
        "lr_over_c": "p.lr / (1 - 0.9**p.t)",
        "half_times_wd": "0.5 * p.wd",
    }


def test_hoist_makes_numbers_of_conditions() -> None:
    found = rule("weight -= grad if lr > wd else weight")
    hoisted = hoist(only(found))
    assert lines(hoisted.statements) == ["weight = weight - (grad if lr_above_wd != zero else weight)"]
    assert HostPrinter().text(hoisted.host["lr_above_wd"]) == "1 if p.lr > p.wd else 0"


def _stages(found: Rule) -> list[str]:
    return [f"{kind}_{stage}" for (kind, stage), _ in lower(only(found)).stages]


@pytest.mark.parametrize(
    ("update", "state", "stages"),
    [
        ("weight -= lr * grad", "", ["UPDATE_1"]),
        ("weight -= lr * norm(grad) * grad", "", ["REDUCE_1", "COMBINE_2", "UPDATE_2"]),
        ("weight -= lr * grad / norm(grad)", "", ["REDUCE_1", "UPDATE_2"]),
        ("u = grad / norm(grad)\nweight -= lr * u / norm(u)", "", ["REDUCE_1", "REDUCE_2", "UPDATE_3"]),
        ("weight -= lr * grad / mean(grad, per=row)", "", ["UPDATE_1"]),
        ("weight -= lr * grad / mean(grad, per=column)", "", ["REDUCE_1", "UPDATE_2"]),
        ("k = k * lr\nweight -= k * grad", "k: {per: tensor, init: 1}", ["COMBINE_1", "UPDATE_1"]),
        (
            "c += mean(grad, per=column)\nweight -= lr * c",
            "c: {per: column}",
            ["REDUCE_1", "UPDATE_2", "UPDATE_COLUMNS_2"],
        ),
    ],
)
def test_split_into_stages(update: str, state: str, stages: list[str]) -> None:
    assert _stages(rule(update, state=state)) == stages


def test_only_the_last_kernels_write() -> None:
    for path in sorted(SPECS.glob("*.yaml")):
        for variant in compile_variants(parse(load(path))):
            kernels = [kernel for _, kernel in variant.program.stages]
            writing = [k for k in kernels if isinstance(k, ArrayKernel) and k.writes]
            assert writing == kernels[-len(writing) :]


def test_later_stages_recompute_elements_but_not_numbers() -> None:
    found = rule("m = 0.9 * m + grad\nu = m / 2\nweight -= lr / norm(u) * u", state="m: {per: element}")
    program = lower(only(found))
    (_, reduce), (_, combine), (_, update) = program.stages
    assert isinstance(reduce, ArrayKernel)
    assert isinstance(combine, ScalarKernel)
    assert isinstance(update, ArrayKernel)
    assert [s.target.name for s in reduce.statements] == ["m", "u"]
    assert [s.target.name for s in update.statements] == ["m", "u", "weight"]
    assert update.scalars == ("number_0_9", "two", "lr_over_norm_u")


def test_extents_are_joined() -> None:
    assert Extent.ROW | Extent.COLUMN is Extent.ELEMENT
    assert Extent.TENSOR | Extent.MODEL is Extent.TENSOR
    assert Extent.MODEL.is_scalar
    assert not Extent.ROW.is_scalar


def test_kernels_are_shared_between_variants() -> None:
    lars = parse(load(SPECS / "lars.yaml"))
    text = print_kernels(lars, compile_variants(lars), print_cpu)
    assert [k.name for k in text.kernels] == [
        "reduce",
        "combine",
        "update",
        "update_adapt",
        "update_mom",
        "update_mom_adapt",
    ]
    assert [(s.label, len(s.kernels)) for s in text.stages] == [("REDUCE", 2), ("COMBINE", 2), ("UPDATE", 4)]


def test_kernels_are_named_after_the_states_that_are_stored() -> None:
    """Of RMSProp, `mean` is stored when centered, and `mom` when momentum is above 0 as well."""
    rmsprop = parse(load(SPECS / "rmsprop.yaml"))
    text = print_kernels(rmsprop, compile_variants(rmsprop), print_cpu)
    assert [k.name for k in text.kernels] == ["update", "update_mean", "update_mean_mom"]


@pytest.mark.parametrize(
    ("name", "costs"),
    [
        ("sgd", [(2, 1, 0, 1), (3, 2, 1, 1)]),
        ("nag", [(2, 1, 0, 1), (3, 2, 1, 1)]),
        ("group_adagrad", [(2, 1, 0, 1)]),
        ("ftml", [(5, 4, 3, 1)]),
        ("lars", [(2, 1, 0, 1), (4, 1, 0, 2), (3, 2, 1, 1), (5, 2, 1, 2)]),
    ],
)
def test_cost(name: str, costs: list[tuple[int, int, int, int]]) -> None:
    found = [cost(variant) for variant in compile_variants(parse(load(SPECS / f"{name}.yaml")))]
    assert [(c.reads, c.writes, c.state, c.passes) for c in found] == costs
    assert found[0].bytes(8) == 2 * found[0].bytes(4)


def test_cost_with_a_master() -> None:
    found = compile_variants(parse(load(SPECS / "lars.yaml")))[-1]
    # the master twice, the gradient twice, the momentum; then all but the gradient, and the rounded weight
    assert cost(found).bytes_with_master == (4 + 4 + 2 + 2 + 4) + (4 + 4 + 2)


def test_what_a_rule_divides_by_and_uses() -> None:
    assert divides_by_rate(parse(load(SPECS / "ftml.yaml")))
    assert not divides_by_rate(parse(load(SPECS / "lars.yaml")))
    assert divides_by_rate(rule("c = 2 * lr\nweight -= grad / c"))
    assert not uses(parse(load(SPECS / "group_adagrad.yaml")), "wd")
