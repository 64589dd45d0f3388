"""One line of progress: on a terminal, without one, and inside another."""

import io
import sys
from types import SimpleNamespace

import pytest

from mcjax.runs import progress as progress_module
from mcjax.runs.progress import Progress


def test_progress_without_a_terminal_is_plain_lines(capsys):
    progress = Progress("training 2 mlp", 5, items=100)
    for epoch in range(1, 6):
        progress.update(epoch, f"loss {1 / epoch:.4f}")
    progress.close()
    out, err = capsys.readouterr()
    assert out == ""
    first, last = err.splitlines()
    assert first.startswith("training 2 mlp: epoch 1/5, loss 1.0000, ")
    assert "examples/s" in first
    assert last.startswith("training 2 mlp: epoch 5/5, loss 0.2000, ")
    assert last.endswith(", 0 s left")


def test_resumed_progress_shows_its_first_epoch(capsys):
    progress = Progress("fit", 9, items=100, start=6)
    for epoch in (7, 8, 9):
        progress.update(epoch, "loss 0.5000")
    assert [line.split(",")[0] for line in capsys.readouterr().err.splitlines()] == ["fit: epoch 7/9", "fit: epoch 9/9"]


def test_progress_is_shown_after_ten_seconds_of_silence(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: now[0])
    progress = Progress("fit", 1000, items=50)
    for epoch in range(1, 7):
        now[0] += 4.0
        progress.update(epoch, "loss 0.5000")
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines] == ["fit: epoch 1/1000", "fit: epoch 4/1000"]
    # 4 epochs in 16 s: 50 images in 4 s, and 996 epochs of 4 s to come.
    assert lines[1] == "fit: epoch 4/1000, loss 0.5000, 12 examples/s, 1 h 06 min left"


def test_progress_on_a_terminal_is_a_bar(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    progress = Progress("training 2 mlp", 3, items=100, start=1)
    for epoch in (2, 3):
        progress.update(epoch, "loss 0.2500")
    progress.close()
    shown = terminal.getvalue()
    assert "\r" in shown
    last = shown.rstrip().split("\r")[-1]
    assert last.startswith("training 2 mlp: 100%")
    assert "3/3" in last
    assert "loss 0.2500" in last
    assert "examples/s" in last


def test_steps_of_unknown_number_are_each_shown_without_a_time_left(capsys):
    progress = Progress("ring", None, unit="depth", start=2)
    for depth in (3, 4):
        progress.update(depth, "2 beads")
    progress.close()
    assert capsys.readouterr().err.splitlines() == ["ring: depth 3, 2 beads", "ring: depth 4, 2 beads"]


def test_a_part_speaks_in_the_line_of_the_whole(capsys, monkeypatch):
    monkeypatch.setattr(progress_module, "PRINT_EVERY_S", -1.0)
    whole = Progress("study", 2, unit="stage")
    part = whole.part("training", 3)
    part.update(1, "loss 0.5000")
    deeper = part.part("a bead", None)
    deeper.update(7)
    part.close()
    whole.update(1)
    lines = capsys.readouterr().err.splitlines()
    assert lines[:2] == ["study: training: epoch 1/3, loss 0.5000", "study: training: a bead: epoch 7"]
    assert lines[2].startswith("study: stage 1/2, compiled")


def test_time_left_is_estimated_from_the_steps_of_this_run(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: now[0])
    progress = Progress("fit", 100, start=90)
    for epoch in (91, 92):
        now[0] += 20.0
        progress.update(epoch)
    assert capsys.readouterr().err.splitlines()[-1] == "fit: epoch 92/100, 2 min 40 s left"


def test_a_part_counts_steps_and_tells_no_time_left_of_its_own(capsys, monkeypatch):
    monkeypatch.setattr(progress_module, "PRINT_EVERY_S", -1.0)
    part = Progress("study", 2, unit="stage").part("training", 5)
    part.skip()
    part.update(part.done + 1, quiet=True)
    assert (part.done, part.left()) == (2, [])
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("error", [BrokenPipeError, ValueError, None])
def test_a_line_that_cannot_be_printed_is_lost(monkeypatch, error):
    def gone(text):
        raise error

    stream = None if error is None else SimpleNamespace(isatty=lambda: False, write=gone)
    monkeypatch.setattr(sys, "stderr", stream)
    progress = Progress("fit", 2)
    progress.update(2)
    progress.close()
    assert progress.done == 2
