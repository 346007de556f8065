from pathlib import Path

import pytest

from reneg.metrics import MetricsLog, read_rows


def log_of_steps(path: Path, *steps: int) -> MetricsLog:
    log = MetricsLog(path)
    for step in steps:
        log.append({"kind": "update", "step": step, "reward": 0.1 * step})
    return log


def test_rows_come_back_exactly(tmp_path: Path) -> None:
    log = log_of_steps(tmp_path / "metrics.jsonl", 1, 2, 3)
    log.sync()
    assert log.count == 3
    assert [row["reward"] for row in read_rows(log.path)] == [0.1 * step for step in (1, 2, 3)]
    assert read_rows(tmp_path / "none.jsonl") == []


@pytest.mark.parametrize("tail", ['{"kind": "upd', '{"kind": "update", "step": 4}', "12", "\0\0\0"])
def test_a_half_written_line_does_not_count(tmp_path: Path, tail: str) -> None:
    log = log_of_steps(tmp_path / "metrics.jsonl", 1, 2, 3)
    with log.path.open("a") as file:
        file.write(tail)
    assert [row["step"] for row in read_rows(log.path)] == [1, 2, 3]


@pytest.mark.parametrize("step, kept", [(-1, []), (0, []), (2, [1, 2, 2]), (9, [1, 2, 2, 3])])
def test_restart_keeps_the_rows_up_to_a_step(tmp_path: Path, step: int, kept: list[int]) -> None:
    log = log_of_steps(tmp_path / "metrics.jsonl", 1, 2, 2, 3)
    with log.path.open("a") as file:
        file.write('{"half')
    log.restart(step)
    assert log.count == len(kept)
    log.append({"kind": "update", "step": 10})
    assert [row["step"] for row in read_rows(log.path)] == [*kept, 10]


def test_restart_from_another_file(tmp_path: Path) -> None:
    source = log_of_steps(tmp_path / "source.jsonl", 1, 2, 3).path
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.restart(2, source)
    assert [row["step"] for row in read_rows(log.path)] == [1, 2]


def test_refuses_what_json_cannot_hold(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        MetricsLog(tmp_path / "metrics.jsonl").append({"reward": float("nan")})
