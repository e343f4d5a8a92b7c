"""The bench's arithmetic: what it sends, what it counts as an answer, what it shows. Nothing here is fast or slow."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from ops.bench import readme, run
from ops.bench._figures import Figures, Plot
from ops.bench._load import Generator, LoadFailed, Result
from ops.bench._plots import short, svg, write_plots
from ops.bench._requests import FIRST_SEQ, MIX, Round, requests_of
from ops.bench._tables import tables
from ops.bench.goals import GOALS, missed

SVG = "{http://www.w3.org/2000/svg}"


def round_of(**terms: Any) -> Round:
    usual: dict[str, Any] = {
        "ports": [1],
        "seconds": 0.1,
        "connections": 4,
        "keys": ["key0", "key1"],
        "wallets": 10,
        "tag": "r1",
        "seed": 1,
        "pairs": 400,
        "devices": 6,
    }
    return Round(**(usual | terms))


def parsed(request: bytes) -> tuple[str, dict[str, str], bytes]:
    head, _, body = request.partition(b"\r\n\r\n")
    line, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (each.partition(": ") for each in lines)}
    assert int(headers["content-length"]) == len(body)
    return line.split()[1], headers, body


# What is sent


@pytest.mark.parametrize("kind", MIX)
def test_a_command_has_its_own_path_key_and_number(kind: str) -> None:
    requests = requests_of(round_of(mix={kind: 1}))
    sent = [parsed(request.filled(FIRST_SEQ + i)) for i, request in enumerate(requests)]
    assert {path for path, _, _ in sent} == {f"/commands/{kind}"}
    assert len({headers["idempotency-key"] for _, headers, _ in sent}) == len(sent)
    bodies = [json.loads(body) for _, _, body in sent]
    if any("seq" in body for body in bodies):
        assert [body["seq"] for body in bodies] == [FIRST_SEQ + i for i in range(len(bodies))]


def test_a_batch_is_one_senders_commands_each_under_a_key_of_its_own() -> None:
    (request, *_) = requests_of(round_of(mix={"marketplace/meter-usage": 1}, batch=100))
    path, headers, body = parsed(request.filled(FIRST_SEQ))
    lines = [json.loads(line) for line in body.splitlines()]
    assert (path, headers["content-type"], len(lines)) == ("/commands", "application/x-ndjson", 100)
    assert "idempotency-key" not in headers
    assert {(line["context"], line["command"]) for line in lines} == {("marketplace", "meter-usage")}
    assert len({line["key"] for line in lines}) == 100
    seqs = [line["body"]["seq"] for line in lines]
    assert seqs == sorted(set(seqs)), "numbers of a contract rise within a batch"
    assert {int(line["body"]["contract"][1:]) % 2 for line in lines} == {0}, "those of one owner"


def test_the_next_batch_uses_no_key_again() -> None:
    (request, *_) = requests_of(round_of(batch=100))
    keys = [
        json.loads(line)["key"]
        for first in (FIRST_SEQ, FIRST_SEQ + 100)
        for line in parsed(request.filled(first))[2].splitlines()
    ]
    assert len(set(keys)) == 200


# What counts as an answer


def answered(
    reply: Callable[[], bytes], ports: int = 1, asked: list[int] | None = None, **terms: Any
) -> tuple[Result, list[int]]:
    """What a round comes to with servers that answer everything alike, and the connections of each; `asked` gets how
    often each connection was used."""

    serving_now: list[asyncio.Task[Any]] = []

    async def all_of_it() -> tuple[Result, list[int]]:
        connections = [0] * ports
        servers = [await asyncio.start_server(serving(i, connections), "127.0.0.1", 0) for i in range(ports)]
        try:
            listening = [server.sockets[0].getsockname()[1] for server in servers]
            return await Generator(round_of(ports=listening, **terms)).run(), connections
        finally:
            for server in servers:
                server.close()
            await asyncio.gather(*serving_now)

    def serving(number: int, connections: list[int]) -> Callable[..., Any]:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            connections[number] += 1
            task = asyncio.current_task()
            assert task is not None
            serving_now.append(task)
            heads = 0
            try:
                while True:
                    head = await reader.readuntil(b"\r\n\r\n")
                    heads += 1
                    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
                    await reader.readexactly(length)
                    body = reply()
                    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
            except (asyncio.IncompleteReadError, ConnectionError):
                if asked is not None:
                    asked.append(heads)
                writer.close()
                with contextlib.suppress(ConnectionError):
                    await writer.wait_closed()

        return serve

    return asyncio.run(all_of_it())


def test_a_batch_counts_as_many_commands_as_it_has_lines() -> None:
    result, _ = answered(lambda: b'{"key":"k","status":200,"body":{}}\n' * 10, batch=10, connections=2)
    assert result.per_s == pytest.approx(10 * result.count / result.seconds)
    assert result.commands == 10 * result.sent


def test_a_batch_with_one_refusal_fails_the_round() -> None:
    lines = b'{"key":"k","status":200,"body":{}}\n' * 9 + b'{"key":"k","status":409,"body":{}}\n'
    with pytest.raises(LoadFailed, match="409"):
        answered(lambda: lines, batch=10)


def test_processes_share_the_connections_evenly() -> None:
    result, connections = answered(lambda: b"{}", ports=2, connections=6)
    assert connections == [3, 3]
    assert result.count > 0


def test_at_a_given_rate_all_connections_are_used_by_turns() -> None:
    asked: list[int] = []
    answered(lambda: b"{}", asked=asked, connections=4, rate=200.0, seconds=0.1)
    assert sum(asked) == 20
    assert len(asked) == 4
    assert min(asked) > 0, "servers end connections that nothing comes over"


def test_a_round_too_short_for_an_answer_is_as_long_as_what_was_under_way() -> None:
    result, _ = answered(lambda: b"{}", connections=2, seconds=0.0)
    assert (result.count, result.sent) == (2, 2)
    assert result.seconds > 0


# Goals

REACHED = {"transfer_vs_noop": 1.2, "append_vs_raw_batch": 0.61}


def figures(**ratios: float) -> Figures:
    made = Figures(ratios=ratios)
    made.latency_ms["transfer"] = {"p50": 2.0, "p99": 6.0, "p999": 9.0}
    made.lag_ms["500"] = {"p50": 5.0, "p99": 25.0, "p999": 60.0, "max": 80.0}
    made.conditions = {
        "taken": "2026-11-21",
        "seed": 1,
        "scale": "tiny",
        "cores": 2,
        "postgres": "18",
        "fsync": "on",
        "python": "3.11",
    }
    return made


def test_a_goal_on_its_bound_is_reached() -> None:
    assert missed(figures(**REACHED)) == []


def test_a_goal_below_its_bound_is_missed_and_one_not_measured_is_not() -> None:
    short_of = figures(**(REACHED | {"transfer_vs_noop": 1.19}))
    short_of.lag_ms["500"]["p99"] = 25.1
    short_of.latency_ms["transfer"]["p99"] = 6.1
    assert [(goal.work, goal.against) for goal in missed(short_of)] == [
        ("transfer over HTTP, c=32", "a plain FastAPI no-op"),
        ("p99 of a transfer over HTTP, c=32", "its p50"),
        ("commit to visible at 500 commands/s", "ms at p99"),
    ]


def test_growth_is_only_judged_between_the_sizes_that_the_goal_names() -> None:
    made = figures()
    made.growth["command_cpu_us"] = {"10000": 100.0, "1000000": 200.0}
    assert missed(made) == []
    made.growth["command_cpu_us"]["10000000"] = 116.0
    assert [goal.bound for goal in missed(made)] == [1.15]


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Callable[[Figures], None]:
    """Stands for a run that finds these figures."""

    def stand_in(found: Figures) -> None:
        def bench(*arguments: Any) -> Figures:
            arguments[-1](found)
            return found

        monkeypatch.setattr(run, "bench", bench)
        monkeypatch.delenv("DATABASE_URL", raising=False)
        monkeypatch.delenv("REDIS_URL", raising=False)

    return stand_in


def test_check_exits_with_3_and_names_the_goal_that_was_missed(
    measured: Callable[[Figures], None], capsys: pytest.CaptureFixture[str]
) -> None:
    measured(figures(transfer_vs_noop=0.5))
    assert run.main(check=True) == 3
    assert "a plain FastAPI no-op" in capsys.readouterr().err.replace("\n", " ")
    assert run.main() == 0
    measured(figures(**REACHED))
    assert run.main(check=True) == 0


def test_out_and_plots_write_what_the_table_shows(
    measured: Callable[[Figures], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = figures(**REACHED)
    found.plots["growing"] = Plot("Cost", "events", "us", {"ours": [(10, 1), (100, 2)]})
    measured(found)
    assert run.main(out=tmp_path / "new" / "figures.json", plots=tmp_path / "plots") == 0
    assert "Goals" in capsys.readouterr().out
    written = json.loads((tmp_path / "new" / "figures.json").read_text())
    assert written["ratios"] == REACHED
    assert written["plots"]["growing"]["series"] == {"ours": [[10, 1], [100, 2]]}
    assert [path.name for path in (tmp_path / "plots").iterdir()] == ["growing.svg"]


# Plots


def drawn(plot: Plot) -> ElementTree.Element:
    return ElementTree.fromstring(svg(plot))


def test_a_plot_has_a_line_for_each_series_and_says_what_its_axes_count() -> None:
    plot = Plot("Cost < time", "events in the log", "CPU, us")
    for line, costs in {"ours": (3, 2, 1), "theirs & others": (1, 10, 100)}.items():
        for size, cost in zip((1e4, 1e6, 1e7), costs, strict=True):
            plot.add(line, size, cost)
    root = drawn(plot)
    texts = [element.text for element in root.iter(f"{SVG}text")]
    assert {"Cost < time", "events in the log", "CPU, us", "ours", "theirs & others"} <= set(texts)
    assert {"10k", "1M", "10M"} <= set(texts)
    ours, theirs = (
        [tuple(map(float, point.split(","))) for point in line.attrib["points"].split()]
        for line in root.iter(f"{SVG}polyline")
    )
    assert [x for x, _ in ours] == sorted(x for x, _ in theirs)
    assert [y for _, y in ours] == sorted(y for _, y in ours), "less cost lies lower, where y is larger"
    assert [y for _, y in theirs] == sorted((y for _, y in theirs), reverse=True)
    # Sizes lie as far apart as their logarithms.
    left, middle, right = (x for x, _ in ours)
    assert (middle - left) == pytest.approx(2 * (right - middle), abs=0.2)


def test_a_plot_of_many_sizes_has_few_round_ticks() -> None:
    plot = Plot("Many", "n", "us", {"ours": [(n, n) for n in range(1, 2_000, 7)]}, log_y=True)
    marks = [e.text for e in drawn(plot).iter(f"{SVG}text") if e.attrib.get("text-anchor") == "middle"]
    assert 2 <= len(marks) - 2 <= 8


def test_a_plot_without_points_or_with_a_zero_on_a_logarithmic_axis_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no points"):
        svg(Plot("Nothing", "n", "us"))
    with pytest.raises(ValueError, match="no logarithm"):
        write_plots({"zero": Plot("Zero", "n", "us", {"ours": [(0, 1)]})}, tmp_path)


def test_numbers_are_shortened() -> None:
    assert [short(n) for n in (0.5, 32, 10_000, 2_500_000)] == ["0.5", "32", "10k", "2.5M"]


# README


def test_readme_gets_all_goals_between_its_markers_and_keeps_the_rest() -> None:
    text = f"before\n{readme.BEGIN}old\n{readme.END}after\n"
    found = json.loads(json.dumps({**vars(figures(**REACHED))}))
    placed = readme.placed(text, found)
    assert placed.startswith(f"before\n{readme.BEGIN}")
    assert placed.endswith(f"{readme.END}after\n")
    assert "old" not in placed
    rows = [line for line in placed.splitlines() if line.startswith("| ")]
    for goal in GOALS:
        assert any(row.startswith(f"| {goal.work} |") and f"| {goal.against} |" in row for row in rows)
    assert readme.placed(placed, found) == placed


def test_readme_takes_the_parts_of_a_run_from_several_files(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(readme, "README", tmp_path / "README.md")
    (tmp_path / "README.md").write_text(f"{readme.BEGIN}{readme.END}")
    files = []
    for number, ratios in enumerate(({"transfer_vs_noop": 1.11, "mixed": 0.5}, {"transfer_vs_noop": 1.22})):
        files.append(tmp_path / f"{number}.json")
        files[-1].write_text(json.dumps(vars(figures(**ratios))))
    assert readme.main([str(file) for file in files]) == 0
    text = (tmp_path / "README.md").read_text()
    assert "| 1.22 | yes |" in text
    assert "1.11" not in text
    assert "| mixed | 0.50 |" in text


def test_what_leaf_hashes_cost_stands_in_readme_too() -> None:
    made = figures(**REACHED)
    made.hashing = {"leaves_us": 5.66, "share_of_command": 0.0204}
    (table,) = [each for each in tables(vars(made)) if each.title == "Leaf hashes of a transfer"]
    assert table.rows == [["leaves", "5.7 us"], ["share of command", "2.0%"]]


def test_readme_shows_concurrency_across_and_ordering_beside_each() -> None:
    made = figures(**REACHED)
    for name in ("transfer_c8_p1", "transfer_c32_p1", "transfer_c8x100_p1", "transfer_c8_p2", "noop_c8"):
        made.latency_ms[name] = {"p50": 1.0, "p99": 2.0, "p999": 3.0}
        made.per_s[name] = 1_000.0
        made.ordering[name] = "nothing is stored" if "noop" in name else "gapless"
    (table,) = [each for each in tables(vars(made)) if each.title == "Commands by concurrency"]
    assert table.heads[1:] == ["processes", "c = 8", "c = 32", "8 batches of 100", "order of events"]
    assert [row[1] for row in table.rows] == ["1", "2", "1"]
    assert [row[-1] for row in table.rows] == ["gapless", "gapless", "nothing is stored"]
    assert table.rows[1][3] == "", "not measured there"


def test_readme_is_left_alone_without_a_file_or_without_a_place(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(readme, "README", tmp_path / "README.md")
    (tmp_path / "README.md").write_text("no place\n")
    assert readme.main([]) == 2
    assert readme.main([str(tmp_path / "figures.json")]) == 2
    assert (tmp_path / "README.md").read_text() == "no place\n"


def test_readme_has_one_place_for_figures() -> None:
    text = readme.README.read_text()
    assert (text.count(readme.BEGIN), text.count(readme.END)) == (1, 1)
