"""Options: presets and changes of them, numbers of images, what is refused."""

from dataclasses import dataclass

import pytest
import tyro
from refusals import says

from experiments.options import (
    capped,
    changes_of,
    check_all_positive,
    check_choices,
    check_increasing,
    check_least,
    filled,
    fingerprint,
)
from mcjax import InputError, data


@dataclass(frozen=True)
class Size:
    """How much is done."""

    width: float = 1.0
    """Multiplier of the widths."""
    images: int | None = None
    tested: int = 10_000
    steps: tuple[int, ...] = (0, 10)
    hidden: tyro.conf.Suppress[int] = 5


def test_changes_of_a_preset_on_the_command_line(capsys):
    changes = tyro.cli(type(changes_of(Size)), args=["--width", "2", "--steps", "1", "2"])
    assert isinstance(changes, Size)
    assert (changes.width, changes.images, changes.steps, changes.hidden) == (2, None, (1, 2), None)
    assert filled(Size(images=3, hidden=7), changes) == Size(2.0, 3, 10_000, (1, 2), 7)
    assert filled(Size(), changes_of(Size, tested=1)) == Size(tested=1)
    with pytest.raises(SystemExit):
        tyro.cli(type(changes_of(Size)), args=["--help"])
    said = capsys.readouterr().out
    assert "How much is done." in said
    assert "Multiplier of the widths. (default: None)" in " ".join(said.split())
    assert "hidden" not in said


def test_there_are_not_more_images_than_there_are():
    digits = data.load("digits").take(100, 50)
    assert capped(Size(), digits, ("images",), ("tested",)) == Size(images=100, tested=50)
    assert capped(Size(images=7), digits, ("images",)) == Size(images=7)
    assert fingerprint(digits) == fingerprint(digits.take(100, 50)) != fingerprint(digits.take(99))


@pytest.mark.parametrize(
    ("check", "named"),
    [
        (lambda: check_choices("tasks", (), ("a", "b")), ("tasks none", "a, b")),
        (lambda: check_choices("tasks", ("a", "a"), ("a", "b")), ("tasks a, a", "each once")),
        (lambda: check_choices("tasks", ("c",), ("a", "b")), ("tasks c",)),
        (lambda: check_all_positive(Size(width=float("nan"))), ("width=nan",)),
        (lambda: check_all_positive(Size()), ("steps=0",)),
        (lambda: check_all_positive(Size(steps=(-1, 2)), zero="steps"), ("steps=-1",)),
        (lambda: check_increasing(Size(steps=(3, 3)), "steps"), ("steps=(3, 3)",)),
        (lambda: check_increasing(Size(steps=()), "steps"), ("steps=()",)),
        (lambda: check_least(Size(tested=1), width=1, tested=2), ("tested=1", "at least 2")),
    ],
)
def test_bad_options_are_refused(check, named):
    with says(InputError, *named):
        check()


def test_good_options_pass():
    check_choices("tasks", ("b", "a"), ("a", "b"))
    check_all_positive(changes_of(Size, width=0.5))
    check_all_positive(Size(), zero="steps")
    check_increasing(Size(), "steps")
    check_least(Size(), images=1, tested=10_000)
