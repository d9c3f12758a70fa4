"""What the benchmark makes of its figures: targets, tables, files. No test asserts a time."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import quick
import report
from comparison import least
from contest import Outcome, Traffic
from environment import Environment, environment
from figures import cell, footnotes, header, line
from first_call import FirstCall, FirstCalls
from quick import Ratio
from sections import Options, Part, Table, Target
from stepspec.overview import Streams
from stream import CHUNK, Stream
from timing import Timing, summary

SGD = Streams(read=(4,), updated=(4, 4))
WITH_MASTER = Streams(read=(2,), updated=(4, 4), written=(2,))


def timing(milliseconds: float) -> Timing:
    return Timing(milliseconds, 0.9 * milliseconds, 1.1 * milliseconds, 3)


def outcome(name: str = "large", **peers: float) -> Outcome:
    """Return the outcome of a fused step of 2 ms beside peers."""
    times = {label: timing(value) for label, value in {"fused_step": 2.0, "step": 30.0, **peers}.items()}
    return Outcome("SGD", "float32", False, name, 1, 1_000_000, 20_000_000, times)


class Fake:
    """A section whose second part is stopped."""

    name = "fake"

    def __init__(self) -> None:
        self.done: list[str] = []

    def parts(self, options: Options) -> Iterator[Part]:
        yield Part("first", partial(self.done.append, "first"))
        yield Part("second", self._stop)

    def _stop(self) -> None:
        raise KeyboardInterrupt

    def tables(self) -> Iterator[Table]:
        yield Table("What was done", ("part", "ms"), [(part, "1.0") for part in self.done], "A note.")

    def targets(self) -> Iterator[Target]:
        yield Target("ratio", 2.0, 2.5)
        yield Target("seconds", 3.0, 3.5, at_least=False)
        yield Target("elsewhere", 1.0, None, note="not installed")

    def data(self) -> object:
        return self.done


@pytest.fixture(scope="module")
def machine() -> Environment:
    return environment(2)


@pytest.mark.parametrize(
    ("reached", "at_least", "met"),
    [(2.0, True, True), (1.9, True, False), (2.0, False, True), (2.1, False, False), (None, True, None)],
)
def test_a_target_is_met_on_its_side(reached: float | None, at_least: bool, met: bool | None) -> None:
    assert Target("what", 2.0, reached, at_least).met is met


def test_the_report_has_every_table_and_target(machine: Environment) -> None:
    section = Fake()
    section.done.append("first")
    text = report.markdown(machine, [section])
    assert "| ratio | at least 2 | 2.5 | yes |  |" in text
    assert "| seconds | at most 3 | 3.5 | **no** |  |" in text
    assert "| elsewhere | at least 1 | not measured | - | not installed |" in text
    assert "## What was done\n\n| part | ms |\n| --- | ---: |\n| first | 1.0 |\n\nA note." in text
    assert machine.processor in text


def test_results_are_replaced_whole(machine: Environment, tmp_path: Path) -> None:
    section = Fake()
    report.write(machine, [section], tmp_path)
    section.done.append("first")
    data, text = report.write(machine, [section], tmp_path)
    found = json.loads(data.read_text())
    assert found["sections"] == {"fake": ["first"]}
    assert [target["met"] for target in found["targets"]] == [True, False, None]
    assert found["environment"]["threads"] == 2
    assert "first" in text.read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bench.json", "bench.md"]


def test_a_stopped_run_keeps_what_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tqdm")
    import bench

    monkeypatch.setattr(bench, "SECTIONS", {"fake": Fake})
    assert bench.main(["--output", str(tmp_path)]) == 130
    assert "stopped" in capsys.readouterr().err
    assert json.loads((tmp_path / "bench.json").read_text())["sections"] == {"fake": ["first"]}


def test_options_are_put_in_order() -> None:
    pytest.importorskip("tqdm")
    import bench

    arguments = [
        "--sets",
        "GPT-2 small",
        "MLP",
        "--optimizers",
        "LARS",
        "SGD",
        "--sections",
        "storage",
        "peers",
    ]
    options, sections = bench.parsed(arguments)
    assert options.sets == ("MLP", "GPT-2 small")
    assert options.optimizers == ("SGD", "LARS")
    assert options.dtypes == ("float32", "bfloat16")
    assert [section.name for section in sections] == ["peers", "storage"]


def test_the_chart_draws_what_there_is(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    import chart
    from comparison import Comparison

    section = Comparison()
    assert chart.draw([section], tmp_path) == []
    section.outcomes = [
        replace(outcome("MLP", **{"torch fused": 3.0, "MXNet": 50.0}), parameters=1000),
        replace(outcome("GPT-2 small", optax=9.0), traffic=(Traffic(SGD, 20_000_000, 11.0),)),
        replace(outcome("GPT-2 small"), optimizer="FTML", dtype="bfloat16"),
    ]
    (path,) = chart.draw([section], tmp_path)
    assert path.read_bytes().startswith(b"\x89PNG")
    section.outcomes = section.outcomes[:1]  # too small for a share of the bandwidth
    assert chart.draw([section], tmp_path) == [path]


@pytest.mark.parametrize("rounds", ["0", "-1", "2.5", "many"])
def test_rounds_are_counted_from_one(rounds: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tqdm")
    import bench

    with pytest.raises(SystemExit):
        bench.parsed(["--rounds", rounds])
    assert "is not a number from 1 on" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("script", "version"), [("echo 2.0.0b1", "2.0.0b1"), ("exit 1", "missing"), (None, "missing")]
)
def test_the_environment_asks_mxnets_own_interpreter(
    script: str | None, version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "python"
    if script:
        python.write_text(f"#!/bin/sh\n{script}\n")
        python.chmod(0o755)
    monkeypatch.setenv("MXNET_PYTHON", str(python))
    assert environment(2).packages["mxnet"] == version
    monkeypatch.delenv("MXNET_PYTHON")
    assert environment(2).packages["mxnet"] == "missing"


def test_a_line_has_ratios_and_the_share_of_the_bound() -> None:
    found = replace(
        outcome(peer=3.0), traffic=(Traffic(SGD, 12_000_000, 10.0), Traffic(SGD, 8_000_000, 20.0))
    )
    assert found.bound == pytest.approx(1.6)  # 1.2 ms and 0.4 ms
    assert found.share == pytest.approx(0.8)
    cells = dict(zip(header("set", ["peer", "other"]), line("large", found, ["peer", "other"]), strict=True))
    assert cells["peer"] == "3.000 (2.700-3.300) 1.50x"
    assert cells["`step`"] == "30.0 (27.0-33.0) 15x"
    assert cells["other"] == "-"
    assert (cells["bytes/element"], cells["GB/s"]) == ("20", "10.0")
    assert (cells["streams GB/s"], cells["share"]) == ("12.5", "80%")


def test_models_in_a_cache_have_no_share() -> None:
    found = outcome()
    assert found.share is None
    assert line("small", found, [])[-2:] == ("in cache", "-")
    assert cell(found, "peer") == "-"


def test_a_reason_is_given_once() -> None:
    both = {"torch": "no such optimizer", "optax": "no such optimizer"}
    found = {
        "MLP": replace(outcome(), missing=both),
        "large": replace(outcome(), missing=both | {"MXNet": "died"}),
    }
    assert footnotes(found) == "torch, optax: no such optimizer. MXNet (large): died."


def test_the_least_ratio_counts_and_of_peers_the_fastest() -> None:
    found = [outcome("a", one=8.0, two=6.0), outcome("b", one=10.0), outcome("c", two=2.0)]
    target = least("SGD", ("one", "two"), 2.0, ("a", "b"), found)
    assert (target.reached, target.met) == (3.0, True)
    assert target.what == "SGD, a and b: one or two"
    assert target.note == "two, a: 2.45 to 3.67 between quartiles"
    assert least("SGD", ("one", "two"), 2.0, (), found).reached == 1.0


def test_a_target_without_figures_says_why() -> None:
    found = [replace(outcome("a"), missing={"one": "not installed"})]
    assert least("SGD", ("one",), 2.0, (), found).note == "not installed"
    assert least("NAG", ("one",), 2.0, (), found).note == "not asked for"


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(
    ("streams", "per_element"), [(SGD, 20), (WITH_MASTER, 20), (Streams(read=(4, 4)), 8)]
)
def test_a_stream_walks_every_word_once(streams: Streams, per_element: int, threads: int) -> None:
    stream = Stream(streams, 10 * CHUNK + 5, threads)
    assert stream.bytes == 10 * CHUNK * per_element
    stream.step()
    stream.step()
    stream.close()
    read, updated, written = stream.groups
    assert all((array == 1).all() for array in read)
    assert all((array == 3).all() for array in updated)
    for array in written:
        np.testing.assert_array_equal(array, np.repeat(np.arange(10), array.size // 10))


def test_first_calls_aim_at_the_slowest() -> None:
    section = FirstCalls()
    assert [target.reached for target in section.targets()] == [None, None]
    section.results = [FirstCall("SGD", 2.0, 0.5), FirstCall("LARS", 2.5, 0.4)]
    cold, cached = section.targets()
    assert (cold.reached, cold.note) == (2.5, "LARS")
    assert (cached.reached, cached.note) == (0.5, "SGD")


def test_a_first_call_is_timed_in_a_process_of_its_own() -> None:
    from first_call import WORKER

    text = subprocess.check_output([sys.executable, str(WORKER), "SGD", '{"momentum": 0.9}'], text=True)
    assert float(text) > 0


def test_quartiles_are_in_milliseconds() -> None:
    found = summary([0.001, 0.002, 0.003, 0.004, 0.005])
    assert (found.low, found.median, found.high) == pytest.approx((2.0, 3.0, 4.0))
    assert found.count == 5


def test_changes_within_the_noise_have_no_word() -> None:
    before = {"SGD, MLP": {"step": Ratio(10.0, 0.5), "streams": Ratio(0.5, 0.1)}}
    now = {"SGD, MLP": {"step": Ratio(20.0, 0.5), "streams": Ratio(0.6, 0.1), "torch fused": Ratio(1.0, 0.1)}}
    _, _, *rows = quick.compared(now, before)
    assert rows == [
        "| SGD, MLP | step | 20 ± 0.5 | 10 ± 0.5 |  |",
        "| SGD, MLP | streams | 0.6 ± 0.1 | 0.5 ± 0.1 |  |",
        "| SGD, MLP | torch fused | 1 ± 0.1 | - |  |",
    ]
    assert quick.verdict(Ratio(1.04, 0.0), Ratio(1.0, 0.0)) == ""
    assert quick.verdict(Ratio(1.06, 0.0), Ratio(1.0, 0.0)) == "1.06x as fast"
    assert quick.verdict(Ratio(1.0, 0.1), Ratio(4.0, 0.1)) == "4.00x as slow"


def test_quick_runs_stand_beside_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = iter([10.0, 20.0, 40.0])
    monkeypatch.setattr(quick, "run", lambda *_: {"SGD, MLP": {"streams": Ratio(next(runs), 0.0)}})
    output = ["--output", str(tmp_path)]
    quick.main([*output, "--save", "old"])
    quick.main(output)
    assert "| 20 ± 0 | 10 ± 0 | 2.00x as fast |" in capsys.readouterr().out
    quick.main([*output, "--against", "old"])
    assert "| 40 ± 0 | 10 ± 0 | 4.00x as fast |" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        quick.main([*output, "--against", "lost"])


def test_a_quick_run_that_cannot_be_kept_does_not_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(quick, "run", lambda *_: pytest.fail("it began"))
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit):
        quick.main(["--output", str(tmp_path / "file" / "folder")])
    assert "Not a directory" in capsys.readouterr().err
