"""`mcjax report`: one page of any run, safe whatever the run is called, and alive in a browser."""

import errno
import html
import json
import math
import os
import re
import shutil
import subprocess
import tomllib
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from command_line import run, said
from PIL import Image

import mcjax
from mcjax.commands.page import page

HOSTILE = "</script><script>alert('&amp;')</script><img src=x onerror=alert(1)> {{data}} \u2028"
BROWSER = next(
    (found for name in ("chromium", "google-chrome", "chromium-browser") if (found := shutil.which(name))), None
)
TS = [0.0, 0.25, 0.5, 1.0]
LOSSES = [0.1, 0.375, 0.75, 0.2]


def write(folder, results=None, config=None, **files):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config or {"command": "train", "model": {"name": "mlp"}, "seed": 7}))
    for name, content in {"results": results, **files}.items():
        if content is not None:
            (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def picture(folder, name):
    (folder / "figures").mkdir(exist_ok=True)
    Image.new("RGB", (3, 2), (200, 30, 30)).save(folder / "figures" / name)
    return (folder / "figures" / name).read_bytes()


def study(name="aligned"):
    grid = np.add.outer(np.linspace(0, 1, 5) ** 2, np.linspace(-1, 1, 4) ** 2) + 0.1
    curve = {"name": name, "t": TS, "x": [0.0, 0.2, 0.5, 0.9], "y": [0.0, 0.4, 0.5, 0.1]}
    return {
        "title": f"A study of {name}",
        "text": [f"First {name}.", "Second."],
        "tables": [
            {"title": "Ours", "text": "and theirs", "head": ["curve", "ours", "paper"], "rows": [[name, 0.5, 0.525]]},
            {"head": ["a", "b"], "rows": [["none", None], ["worst", math.nan]]},
        ],
        "figures": [{"file": "second.png", "caption": f"The second {name}"}, {"file": "gone.png", "caption": "Lost"}],
        "paths": [
            {
                "title": "All",
                "t": TS,
                "lines": [
                    {"name": name, "test_loss": LOSSES, "deviation": {"test_loss": [0.01] * 4}},
                    {"name": "other", "test_loss": [1.0, math.nan, math.inf, 2.0], "test_accuracy": [0.5] * 4},
                ],
            }
        ],
        "planes": [
            {
                "title": name,
                "x": np.linspace(-1, 1, 4).tolist(),
                "y": np.linspace(0, 1, 5).tolist(),
                "values": {"test_loss": grid.tolist(), "test_accuracy": (1 - grid / 3).tolist()},
                "curve": {**curve, "values": {"test_loss": LOSSES, "test_accuracy": [0.9, 0.8, 0.7, 0.9]}},
                "points": [{"name": "theta_1", "x": 0.0, "y": 0.0}, {"name": name, "x": 0.9, "y": 0.1}],
            }
        ],
    }


class Reader(HTMLParser):
    """The elements of a page, its tables as rows of text, and the content of its scripts."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.rows, self.scripts, self.images, self.text = [], [], [], [], ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("th", "td"):
            self.rows[-1].append("")
        if tag == "script":
            self.scripts.append("")
        if tag == "img":
            self.images.append(dict(attributes))

    def handle_data(self, data):
        if self.tags and self.tags[-1][0] == "script" and self.cdata_elem == "script":
            self.scripts[-1] += data
        elif self.rows and self.tags[-1][0] in ("th", "td"):
            self.rows[-1][-1] += data.strip("\n")
        self.text += data

    @property
    def payload(self):
        return json.loads(self.scripts[1], parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def report(folder, *options):
    assert run("report", folder, *options) == 0
    return Reader((folder / "report.html").read_text(encoding="utf-8"))


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


def test_a_measured_path_gets_a_slider(tmp_path):
    along = {"ts": TS, "train_loss": LOSSES, "test_accuracy": [0.5, 0.6, 0.7, 0.8], "distance": [0.0, 1.0, 2.0, 3.0]}
    [path] = report(write(tmp_path / "r", {"along": along})).payload["paths"]
    assert path["t"] == TS
    assert path["lines"] == [{"name": "path", "train_loss": LOSSES, "test_accuracy": [0.5, 0.6, 0.7, 0.8]}]
    pairs = {"ts": TS, "train_loss": [LOSSES, LOSSES]}
    assert report(write(tmp_path / "r", {"along": pairs})).payload["paths"] == []


def test_a_study_has_every_part(tmp_path):
    folder = write(tmp_path / "r", {"page": study(), "count": 3})
    first, second = picture(folder, "a_first.png"), picture(folder, "second.png")
    times = {"stages": [{"name": "fit", "seconds": 5400}, {"name": "measure", "seconds": 12.25}], "machine": "a laptop"}
    (folder / "times.json").write_text(json.dumps(times))
    read = report(folder)
    for words in ("A study of aligned", "First aligned.", "Second.", "and theirs", "took 1 h 30 min", "On a laptop."):
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


def test_nothing_that_a_run_says_is_markup(tmp_path):
    config = {"command": HOSTILE, HOSTILE: {HOSTILE: HOSTILE}}
    results = {"page": study(HOSTILE), HOSTILE: {HOSTILE: {HOSTILE: 1.5, "said": HOSTILE}}}
    times = {"stages": [{"name": HOSTILE, "seconds": 1}], "machine": HOSTILE}
    folder = write(tmp_path / "<b>&r", results, config, times=times)
    (folder / "metrics.jsonl").write_text(json.dumps({"stage": HOSTILE, "epoch": 1, HOSTILE: HOSTILE}) + "\n")
    picture(folder, "<i>&.png")
    read = report(folder)
    assert len(read.scripts) == 3
    assert not {"b>&r", "i"} & {tag for tag, _ in read.tags}
    assert [image["alt"] for image in read.images] == ["<i>&"]
    assert not [1 for _, attributes in read.tags if any(name.startswith("on") for name in attributes)]
    assert read.payload["planes"][0]["title"] == HOSTILE
    assert read.text.count("alert('&amp;')") > 10


def test_an_unfinished_run_shows_what_is_there(tmp_path):
    folder = write(tmp_path / "r")
    lines = [{"stage": "fit", "epoch": i, "loss": 1 / i, "each": [0.5] * 8 + [1.5]} for i in (1, 2, 4)]
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + '\n{"stage": "fi')
    read = report(folder)
    assert "This run is not finished." in read.text
    assert ["fit", "4", "0.2500", "0.5000 to 1.5000"] in read.rows
    assert read.payload == {"paths": [], "planes": []}


def test_a_run_is_only_read_and_gives_the_same_bytes_again(tmp_path, monkeypatch):
    folder = write(tmp_path / "r", {"page": study(), "x": math.nan})
    picture(folder, "second.png")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    report(folder)
    first = (folder / "report.html").read_bytes()
    (folder / "report.html").unlink()
    monkeypatch.chdir(folder)
    assert run("report", ".", "--out", tmp_path / "elsewhere.html") == 0
    assert (tmp_path / "elsewhere.html").read_bytes() == first
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_real_run_has_its_numbers(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "r")
    read = report(tmp_path / "r")
    results = json.loads((trained / "results.json").read_text())
    for name, summary in results.items():
        [row] = [row for row in read.rows if row and row[0] == name.replace("_", " ")]
        assert row[1] == f"{summary['mean']:.4f} ± {summary['std']:.4f}"
    assert [image["alt"] for image in read.images] == ["training"]


def no_run(folder):
    shutil.rmtree(folder)


def damaged(folder):
    (folder / "results.json").write_text('{"a": 1')


def without_config(folder):
    (folder / "config.json").unlink()


def changed(*keys, to):
    def change(folder):
        results = {"page": study()}
        part = results
        for key in keys[:-1]:
            part = part[key]
        part[keys[-1]] = to
        (folder / "results.json").write_text(json.dumps(results))

    change.__name__ = ".".join(map(str, keys))
    return change


@pytest.mark.parametrize(
    ("harm", "patterns"),
    [
        (no_run, ["no run at", "expected a run folder"]),
        (without_config, ["not a run of mcjax", "config.json"]),
        (damaged, ["results.json cannot be read", "Expecting ',' delimiter", "Delete it"]),
        (lambda folder: (folder / "results.json").write_text("[1]"), ["it holds a list, expected a JSON object"]),
        (lambda folder: (folder / "times.json").write_text('{"stages": [1]}'), ["times.json: got", "expected stages"]),
        (changed("page", to=3), ["page: got 3, expected an object"]),
        (
            changed("page", "tables", to=[{"head": ["a"], "rows": [[1, 2]]}]),
            ["page.tables[0].rows", "expected 1 cells"],
        ),
        (changed("page", "figures", to=["a.png"]), ["page.figures[0]: got a.png"]),
        (changed("page", "paths", 0, "t", to=[0, 0, 1, 2]), ["page.paths[0].t", "increasing"]),
        (changed("page", "paths", 0, "lines", 0, "test_loss", to=[1.0]), ["lines[0].test_loss", "expected 4 numbers"]),
        (changed("page", "planes", 0, "y", to=[0.0, 1.0]), ["planes[0].values.test_loss", "expected 2 rows"]),
        (changed("page", "planes", 0, "curve", "x", to=None), ["planes[0].curve.x: got null, expected 4 numbers"]),
        (changed("page", "planes", 0, "points", to=[{"name": "a"}]), ["planes[0].points", "numbers x and y"]),
    ],
)
def test_what_is_no_whole_run_is_said(tmp_path, capsys, harm, patterns):
    folder = write(tmp_path / "r", {"page": study()})
    harm(folder)
    assert run("report", folder) == 2
    said(capsys, 2, *patterns)
    assert not (folder / "report.html").exists()


def test_where_nothing_can_be_written_is_said(tmp_path, capsys, monkeypatch):
    folder = write(tmp_path / "r", {"a": 1})
    assert run("report", folder, "--out", tmp_path) == 2
    said(capsys, 2, "a folder", "expected a file to write")
    assert run("report", folder, "--out", tmp_path / "none" / "a.html") == 2
    said(capsys, 2, "which is not a folder")

    def full(self, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    assert run("report", folder) == 1
    said(capsys, 1, "No space left on device", str(folder / "report.html"))
    assert not (folder / "report.html").exists()


def test_the_template_is_part_of_the_package():
    root = Path(mcjax.__file__).parent
    project = tomllib.loads((root.parent / "pyproject.toml").read_text())
    named = project["tool"]["setuptools"]["package-data"]["mcjax"]
    assert str(page.TEMPLATE.relative_to(root)) in named
    assert not re.findall(r"(?:src|href)=|https?://(?!www\.w3\.org/2000/svg)|@import|url\(", page.TEMPLATE.read_text())


def browse(folder, tmp_path, fragment=""):
    """The page after its script has run, without a word on the console, and what its root element says."""
    if BROWSER is None:
        pytest.skip("no chromium and no google-chrome here: the page was not opened")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=3000", "--enable-logging=stderr"]
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    address = (folder / "report.html").as_uri() + fragment
    command = [BROWSER, *options, profile, "--dump-dom", address]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert [line for line in done.stderr.splitlines() if "CONSOLE" in line] == []
    read = Reader(done.stdout)
    [attributes] = [attributes for tag, attributes in read.tags if tag == "html"]
    assert attributes["data-ready"] == "true"
    assert "data-error" not in attributes
    return read, attributes


def readings(read):
    tables = [i for i, row in enumerate(read.rows) if row[:1] == ["at this t"]]
    return [dict(zip(read.rows[i], read.rows[i + 1], strict=True)) for i in tables]


@pytest.mark.parametrize(
    ("fragment", "loss", "accuracy", "note"),
    [
        ("", "0.1000", "90.00 %", "Measured at this t."),
        ("#t=0.25", "0.3750", "80.00 %", "Measured at this t."),
        ("#t=0.3", "0.4500", "78.00 %", "between the measured t = 0.2500 and t = 0.5000"),
        ("#t=7", "0.2000", "90.00 %", "Measured at this t."),
    ],
)
def test_the_slider_says_what_was_measured(tmp_path, fragment, loss, accuracy, note):
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


def test_the_page_lives_with_what_is_hostile_or_missing(tmp_path):
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
