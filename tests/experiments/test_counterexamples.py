"""Minima that are not connected: no chain is found below the proven barrier, and matching joins the exchanged units."""

import numpy as np
import pytest

from experiments.counterexamples import Counterexamples, cross_entropy, highest, main, pairs

SMALL = Counterexamples(units=(2,), bends=1, seeds=2, epochs=20)


def test_losses_are_least_at_the_labels():
    labels = np.linspace(-2, 2, 5, dtype=np.float32)[:, None]
    at, below, above = (np.asarray(cross_entropy(labels + error, labels)) for error in (0, -0.1, 0.1))
    p = 1 / (1 + np.exp(-labels))
    np.testing.assert_allclose(at, -p * np.log(p) - (1 - p) * np.log(1 - p), rtol=1e-5)
    assert (below > at).all()
    assert (above > at).all()


@pytest.mark.parametrize("pair", range(5))
def test_nothing_is_below_the_barrier_but_what_matching_joins(pair):
    name, example = list(pairs(SMALL))[pair]
    straight, matched, chain = highest(example, SMALL)
    assert straight >= 0.999 * example.barrier
    # Points of the grid can be a little lower than the barrier, which is reached between them.
    assert 0.98 * example.barrier <= chain <= 1.01 * straight
    assert (matched < 1e-6) == (name == "two units exchanged")


def test_the_table_has_a_row_for_each_pair(capsys, monkeypatch):
    monkeypatch.setattr("experiments.counterexamples.highest", lambda example, config: (3.0, 2.0, 1.0))
    main(SMALL)
    rows = capsys.readouterr().out.splitlines()[2:]
    assert [row.split()[-3:] for row in rows] == [["3.00000", "2.00000", "1.00000"]] * 5
