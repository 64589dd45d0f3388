"""Processes of `mcjax train` and `mcjax connect` that end in other ways than their own: the same command goes on."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import FIT, run, same_run

import mcjax

# What takes longest is to import, which the children have done; each ends in the way that its case says.
DYING = """
import json, os, resource, signal, sys
sys.path.insert(0, sys.argv[1])
import jax
from mcjax import cli
from mcjax.runs import stage
from mcjax.runs.progress import Progress

update = Progress.update

def dying(self, epoch, said):
    update(self, epoch, said)
    if epoch == 2:
        signal.raise_signal(getattr(signal, how))

for folder, how, command in json.loads(sys.argv[2]):
    child = os.fork()
    if not child:
        break
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
else:
    sys.exit()
for stream, name in ((1, "stdout"), (2, "stderr")):
    os.dup2(os.open(f"{folder}/{name}", os.O_CREAT | os.O_WRONLY), stream)
# A process that a shell has put into the background ignores Ctrl-C, and so do those that it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)
stage.SAVE_EVERY_S = 0.0
if how == "full disk":
    jax.config.update("jax_enable_compilation_cache", False)  # which would keep the half of what it writes
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))
else:
    Progress.update = dying
sys.argv = ["mcjax", *command]
cli.entry()
"""
CODES = {"SIGKILL": -signal.SIGKILL, "SIGINT": 130, "full disk": 1}


@pytest.mark.slow
def test_what_ended_in_any_way_ends_with_the_same_bits(train, trained, ends, connected, tmp_path, capsys):
    connect = ("connect", *ends, *FIT)
    cases = [(train, "SIGKILL"), (train, "SIGINT"), (train, "full disk"), (connect, "SIGKILL")]
    folders = [tmp_path / str(i) for i in range(len(cases))]
    for folder in folders:
        folder.mkdir()
    told = [
        (str(folder), how, [*map(str, command), "--out", str(folder / "run")])
        for folder, (command, how) in zip(folders, cases, strict=True)
    ]
    script = [sys.executable, "-c", DYING, str(Path(mcjax.__file__).parents[1]), json.dumps(told)]
    done = subprocess.run(script, stdout=subprocess.PIPE, text=True, timeout=300)
    assert done.returncode == 0
    assert [int(code) for code in done.stdout.split()] == [CODES[how] for _, how in cases]
    for folder, (command, how) in zip(folders, cases, strict=True):
        err = (folder / "stderr").read_text()
        assert "Traceback" not in err
        if how == "SIGINT":
            assert "mcjax: interrupted: complete epochs are kept" in err
        if how == "full disk":
            assert "mcjax: failed: cannot write" in err
            assert "File too large" in err
        assert not (folder / "run" / "results.json").exists()
        capsys.readouterr()
        assert run(*command, "--out", folder / "run") == 0
        assert ("epoch 1/" in capsys.readouterr().err) == (how == "full disk")
        if command is train:
            same_run(folder / "run", trained, "network_0", "network_1", "train/latest")
        else:
            same_run(folder / "run", connected("bezier"), "curve", "fit/latest")
