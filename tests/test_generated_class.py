"""The generated class beside its mathematics: the rule as text, the lazy switch, signs, what the docs say."""

import inspect
import re
from pathlib import Path
from typing import Any

import pytest
from fragments import module, optimizer_class, rule, spec

import stepspec
from stepspec.generator.attributes import canonical_lines
from stepspec.generator.emit import emit
from stepspec.generator.reader import load

SPECS = Path(__file__).parent.parent / "specs"
MOM = "mom: {per: element}"
NAME = "g" * 50
LONG = " + ".join(f"0.{number} * grad * weight" for number in range(1, 9))


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        ("weight -= lr*grad", ["weight = weight - lr * grad"]),
        ("# down\nweight = weight - (lr * grad)  # one step", ["weight = weight - lr * grad"]),
        ("weight -= lr * (grad - weight)", ["weight = weight - lr * (grad - weight)"]),
        ("weight -= 1e-8 * grad", ["weight = weight - 1e-08 * grad"]),
        ("weight -= 0.00000001*grad", ["weight = weight - 1e-08 * grad"]),
        ("weight -= 2.0 * grad", ["weight = weight - 2 * grad"]),
        ("weight -= norm(grad, per = tensor) * grad", ["weight = weight - norm(grad) * grad"]),
        ("weight -= mean(grad , per=row)", ["weight = weight - mean(grad, per=row)"]),
        ("weight -= clip(grad, -1, 2)**2", ["weight = weight - clip(grad, -1, 2) ** 2"]),
        ("weight -= (-grad)**3 - -grad**3", ["weight = weight - ((-grad) ** 3 - -grad ** 3)"]),
        ("weight -= (0.9**t)**2 * 2**-t * grad", ["weight = weight - (0.9 ** t) ** 2 * 2 ** -t * grad"]),
        (
            "weight -= grad if not (grad > 0 and lr<1) else (lr)",
            ["weight = weight - (grad if not (grad > 0 and lr < 1) else lr)"],
        ),
        (
            "if ndim>1:\n  weight -= grad\nelse:\n    weight -= lr\n    weight -= grad",
            [
                "if ndim > 1:",
                "    weight = weight - grad",
                "else:",
                "    weight = weight - lr",
                "    weight = weight - grad",
            ],
        ),
        ("g = grad\nif ndim > 1:\n  g = -g\nweight -= g", None),
    ],
)
def test_canonical_text(written: str, canonical: list[str] | None) -> None:
    lines = canonical_lines(rule(written).statements)
    assert lines == (canonical or ["g = grad", "if ndim > 1:", "    g = -g", "weight = weight - g"])
    # the canonical text is a rule itself, the same one
    assert canonical_lines(rule("\n".join(lines)).statements) == lines


@pytest.mark.parametrize(
    ("update", "attribute"),
    [
        ("weight -= lr * grad", ['    rule = "weight = weight - lr * grad"']),
        (
            "g = lr * grad\nweight -= g",
            ['    rule = "g = lr * grad\\nweight = weight - g"'],
        ),
        (
            f"{NAME} = lr * grad\nweight -= {NAME}",
            [
                "    rule = (",
                f'        "{NAME} = lr * grad\\n"',
                f'        "weight = weight - {NAME}"',
                "    )",
            ],
        ),
    ],
)
def test_rule_attribute(update: str, attribute: list[str]) -> None:
    text = module(spec(update))
    assert "\n".join([*attribute, "    uses_wd = False", ""]) in text


@pytest.mark.parametrize(
    "update",
    [
        f"weight -= {LONG}",
        f"weight -= lr if {LONG} > 0 else grad",
        # nowhere to break but inside of a name, at any distance from its end
        *(f"{'g' * length} = grad\nweight -= {'g' * length}" for length in (97, 98, 99, 100, 200)),
    ],
)
def test_a_long_rule_is_broken(update: str) -> None:
    text = module(spec(update))
    assert optimizer_class(text).rule == "\n".join(canonical_lines(rule(update).statements))
    attribute = text[text.index("    rule = (") : text.index("    uses_wd")]
    assert max(map(len, attribute.split("\n"))) <= 110


def test_rules_of_the_optimizers(optimizer_class: type[stepspec.Optimizer]) -> None:
    doc = inspect.getdoc(optimizer_class) or ""
    assert any(line.strip().startswith("weight = ") for line in optimizer_class.rule.split("\n"))
    # the docstring keeps what the author wrote
    stem = optimizer_class.__module__.rpartition(".")[2]
    for line in load(SPECS / f"{stem}.yaml").update.text.rstrip().split("\n"):
        assert f"    {line}\n" in doc


def test_lazy_update_is_an_argument_where_the_spec_offers_it(
    optimizer_class: type[stepspec.Optimizer],
) -> None:
    stem = optimizer_class.__module__.rpartition(".")[2]
    offered = load(SPECS / f"{stem}.yaml").lazy_update
    assert offered or optimizer_class.__name__ not in ("Adam", "LARS", "SGD")
    parameters = inspect.signature(optimizer_class).parameters
    assert ("lazy_update" in parameters) == offered
    arguments: dict[str, Any] = {"lazy_update": True}
    if not offered:
        with pytest.raises(TypeError, match="lazy_update"):
            optimizer_class(**arguments)
        return
    assert list(parameters)[-2:] == ["lazy_update", "kwargs"]
    optimizer: Any = optimizer_class()
    assert optimizer.lazy_update is False
    optimizer.lazy_update = True
    assert optimizer_class(**arguments).lazy_update is True  # type: ignore[attr-defined]  # of these two
    with pytest.raises(TypeError, match="lazy_update must be True or False"):
        optimizer.lazy_update = 1


def test_lazy_update_can_be_declined() -> None:
    written = spec("weight -= lr * grad", more="lazy_update: false")
    assert not written.lazy_update
    assert emit(written) == emit(spec("weight -= lr * grad"))


def test_branches_that_do_the_same_are_one() -> None:
    """Without the first switch the second one changes nothing."""
    update = "if a:\n  g = 2 * grad if b else grad\nelse:\n  g = 3 * grad\nweight -= lr * g"
    _, _, text = module(spec(update, "a: {default: false}\nb: {default: false}")).partition("def step")
    branches = [line.strip() for line in text.split("\n") if re.match(r" +(if|elif|else)\b.*:$", line)]
    assert branches == ["if a and b:", "elif a:", "else:"]


def test_signs_of_mxnet() -> None:
    for cls in (stepspec.SGD, stepspec.NAG, stepspec.LARS):
        assert cls(momentum=0.9)._layout({"adapt": True}, 2)["mom"].mxnet_sign == -1
    for other in (stepspec.FTML(), stepspec.GroupAdaGrad()):
        assert {state.mxnet_sign for state in other._layout({}, 2).values()} == {1}


def test_a_wide_layout_is_broken() -> None:
    names = [f"a_rather_long_name_{number}" for number in range(4)]
    update = "\n".join([*(f"{name} += grad" for name in names), f"weight -= lr * {' * '.join(names)}"])
    text = module(spec(update, state="\n".join(f"{name}: {{mxnet: negated}}" for name in names)))
    entries = [f'            "{name}": State("element", 0.0, mxnet_sign=-1),' for name in names]
    assert "\n".join(["        return {", *entries, "        }", ""]) in text


ROWS = "Rows that a row-sparse gradient lacks"
SKIPPED = "as a gradient of zeros would leave them as they are"


@pytest.mark.parametrize(
    ("update", "state", "more", "sentence"),
    [
        ("weight -= lr * weight", "", "", f"{ROWS} count as zeros."),
        ("weight -= lr * grad", "", "", f"{ROWS} are skipped, {SKIPPED}."),
        (
            "weight -= grad / lr",
            "",
            "",
            f"{ROWS} are skipped where ``lr > 0``, {SKIPPED}; otherwise they count as zeros.",
        ),
        (
            "mom = 0.9 * mom + grad\nweight -= lr * mom",
            MOM,
            "lazy_update: true",
            f"{ROWS} are skipped if `lazy_update` is set; otherwise they count as zeros.",
        ),
        (
            "weight -= lr * grad + wd * weight",
            "",
            "lazy_update: true",
            f"{ROWS} are skipped if `lazy_update` is set, and where ``wd == 0``, {SKIPPED}; "
            "otherwise they count as zeros.",
        ),
    ],
)
def test_docs_tell_of_rows(update: str, state: str, more: str, sentence: str) -> None:
    doc = optimizer_class(module(spec(update, state=state, more=more))).__doc__
    assert sentence in " ".join(doc.split())
