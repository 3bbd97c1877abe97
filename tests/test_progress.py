"""The live view: plain lines without a terminal, one redrawn line in one."""

import io

import pytest

from fedopt import progress
from fedopt.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch):
    """Time that moves only when told."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def row(step: int, **more) -> dict:
    return {"step": step, "time_s": 2.0 * step, "clients": 10 * step, **more}


def test_plain_lines_hold_step_time_metric_speed_and_time_left(clock):
    stream = io.StringIO()
    with Progress(10, stream=stream) as view:
        clock[0] += 2.0
        view.update(row(1, metric_name="accuracy", metric_value=0.5, epsilon=1.25))
    line = stream.getvalue().strip()
    assert line == "step 1/10, virtual time 2 s, accuracy 50.00 %, epsilon 1.25, 5 clients/s, 0:18 left"


def test_plain_lines_are_few_but_first_and_last_are_there(clock):
    stream = io.StringIO()
    with Progress(100, stream=stream) as view:
        for step in range(1, 101):
            clock[0] += 0.5
            view.update(row(step))
    lines = stream.getvalue().splitlines()
    assert len(lines) == 11
    assert lines[0].startswith("step 1/100") and lines[-1].startswith("step 100/100") and "left" not in lines[-1]


def test_time_left_of_a_resumed_run_counts_its_own_steps_only(clock):
    stream = io.StringIO()
    with Progress(100, stream=stream) as view:
        clock[0] += 1.0
        view.update(row(91))
    assert "0:09 left" in stream.getvalue()


def test_speed_of_a_resumed_run_counts_its_own_clients_only(clock):
    stream = io.StringIO()
    with Progress(100, stream=stream, clients_before=900) as view:
        clock[0] += 2.0
        view.update(row(91))  # ten clients a step
    assert ", 5 clients/s, " in stream.getvalue()


def test_an_early_end_shows_its_last_step_once(clock):
    stream = io.StringIO()
    with Progress(100, stream=stream) as view:
        for step in (1, 2, 3):
            clock[0] += 0.5
            view.update(row(step))
    view.finish()
    assert [line.split(",")[0] for line in stream.getvalue().splitlines()] == ["step 1/100", "step 3/100"]


def test_the_last_metric_stays_between_evaluations(clock):
    stream = io.StringIO()
    with Progress(None, stream=stream) as view:
        view.update(row(1, metric_name="mse", metric_value=0.25))
        clock[0] += 10
        view.update(row(2, metric_value=None))
    assert stream.getvalue().splitlines()[1].startswith("step 2, virtual time 4 s, mse 0.25,")


def test_quiet_says_nothing(clock):
    stream = Terminal()
    with Progress(3, quiet=True, stream=stream) as view:
        view.update(row(1))
        view.note("client 3 failed")
    assert stream.getvalue() == ""


def test_terminal_is_redrawn_and_ends_with_the_last_row():
    stream = Terminal()
    with Progress(2, stream=stream) as view:
        view.update(row(1))
        view.note("client 3 [version 2] failed")
        view.update(row(2, metric_name="accuracy", metric_value=0.75))
    shown = stream.getvalue()
    assert "client 3 [version 2] failed" in shown and "accuracy 75.00 %" in shown
    view.finish()
