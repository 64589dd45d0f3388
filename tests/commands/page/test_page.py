"""The page of a run: every part is there, nothing that a run says is markup, and it is alive in a browser."""

import html
import json
import math
import re
import tomllib
from itertools import pairwise
from pathlib import Path

import pytest
from pages import HOSTILE, LOSSES, browse, picture, readings, report, study, write

import mcjax
from mcjax.commands.page import page


def test_a_study_has_every_part(tmp_path):
    folder = write(tmp_path / "r", {"page": study(), "count": 3})
    first, second = picture(folder, "a_first.png"), picture(folder, "second.png")
    times = {"stages": [{"name": "fit", "seconds": 5400}, {"name": "measure", "seconds": 12.25}]}
    (folder / "times.json").write_text(json.dumps(times))
    (folder / "machines.jsonl").write_text('{"device": "a laptop"}\n{"dev')
    read = report(folder)
    for words in ("A study of aligned", "First aligned.", "Second.", "and theirs", "took 1 h 30 min", "a laptop"):
        assert words in read.text
    for row in (
        ["curve", "ours", "paper"],
        ["aligned", "0.5", "0.525"],
        ["none", "–"],
        ["worst", "NaN"],
        ["fit", "1 h 30 min"],
        ["measure", "12 s"],
        ["count", "3"],
    ):
        assert row in read.rows
    assert [image["alt"] for image in read.images] == ["The second aligned", "a first"]
    for image, png in zip(read.images, (second, first), strict=True):
        head, _, data = image["src"].partition(",")
        assert head == "data:image/png;base64"
        assert page.base64.b64decode(data) == png
    assert "figures/gone.png is not in this run folder: Lost" in read.text
    planes = read.payload["planes"]
    assert planes[0]["values"] == study()["planes"][0]["values"]
    assert planes[0]["curve"]["values"]["test_loss"] == LOSSES
    assert read.payload["paths"][0]["lines"][1]["test_loss"] == [1.0, None, None, 2.0]


def test_columns_of_numbers_have_one_number_of_decimals(tmp_path):
    rows = [["a", 85.5, "0.1 ± 0.2", 1], ["b", 92.25, "–", 2], ["c", None, "", 1.5]]
    read = report(write(tmp_path / "r", {"page": {"tables": [{"head": ["", "x", "y", "z"], "rows": rows}]}}))
    assert read.rows[1:4] == [["a", "85.50", "0.1 ± 0.2", "1.0"], ["b", "92.25", "–", "2.0"], ["c", "–", "", "1.5"]]
    cells = [attributes.get("class") for tag, attributes in read.tags if tag == "td"][:3]
    assert cells == ["number"] * 3


def test_text_of_a_run_is_never_markup(tmp_path):
    config = {"command": HOSTILE, HOSTILE: {HOSTILE: HOSTILE}}
    results = {"page": study(HOSTILE), HOSTILE: {HOSTILE: {HOSTILE: 1.5, "said": HOSTILE}}}
    times = {"stages": [{"name": HOSTILE, "seconds": 1}]}
    folder = write(tmp_path / "<b>&r", results, config, times=times)
    (folder / "metrics.jsonl").write_text(json.dumps({"stage": HOSTILE, "epoch": 1, HOSTILE: HOSTILE}) + "\n")
    (folder / "machines.jsonl").write_text(json.dumps({HOSTILE: HOSTILE}))
    picture(folder, "<i>&.png")
    read = report(folder)
    assert len(read.scripts) == 3
    assert not {"b>&r", "i"} & {tag for tag, _ in read.tags}
    assert [image["alt"] for image in read.images] == ["<i>&"]
    assert not [1 for _, attributes in read.tags if any(name.startswith("on") for name in attributes)]
    assert read.payload["planes"][0]["title"] == HOSTILE
    assert read.text.count("alert('&amp;')") > 10


def test_the_template_is_part_of_the_package():
    root = Path(mcjax.__file__).parent
    project = tomllib.loads((root.parent / "pyproject.toml").read_text())
    named = project["tool"]["setuptools"]["package-data"]["mcjax"]
    assert str(page.TEMPLATE.relative_to(root)) in named
    assert not re.findall(r"(?:src|href)=|https?://(?!www\.w3\.org/2000/svg)|@import|url\(", page.TEMPLATE.read_text())


@pytest.mark.parametrize(
    ("fragment", "loss", "accuracy", "note"),
    [
        ("", "0.1000", "90.00 %", "Measured at this t."),
        ("#t=0.25", "0.3750", "80.00 %", "Measured at this t."),
        ("#t=0.3", "0.4500", "78.00 %", "between the measured t = 0.2500 and t = 0.5000"),
        ("#t=7", "0.2000", "90.00 %", "Measured at this t."),
    ],
)
def test_the_slider_shows_measured_values(tmp_path, fragment, loss, accuracy, note):
    folder = write(tmp_path / "r", {"page": study()})
    report(folder)
    read, _ = browse(folder, tmp_path, fragment)
    plane, path = readings(read)
    assert plane == {"at this t": "aligned", "test loss": loss, "test accuracy": accuracy}
    assert path == {"at this t": "aligned", "test loss": loss, "test accuracy": "–"}
    assert note in read.text
    [canvas] = [attributes for tag, attributes in read.tags if tag == "canvas"]
    assert "Surface of test loss over aligned, 4 by 5 points, from 0.2111 to 2.1000." in canvas["aria-label"]
    assert "between 0.1000 and 0.7500. θ₁ is at 0.000, 0.000." in canvas["aria-label"]
    inputs = [attributes for tag, attributes in read.tags if tag == "input"]
    assert [i["type"] for i in inputs].count("checkbox") == 2


def test_the_page_handles_hostile_text_and_missing_values(tmp_path):
    hostile = study(HOSTILE)
    hostile["planes"][0]["values"]["test_loss"][2][1] = math.nan
    hostile["planes"][0]["curve"]["values"]["test_loss"] = [math.inf, 0.375, None, 0.2]
    bare = {"x": [0, 1], "y": [0, 1], "values": {"test_loss": [[math.nan] * 2] * 2}}
    level = {"x": [0, 1, 3], "y": [0, 9], "values": {"test_loss": [[0.5] * 3] * 2}}
    empty = {"t": [0, 1], "lines": [{"name": "x", "train_loss": [math.nan, None]}]}
    hostile["planes"] += [bare, level]
    hostile["paths"] += [{"t": [0, 1]}, empty]
    folder = write(tmp_path / "r", {"page": hostile})
    report(folder)
    read, _ = browse(folder, tmp_path, "#t=0.25")
    plane, *_ = readings(read)
    assert (plane["test loss"], plane["test accuracy"]) == ("0.3750", "80.00 %")
    assert plane["at this t"].startswith("</script><script>alert")
    assert len(read.scripts) == 3
    assert html.unescape(HOSTILE.split(" ")[0]) in html.unescape(read.text)
    assert sum(tag == "canvas" for tag, _ in read.tags) == 3


EVERY_CONTROL = """<script>
const find = where => document.querySelector(where), canvas = find("canvas"), seen = [];
const press = (node, key) => node.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
const steps = [
  () => {},
  () => press(canvas, "ArrowLeft"),
  () => press(canvas, "ArrowUp"),
  () => press(canvas, "+"),
  () => canvas.dispatchEvent(new WheelEvent("wheel", { deltaY: 99, ctrlKey: true })),
  () => document.querySelectorAll("button")[0].click(),
  () => document.querySelectorAll("button")[1].click(),
  () => press(find("input[step=any]"), "ArrowRight"),
  () => { location.hash = "t=0.6"; },
  () => { find("select").value = "test_accuracy"; find("select").dispatchEvent(new Event("change")); },
];
function next() {
  if (seen.length < steps.length) {
    steps[seen.length]();
    setTimeout(() => {
      seen.push([...canvas.toDataURL()].reduce((sum, letter) => (31 * sum + letter.charCodeAt(0)) % 1000003, 7));
      next();
    }, 50);
  } else {
    find("input[type=checkbox]").click();
    document.documentElement.dataset.seen = seen.join(" ");
  }
}
next();
</script>"""


def test_every_control_changes_the_picture(tmp_path):
    folder = write(tmp_path / "r", {"page": study()})
    report(folder)
    text = (folder / "report.html").read_text()
    # A browser that draws for nobody gives frames when it likes.
    at_once = "<head><script>window.requestAnimationFrame = draw => setTimeout(draw, 0);</script>"
    text = text.replace("<head>", at_once).replace("</body>", EVERY_CONTROL + "</body>")
    (folder / "report.html").write_text(text)
    read, attributes = browse(folder, tmp_path)
    seen = attributes.pop("data-seen").split()
    assert len(seen) == 10
    assert [i for i, (a, b) in enumerate(pairwise(seen), 1) if a == b] == []
    assert seen[6] == seen[0]  # the view is as it was
    plane, path = readings(read)
    assert plane["test loss"] == "0.6400"  # a fifth of the way from 0.75 at 0.5 to 0.2 at 1
    assert path["at this t"] == "other"
