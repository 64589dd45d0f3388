"""Results of any run as tables."""

from pages import report, write


def test_results_of_any_run_are_tables(tmp_path, capsys):
    results = {
        "summary": {"train_loss": {"min": 0.125, "max": 3.0}, "test_loss": {"min": 0.00012, "max": 2}},
        "test_accuracy": {"mean": 0.75, "std": 0.0625, "values": [0.7, 0.8]},
        "length": 12.5,
        "grid": {"a_b": {"x": {"mean": 1.0, "std": 0.0005, "values": [1.0] * 9}, "y": [1, 2]}},
        "steps": [{"objective": 1.5}, {"objective": 0.5}],
        "long": [float(i) for i in range(9)],
        "other": [i + 0.5 for i in range(9)],
    }
    folder = write(tmp_path / "found", results)
    read = report(folder)
    assert capsys.readouterr().out == f"Written to {folder / 'report.html'}, a page to open in any browser.\n"
    for row in (
        ["", "min", "max"],
        ["train loss", "0.1250", "3.0000"],
        ["test loss", "1.200e-04", "2"],
        ["test accuracy", "0.7500 ± 0.0625", "0.7000, 0.8000"],
        ["length", "12.5000", ""],
        ["a b", "1.0000 ± 0.0005", "1, 2"],
        ["1", "0.5000"],
        ["", "long", "other"],
        ["3", "3.0000", "3.5000"],
    ):
        assert row in read.rows
    assert "mcjax train: found" in read.text
    assert "not finished" not in read.text
    assert read.payload == {"paths": [], "planes": []}
    assert not [
        tag for tag, attributes in read.tags if "http" in str(attributes.get("src", attributes.get("href", "")))
    ]
