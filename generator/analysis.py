"""What the compiler can tell of a rule before it runs: traffic, arithmetic, memory, laziness."""

from collections.abc import Iterator
from dataclasses import dataclass

from stepspec.generator import language
from stepspec.generator.errors import Problem, SpecError
from stepspec.generator.ir import (
    Assign,
    Binary,
    Call,
    Compare,
    Expr,
    Extent,
    If,
    Kind,
    Name,
    Negative,
    Noise,
    Power,
    Reduction,
    Select,
    Statement,
    Statements,
    names,
    walk,
)
from stepspec.generator.parse import Rule
from stepspec.generator.passes import Choice, outputs, straight_line, variants
from stepspec.generator.stages import ArrayKernel, Program, lower


@dataclass(frozen=True)
class Variant:
    """A rule specialised to one outcome of its static conditions, with its kernels."""

    choice: Choice
    statements: Statements
    program: Program


@dataclass(frozen=True)
class Cost:
    """What one update of one element costs, in numbers of the weight's dtype; row and column arrays left out.

    Attributes:
        reads: numbers read per element, all passes together.
        grads: how many of them are the gradient's.
        writes: numbers written per element.
        flops: arithmetic operations per element, recomputation included.
        state: numbers of state stored per element.
        passes: how often the elements are walked through.
    """

    reads: int
    grads: int
    writes: int
    flops: int
    state: int
    passes: int

    def bytes(self, itemsize: int = 4) -> int:
        """Return the bytes moved per element; `itemsize` is the dtype's, 4 for float32."""
        return (self.reads + self.writes) * itemsize

    @property
    def bytes_with_master(self) -> int:
        """Return the bytes moved per element of a half precision tensor with a float32 master."""
        return 4 * (self.reads - self.grads + self.writes) + 2 * self.grads + 2


def compile_variants(rule: Rule) -> tuple[Variant, ...]:
    """Return every variant of `rule`, specialised, folded and lowered."""
    done = []
    choices = variants(rule)
    straight = [straight_line(rule, choice) for choice in choices]
    # a kernel's scalar is found by its name: what passes or the user set must not be called like the host's
    taken = {s.target.name for statements in straight for s in statements if s.target.stage}
    taken |= {h.name for h in rule.spec.own_hyperparameters}
    host: dict[str, Expr] = {}
    for choice, statements in zip(choices, straight, strict=True):
        _check_outcome(rule, statements)
        _check_host_size(rule, statements)
        program = lower(statements, host, taken)
        host |= program.host
        taken |= {name.name for _, kernel in program.stages for name in getattr(kernel, "returns", ())}
        done.append(Variant(choice, statements, program))
    return tuple(done)


def _check_outcome(rule: Rule, statements: Statements) -> None:
    """Refuse a variant that has nothing to do."""
    if not statements:
        spans = (s.condition.span for s in rule.statements if isinstance(s, If))
        message, hint = "under some conditions nothing is updated", "assign weight or a state in every case"
        raise SpecError(rule.spec.source, [Problem(next(spans, rule.spec.span), message, hint)])


def _check_host_size(rule: Rule, statements: Statements) -> None:
    """Refuse a number that the host would compute by a formula without end: locals are written out in it."""
    sizes: dict[tuple[str, int], int] = {}
    for s in statements:
        if s.value.stage == 0:
            size = sum(sizes.get((n.name, n.version), 1) if isinstance(n, Name) else 1 for n in walk(s.value))
            if size > language.LONGEST_HOST_FORMULA:
                message = f"'{s.target.name}' takes more than {language.LONGEST_HOST_FORMULA} operations"
                problem = Problem(
                    s.target.span if s.target.span.line else s.span, message, "shorten the rule"
                )
                raise SpecError(rule.spec.source, [problem])
            sizes[s.target.name, s.target.version] = size


def cost(variant: Variant) -> Cost:
    """Return what the kernels of `variant` cost per element."""
    kernels = [kernel for _, kernel in variant.program.stages if isinstance(kernel, ArrayKernel)]
    walks = [k for k in kernels if any(extent is Extent.ELEMENT for _, extent in k.arrays)]
    stored = [n for name, n in outputs(variant.statements).items() if name != "weight"]
    reads = [name for kernel in walks for name in _element_reads(kernel)]
    return Cost(
        reads=len(reads),
        grads=reads.count("grad"),
        writes=sum(1 for kernel in walks for _, value in kernel.writes if value.extent is Extent.ELEMENT),
        flops=sum(_flops(s) for kernel in walks for s in (*kernel.statements, *kernel.reductions)),
        state=sum(1 for n in stored if n.extent is Extent.ELEMENT),
        passes=len(walks),
    )


def uses(rule: Rule, name: str) -> bool:
    """Tell whether any formula of the rule mentions `name`."""
    return any(n.name == name for s in _assigns(rule.statements) for n in names(s.value))


def draws_noise(rule: Rule) -> bool:
    """Tell whether any formula of the rule draws noise."""
    return any(isinstance(node, Noise) for s in _assigns(rule.statements) for node in walk(s.value))


def divides_by_rate(rule: Rule) -> bool:
    """Tell whether a formula divides by the learning rate, so that a rate of 0 must freeze a tensor."""
    tainted = {"lr"}
    for s in _assigns(rule.statements):
        if s.value.stage == 0 and any(n.name in tainted for n in names(s.value)):
            tainted.add(s.target.name)
    divisors = [
        node.right
        for s in _assigns(rule.statements)
        for node in walk(s.value)
        if isinstance(node, Binary) and node.operator == "/"
    ]
    return any(n.name in tainted for divisor in divisors for n in names(divisor))


def takes_max(rule: Rule) -> bool:
    """Tell whether a formula takes a maximum, which no empty tensor has."""
    nodes = (node for s in _assigns(rule.statements) for node in walk(s.value))
    return any(isinstance(node, Reduction) and node.function == "max" for node in nodes)


def _assigns(statements: tuple[Statement, ...]) -> Iterator[Assign]:
    for statement in statements:
        if isinstance(statement, Assign):
            yield statement
        else:
            yield from _assigns((*statement.then, *statement.otherwise))


def _element_reads(kernel: ArrayKernel) -> set[str]:
    values: list[Expr] = [s.value for s in (*kernel.statements, *kernel.reductions)]
    read = [n for value in values for n in names(value)] + [n for _, n in kernel.writes]
    elements = {name for name, extent in kernel.arrays if extent is Extent.ELEMENT}
    return {n.name for n in read if n.version == 0 and n.name in elements and n.kind is not Kind.NOISE}


def _flops(statement: Assign) -> int:
    """Count operations of one statement that are done once per element."""
    total = 0
    for node in walk(statement.value):
        if isinstance(node, Reduction):
            total += 2 if node.function == "norm" else 1
        elif Extent.COLUMN in node.extent:
            match node:
                case Binary() | Negative() | Compare() | Select():
                    total += 1
                case Power(exponent=exponent):
                    total += max(1, round(getattr(exponent, "value", 2.0)) - 1)
                case Call(function=function):
                    total += language.FUNCTIONS[function].flops
                case Name(kind=Kind.NOISE):
                    total += language.NOISE_FLOPS
                case Name() | _:
                    continue
    return total
