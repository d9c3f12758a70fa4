"""The form of the results: Markdown for people, JSON for programs."""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from environment import Environment
from sections import Section, Table, Target

METHOD = """\
Milliseconds of one optimizer step over a whole model: median (quartiles). Behind the others' times stands how
many times as long as `fused_step` they take. The contenders of a line take turns in one process (MXNet in
another), on the same number of threads. Before they are timed they step the same model, and whoever does not
end where stepspec ends, within what rounding may do, is not timed. Gradients are new arrays at every step,
unless a table says otherwise; making them is not timed, and neither is compiling. Half precision with masters
is, for torch, its optimizer on float32 weights between two foreach copies, from the gradients and to the
weights. Bytes are those that the plan of a fused step counts: what each of its passes reads and writes.
"Streams" is the bandwidth of a plain loop that reads, updates and writes as many arrays of the same kinds, in
the same turns, and "share" what the fused step reaches of it; a rule of two passes has a loop for each."""
GOALS = """\
Beside a peer's name stands how many times as long as `fused_step` it takes, in float32: on the set with the
least ratio, and of several peers the fastest. A share of 1 is all of the streaming bandwidth."""


@dataclass(frozen=True)
class Form:
    """A kind of report: its title, the name of its files, and how to read its times and its targets."""

    title: str
    stem: str
    method: str
    goals: str


BENCHMARK = Form("Benchmark", "bench", METHOD, GOALS)


def table(header: Sequence[str], rows: Iterable[Sequence[str]], words: Sequence[str] = ()) -> list[str]:
    """Return the lines of a table: the first column and those named in `words` to the left, figures right."""
    rule = ["---" if name in (header[0], *words) else "---:" for name in header]
    return ["| " + " | ".join(cells) + " |" for cells in (header, rule, *rows)]


def markdown(environment: Environment, sections: Sequence[Section], form: Form = BENCHMARK) -> str:
    lines = [f"# {form.title}", "", *described(environment), "", form.method]
    goals = [target for section in sections for target in section.targets()]
    if goals:
        lines += ["", "## Targets", "", form.goals, "", *targets(goals)]
    for section in sections:
        for found in section.tables():
            lines += [*rendered(found)]
    return "\n".join(lines) + "\n"


def described(environment: Environment) -> list[str]:
    env = environment
    packages = ", ".join(f"{name} {number}" for name, number in env.packages.items())
    machine = f"{env.processor}, {env.cores} cores ({', '.join(env.caches) or 'caches not known'})"
    return [
        f"- {env.date}; {machine}, {env.memory_gib:.0f} GiB of memory; {env.system}",
        f"- {env.threads} threads; load average at the start: {env.load:.1f}",
        f"- Python {env.python}; {packages}",
    ]


def rendered(found: Table) -> Iterator[str]:
    yield from ("", f"## {found.title}", "", *table(found.header, found.rows))
    if found.note:
        yield from ("", found.note)


def targets(goals: Iterable[Target]) -> list[str]:
    words = {True: "yes", False: "**no**", None: "-"}
    rows = [
        (
            goal.what,
            f"{'at least' if goal.at_least else 'at most'} {goal.aim:g}",
            "not measured" if goal.reached is None else f"{goal.reached:.3g}",
            words[goal.met],
            goal.note,
        )
        for goal in goals
    ]
    return table(("what", "aim", "reached", "met", "note"), rows, words=("met", "note"))


def data(environment: Environment, sections: Sequence[Section]) -> dict[str, object]:
    goals = [asdict(goal) | {"met": goal.met} for section in sections for goal in section.targets()]
    return {
        "environment": asdict(environment),
        "targets": goals,
        "sections": {section.name: section.data() for section in sections},
    }


def write(
    environment: Environment, sections: Sequence[Section], folder: Path, form: Form = BENCHMARK
) -> list[Path]:
    """Write JSON and Markdown into an existing folder, whole or not at all, and return their paths."""
    texts = {
        folder / f"{form.stem}.json": json.dumps(data(environment, sections), indent=2) + "\n",
        folder / f"{form.stem}.md": markdown(environment, sections, form),
    }
    for path, text in texts.items():
        unfinished = path.with_suffix(".tmp")
        unfinished.write_text(text, encoding="utf-8")
        os.replace(unfinished, path)
    return list(texts)
