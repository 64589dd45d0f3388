"""What the stem's part in a trunk's match changes: shares by hand, and the table of two small networks."""

import numpy as np
import pytest

from experiments.trunks import Trunks, main, shares
from mcjax import InputError
from mcjax.matching import Match


def test_units_that_differ_and_correlations_as_each_match_counts_them():
    by_all, by_stem = np.array([[0.5, 0.25], [0.0, 1.0]]), np.array([[0.0, 0.75], [0.5, 0.0]])
    matches = {
        "all": Match({"g": np.array([[0, 1]])}, None, {"correlation": {"g": by_all[None]}}),
        "stem": Match({"g": np.array([[1, 0]])}, None, {"correlation": {"g": by_stem[None]}}),
    }
    assert [column.tolist() for column in shares(matches, "all", "g")] == [[0], [0.75], [0.0]]
    assert [column.tolist() for column in shares(matches, "stem", "g")] == [[2], [0.125], [0.625]]


def test_a_network_without_trunks_is_refused_before_it_is_trained():
    with pytest.raises(InputError, match="tinysix, which has no residual trunk"):
        main(Trunks(model="tinysix", epochs=10_000))


def test_the_ends_alone_are_not_a_path():
    with pytest.raises(InputError, match="points=2, expected at least 3"):
        main(Trunks(points=2))


@pytest.mark.slow
def test_the_table_has_a_row_for_each_part_of_the_stem(capsys):
    main(Trunks(width=0.25, train_images=200, test_images=50, pairs=1, epochs=1, points=3))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines[-3:]] == ["stem and blocks", "blocks", "published"]
    assert lines[-3].split()[3:6] == ["0.000", "±", "0.000"]  # no unit differs from itself
