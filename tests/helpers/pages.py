"""Pages of `mcjax report`: runs written by hand, the page as its elements, and in a browser."""

import json
import math
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
from command_line import run
from PIL import Image

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
