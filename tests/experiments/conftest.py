"""Fixtures of studies: the parts that a study makes, and a study that is stopped at one of them and resumed."""

import json
from contextlib import contextmanager
from pathlib import Path

import pytest
from refusals import says

from experiments.study import Parts
from mcjax import InputError


@contextmanager
def parts_made(stop=None):
    """The parts that studies list, and those that they make, in order; at the part `stop` it ends as by Ctrl-C."""
    listed, made, init, timed = [], [], Parts.__init__, Parts.timed

    def listing(parts, folder, names, title):
        listed.extend(names)
        init(parts, folder, names, title)

    @contextmanager
    def noted(parts, name):
        made.append(name)
        if name == stop:
            raise KeyboardInterrupt
        with timed(parts, name):
            yield

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Parts, "__init__", listing)
        patch.setattr(Parts, "timed", noted)
        yield listed, made


@pytest.fixture(scope="session")
def stopped_once():
    """Do a study that is stopped at a part, and resume it, to its folder: it makes what it lists, each part once."""

    def done(main, study, stop):
        with parts_made(stop) as (_, before), pytest.raises(KeyboardInterrupt):
            main(study)
        with parts_made() as (listed, after):
            main(study)
        assert before[-1] == after[0] == stop
        assert len({*before, *after}) == len(before) + len(after) - 1
        assert sorted(listed) == sorted({*before, *after}) == sorted(stages_of(study.out))
        return Path(study.out)

    return done


@pytest.fixture
def results_of(capsys):
    """The results.json of a finished study: every figure is in it, and the same command reports it again."""

    def read(main, study):
        folder = Path(study.out)
        results = json.loads((folder / "results.json").read_text())
        named = [figure["file"] for figure in results["page"]["figures"]]
        assert sorted(named) == sorted(path.name for path in (folder / "figures").glob("*"))
        capsys.readouterr()
        main(study)
        said = capsys.readouterr()
        assert "is finished" in said.err
        assert all(each["title"] in said.out for each in results["page"]["tables"])
        return results

    return read


def stages_of(folder):
    """The names of the stages in a study's times.json."""
    return {stage["name"] for stage in json.loads(Path(folder, "times.json").read_text())["stages"]}


@pytest.fixture(scope="session")
def stages():
    return stages_of


@pytest.fixture
def refused():
    """Assert that a study is refused with these words in the message, before anything is written."""

    def refuse(main, study, *named):
        with says(InputError, *named):
            main(study)
        assert study.out is None or not Path(study.out).exists()

    return refuse
