"""PTX text, as NVIDIA's compiler writes it, read into functions of instructions."""

import math
import re
from dataclasses import dataclass

SIZES = {
    "pred": 1, "b8": 1, "u8": 1, "s8": 1, "b16": 2, "u16": 2, "s16": 2, "f16": 2, "bf16": 2,
    "b32": 4, "u32": 4, "s32": 4, "f32": 4, "f16x2": 4, "bf16x2": 4, "b64": 8, "u64": 8, "s64": 8, "f64": 8,
}  # fmt: skip
_FUNCTION = re.compile(r"\.(entry|func)\s+(?:\([^)]*\)\s*)?([\w$]+)\s*(?:\(([^)]*)\))?([^;{]*)([;{])")
_VARIABLE = re.compile(
    r"\.(global|const|shared|local)\s+(?:\.align\s+(\d+)\s+)?\.(\w+)\s+([\w$]+)((?:\[\d*\])*)(?:\s*=\s*(.*))?$",
    re.DOTALL,
)
_REGISTERS = re.compile(r"\.reg\s+\.(\w+)\s+(.*)", re.DOTALL)
_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/|^\s*\.(?:loc|file)\b[^\n]*", re.DOTALL | re.MULTILINE)
_LABEL = re.compile(r"\s*([\w$]+):(?!:)\s*")
_PREDICATE = re.compile(r"@(!?)(%[\w$]+)\s+(.*)", re.DOTALL)


@dataclass(frozen=True)
class Instruction:
    """One instruction: `@!%p add.rn.f32 %f1, %f2, %f3` has these parts."""

    text: str
    predicate: str | None
    negated: bool
    opcode: tuple[str, ...]
    operands: tuple[str, ...]


@dataclass(frozen=True)
class Label:
    """A place that branches name."""

    name: str


@dataclass(frozen=True)
class Variable:
    """A named piece of memory: `.shared .align 8 .b8 name[2048]`."""

    space: str
    name: str
    align: int
    size: int
    content: bytes


@dataclass(frozen=True)
class Function:
    """An entry: its parameters' types by name, registers' types by name, variables and code."""

    name: str
    parameters: dict[str, str]
    registers: dict[str, str]
    variables: tuple[Variable, ...]
    code: tuple[Instruction | Label, ...]


@dataclass(frozen=True)
class Text:
    """What a module holds."""

    functions: dict[str, Function]
    variables: tuple[Variable, ...]


def parse(ptx: str) -> Text:
    """Read a module."""
    text = _COMMENT.sub(" ", ptx.rstrip("\0 \n"))
    functions, outside, position = {}, [], 0
    for match in _FUNCTION.finditer(text):
        outside.append(text[position : match.start()])
        position = match.end()
        kind, name, parameters, _, end = match.groups()
        if end == "{":
            position = _closing(text, position)
            if kind == "func":
                raise NotImplementedError(f"the function {name} was not inlined")
            functions[name] = _function(name, parameters or "", text[match.end() : position - 1])
    statements = ";".join([*outside, text[position:]]).split(";")
    return Text(functions, tuple(_variables(statements)))


def _closing(text: str, position: int) -> int:
    depth = 1
    while depth:
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        position += 1
    return position


def _function(name: str, parameters: str, body: str) -> Function:
    registers: dict[str, str] = {}
    variables: list[Variable] = []
    code: list[Instruction | Label] = []
    for statement in body.split(";"):
        rest = statement.strip()
        while match := _LABEL.match(rest) or re.match(r"()[{}](?=\s|$)\s*", rest):
            if match[1]:
                code.append(Label(match[1]))
            rest = rest[match.end() :]
        if declared := _REGISTERS.match(rest):
            registers.update(_declared(declared[1], declared[2]))
        elif rest.startswith("."):
            variables += _variables([rest])
        elif rest:
            code.append(_instruction(" ".join(rest.split())))
    words = [parameter.split() for parameter in parameters.split(",") if parameter.strip()]
    taken = {word[-1]: word[-2].lstrip(".") for word in words}
    return Function(name, taken, registers, tuple(variables), tuple(code))


def _declared(kind: str, names: str) -> dict[str, str]:
    """Return the registers of `%f<3>, %SP`."""
    found = {}
    for name in names.split(","):
        family = re.match(r"\s*([%\w$]+)(?:<(\d+)>)?", name)
        assert family, name
        many = (f"{family[1]}{i}" for i in range(int(family[2]))) if family[2] else (family[1],)
        found.update(dict.fromkeys(many, kind))
    return found


def _variables(statements: list[str]) -> list[Variable]:
    found = []
    for statement in statements:
        match = _VARIABLE.search(statement.strip())
        if match:
            space, align, kind, name, shape, value = match.groups()
            count = math.prod(int(n or 0) for n in re.findall(r"\[(\d*)\]", shape))
            content = _content(value, SIZES[kind]) if value else b""
            size = max(count * SIZES[kind], len(content))
            found.append(Variable(space, name, int(align or SIZES[kind]), size, content))
    return found


def _content(value: str, size: int) -> bytes:
    numbers = [int(number, 0) for number in re.findall(r"-?\w+", value)]
    return b"".join((number % 256**size).to_bytes(size, "little") for number in numbers)


def _instruction(text: str) -> Instruction:
    match = _PREDICATE.match(text)
    negated, predicate, rest = (bool(match[1]), match[2], match[3]) if match else (False, None, text)
    opcode, _, operands = rest.partition(" ")
    return Instruction(text, predicate, negated, tuple(opcode.split(".")), split(operands))


def split(operands: str) -> tuple[str, ...]:
    """Return what commas separate, but for those in braces and brackets."""
    return tuple(
        part.strip() for part in re.findall(r"(?:\{[^}]*\}|\[[^\]]*\]|\([^)]*\)|[^,{\[(])+", operands)
    )
