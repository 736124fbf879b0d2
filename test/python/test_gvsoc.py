"""GVSoC: what is wrong with an installation is one clear line; with GVSOC present, both simulators agree."""

import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import traindeeploy
from traindeeploy import gvsoc
from traindeeploy.errors import TrainDeeployError
from traindeeploy.gvsoc import Gvsoc
from traindeeploy.sim import StepLogs
from traindeeploy.target import load_target

HEAD = """#!/usr/bin/env python3
import os, signal, sys, time
"""
GAPY = (
    HEAD
    + """
folder = next(a.split("=", 1)[1] for a in sys.argv if a.startswith("--work-dir="))
open(folder + "/gvsoc_config.json", "w").write("{}")
"""
)


def script(path: Path, text: str) -> None:
    """An executable file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that looks like a GVSoC whose programs end at once, and a compiler that takes anything."""
    root = tmp_path / "gvsoc tree"
    script(root / "install/bin/gapy", GAPY)
    script(root / "install/bin/gvsoc_launcher", HEAD)
    needs = ("core/engine/include/vp/vp.hpp", "install/generators/pulp/chips/pulp_open/cluster.py")
    for needed in (*needs, "install/lib/libpulpvp.so"):
        (root / needed).parent.mkdir(parents=True, exist_ok=True)
        (root / needed).touch()
    script(tmp_path / "cxx", HEAD + "open(sys.argv[sys.argv.index('-o') + 1], 'w')\n")
    monkeypatch.setenv("CXX", str(tmp_path / "cxx"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("TRAINDEEPLOY_GVSOC_PYTHON", raising=False)
    monkeypatch.setattr(gvsoc, "COMMITS", {"": ""})
    return root


def run(root: Path, folder: Path, **options: object) -> list[str]:
    """Runs nothing on a GVSoC; returns what it printed."""
    printed: list[str] = []
    settings = {"stdout": printed.append, "max_cycles": 1000, **options}
    Gvsoc(root).run(load_target("pulp-redmule"), folder / "program.elf", folder, **settings)  # type: ignore[arg-type]
    return printed


def test_not_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRAINDEEPLOY_GVSOC", raising=False)
    with pytest.raises(TrainDeeployError, match="name its folder by --gvsoc or TRAINDEEPLOY_GVSOC"):
        Gvsoc()


def test_environment_names_it(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRAINDEEPLOY_GVSOC", str(tree))
    assert Gvsoc().root == tree.resolve()


@pytest.mark.parametrize(
    "missing, message",
    [
        (".", "there is no GVSoC at .*: no such folder"),
        ("install", "is not built: install/bin/gapy is missing"),
        ("install/generators", "is not built: install/generators/pulp/.* is missing"),
        ("core", r"has no headers \(core/engine/include\)"),
    ],
)
def test_incomplete(tree: Path, missing: str, message: str) -> None:
    shutil.rmtree(tree / missing)
    with pytest.raises(TrainDeeployError, match=message):
        Gvsoc(tree)


def test_other_commit(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gvsoc, "COMMITS", {"": "209c147c"})
    with pytest.raises(TrainDeeployError, match="gvsoc is at no known commit, 209c147c is needed"):
        Gvsoc(tree)
    git = ["git", "-C", str(tree), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "x"], check=True)
    with pytest.raises(TrainDeeployError, match=r"gvsoc is at [0-9a-f]{8}, 209c147c is needed"):
        Gvsoc(tree)


def test_edited_sources(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git = ["git", "-C", str(tree), "-c", "user.name=a", "-c", "user.email=a@b"]
    source = tree / "core/engine/include/vp/vp.hpp"
    for command in (["init", "-q"], ["add", "core"], ["commit", "-q", "-m", "x"]):
        subprocess.run([*git, *command], check=True)
    Gvsoc(tree)
    source.write_text("int edited;\n")
    with pytest.raises(TrainDeeployError, match=r"were edited: core/engine/include/vp/vp\.hpp; undo that"):
        Gvsoc(tree)


def test_stale_build(tree: Path) -> None:
    source = tree / "pulp/pulp/chips/pulp_open/cluster.py"
    source.parent.mkdir(parents=True)
    source.touch()
    Gvsoc(tree)
    source.write_text("x = 1\n")
    with pytest.raises(TrainDeeployError, match=r"pulp/pulp/chips/pulp_open/cluster\.py is another than"):
        Gvsoc(tree)
    source.unlink()
    os.utime(tree / "install/lib/libpulpvp.so", (0, 0))
    with pytest.raises(TrainDeeployError, match=r"vp\.hpp is newer than install/lib/libpulpvp\.so"):
        Gvsoc(tree)


def test_tree_of_another_user(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tree / ".git").mkdir()
    script(tmp_path / "bin/git", HEAD + "sys.exit('fatal: detected dubious ownership in repository at x')\n")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    with pytest.raises(TrainDeeployError, match=r"belongs to another user.*safe\.directory '.*/\*'"):
        Gvsoc(tree)


def test_no_compiler(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(TrainDeeployError, match=r"needs a C\+\+ compiler .* install g\+\+, or set CXX"):
        Gvsoc(tree).models()


def test_compiler_fails(tree: Path, tmp_path: Path) -> None:
    script(tmp_path / "cxx", HEAD + "sys.exit('x.cpp:1: error: no such type')\n")
    with pytest.raises(
        TrainDeeployError, match=r"cannot compile redmule.cpp .*: x.cpp:1: error: no such type"
    ):
        Gvsoc(tree).models()
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_components_are_compiled_once(tree: Path, tmp_path: Path) -> None:
    folder = Gvsoc(tree).models()
    assert sorted(path.name for path in (folder / "traindeeploy").iterdir()) == ["probe.so", "redmule.so"]
    script(tmp_path / "cxx", HEAD + "sys.exit(1)\n")
    assert Gvsoc(tree).models() == folder
    script(tmp_path / "cxx", HEAD + "open(sys.argv[sys.argv.index('-o') + 1], 'w')\n")
    traced = Gvsoc(tree).models(debug=True)
    assert (traced / "debug/traindeeploy/redmule.so").exists() and traced != folder


def test_cache_cannot_be_written(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("")
    with pytest.raises(TrainDeeployError, match="cannot write the cache folder"):
        Gvsoc(tree).models()


def test_python_package_is_missing(tree: Path, tmp_path: Path) -> None:
    script(tree / "install/bin/gapy", HEAD + "import no_such_package.part\n")
    with pytest.raises(TrainDeeployError, match=r"needs the package no_such_package.*traindeeploy\[gvsoc\]"):
        run(tree, tmp_path)


def test_machine_cannot_be_described(tree: Path, tmp_path: Path) -> None:
    script(tree / "install/bin/gapy", HEAD + "sys.exit('Input error: no such bank')\n")
    with pytest.raises(TrainDeeployError, match="cannot describe the machine: Input error: no such bank"):
        run(tree, tmp_path)


def test_output_comes_as_it_is_printed(tree: Path, tmp_path: Path) -> None:
    text = "print('loss 3f800000')\nfor _ in range(300): time.sleep(0.1)\n"
    script(tree / "install/bin/gvsoc_launcher", HEAD + text)

    class Stop(Exception):
        pass

    def stop(text: str) -> None:
        assert text == "loss 3f800000\n"
        raise Stop

    begin = time.monotonic()
    with pytest.raises(Stop):
        run(tree, tmp_path, stdout=stop)
    assert time.monotonic() - begin < 20


def test_crash(tree: Path, tmp_path: Path) -> None:
    text = """
sys.stderr.write("@traindeeploy cycles 4096\\nL1 refused RedMulE\\n")
sys.stderr.flush()
os.kill(os.getpid(), signal.SIGABRT)
"""
    script(tree / "install/bin/gvsoc_launcher", HEAD + text)
    with pytest.raises(
        TrainDeeployError, match=r"crashed after cycle 4,096 \(killed by SIGABRT\): L1 refused RedMulE$"
    ):
        run(tree, tmp_path)


def test_component_is_missing(tree: Path, tmp_path: Path) -> None:
    text = """
sys.stderr.write("  what():  Couldn't find component (name: gen_light_redmule, inc_dirs: x")
sys.stderr.flush()
os.kill(os.getpid(), signal.SIGABRT)
"""
    script(tree / "install/bin/gvsoc_launcher", HEAD + text)
    with pytest.raises(TrainDeeployError, match=r"lacks component gen_light_redmule: build it with"):
        run(tree, tmp_path)


def alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("sign", ["", "@traindeeploy limit 1000"])
def test_hang_and_limit_leave_no_process(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sign: str
) -> None:
    text = f"""
signal.signal(signal.SIGTERM, signal.SIG_IGN)
open("pid", "w").write(str(os.getpid()))
print({sign!r}, file=sys.stderr, flush=True)
time.sleep(1000)
"""
    script(tree / "install/bin/gvsoc_launcher", HEAD + text)
    monkeypatch.setattr(gvsoc, "_SILENCE", 1.0)
    message = "did not end within 1,000 cycles" if sign else "hangs: no sign of life"
    with pytest.raises(TrainDeeployError, match=message):
        run(tree, tmp_path)
    assert not alive(int((tmp_path / "pid").read_text()))


def test_ctrl_c_leaves_no_process(tree: Path, tmp_path: Path) -> None:
    text = f"""
open({str(tmp_path / "pid")!r}, "w").write(str(os.getpid()))
time.sleep(1000)
"""
    script(tree / "install/bin/gvsoc_launcher", HEAD + text)
    code = f"""
import sys
from pathlib import Path
from traindeeploy import gvsoc
from traindeeploy.target import load_target
gvsoc.COMMITS = {{"": ""}}
folder = Path({str(tmp_path)!r})
gvsoc.Gvsoc({str(tree)!r}).run(load_target("pulp"), folder / "p.elf", folder, stdout=print, max_cycles=9)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    try:
        for _ in range(300):
            if (tmp_path / "pid").exists() and (tmp_path / "pid").read_text():
                break
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        process.wait(30)
    finally:
        process.kill()
    assert not alive(int((tmp_path / "pid").read_text()))


def test_command_says_what_is_missing_first(
    cli: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    done = cli(
        *("train", "no-such-model", "--loss", "mse", "--data", "none.npz", "--steps", "1", "--lr", "1"),
        *("--simulator", "gvsoc", "--gvsoc", tmp_path / "nothing", "-o", "out"),
    )
    assert done.returncode == 1
    assert (
        done.stderr.startswith("traindeeploy: error: there is no GVSoC at ") and done.stderr.count("\n") == 1
    )
    assert not (tmp_path / "out").exists()


def test_transfers_of_the_hyperram_get_the_time_of_the_bus() -> None:
    """A cycle has 100 ps; before the jobs the bus has seen a transfer of the host.

    The third job was programmed while the first one ran, and its channel was served before the second's.
    """
    jobs = np.zeros(4, gvsoc._TIMED_JOB)
    jobs["trigger"] = [1000, 1010, 1020, 2000]
    jobs["bytes"] = [512, 256, 64, 100]
    jobs["l3"] = [4096, 0, 0, 4096]
    jobs["to_l3"] = [0, 0, 1, 0]
    jobs["time"], jobs["period"] = jobs["trigger"] * 100 + 7, 100
    bursts = np.array(
        [
            (5_000, 90_000, 4096 + 6, 0, 4096, 0),
            (101_000, 127_000, 256 + 6, 0, 4096, 0),
            (127_300, 153_007, 256 + 6, 0, 4352, 0),
            (153_100, 160_007, 64 + 6, 1, 0, 0),
            (160_100, 187_007, 256 + 6, 0, 0, 0),
            (201_000, 212_007, 100 + 6, 0, 4096, 0),
        ],
        gvsoc._BURST,
    )
    timed = gvsoc._transfers(jobs, bursts)
    assert timed["trigger"].tolist() == [1000, 1010, 1020, 2000]
    assert timed["start"].tolist() == [1000, 1600, 1530, 2000]
    assert timed["end"].tolist() == [1530, 1870, 1600, 2120]


def test_the_log_comes_a_step_at_a_time_in_pieces_of_any_size() -> None:
    def entry(layout: np.dtype, **values: int) -> bytes:
        row = np.zeros(1, layout)
        for name, value in values.items():
            row[name] = value
        kind = np.asarray(gvsoc._LAYOUTS.index(layout), "<u8")
        return (kind.tobytes() + row.tobytes()).ljust(gvsoc._ENTRY.itemsize, b"\0")

    mark, dma = gvsoc.MARKER, gvsoc.DMA_JOB
    log = b"".join(
        [
            entry(dma, start=5, end=9),
            entry(mark, cycle=10, kind=1),
            entry(dma, start=12, end=15),
            entry(gvsoc.REDMULE_JOB, trigger=13, end=17, m=2, format=32),
            entry(gvsoc._TIMED_JOB, trigger=14, time=1400, period=100, bytes=8, l3=64),
            entry(gvsoc._BURST, start=1500, end=2900, bytes=14, address=64),
            entry(mark, cycle=30, kind=2),
            entry(dma, start=35, end=39),
            entry(mark, cycle=40, kind=1),
            entry(mark, cycle=50, kind=2),
            entry(mark, cycle=60, kind=1),
        ]
    )
    for size in (1, 7, 56, 100, len(log)):
        steps: list[StepLogs] = []
        taker = gvsoc._Log(steps.append)
        for at in range(0, len(log), size):
            taker.take(log[at : at + size])
        assert [step.markers["cycle"].tolist() for step in steps] == [[10, 30], [40, 50]]
        assert [step.dma["start"].tolist() for step in steps] == [[12], []]
        assert steps[0].redmule[["trigger", "end", "m", "format"]].tolist() == [(13, 17, 2, 32)]
        assert steps[0].hyperram[["trigger", "start", "end", "l3"]].tolist() == [(14, 14, 29, 64)]


needs_gvsoc = pytest.mark.skipif(
    not os.environ.get("TRAINDEEPLOY_GVSOC"), reason="TRAINDEEPLOY_GVSOC names no GVSoC"
)


@needs_gvsoc
@pytest.mark.parametrize("target", ["pulp-redmule", "pulp"])
def test_same_bits_on_both(target: str) -> None:
    program = traindeeploy.compile("deep-ae", loss="mse", target=target, batch_size=1)
    x = np.random.default_rng(0).standard_normal((2, 640)).astype(np.float32)
    ours, theirs = (
        program.run({"input": x, "target": x}, steps=2, lr=0.01, simulator=name)
        for name in ("tdsim", "gvsoc")
    )
    assert ours.losses == theirs.losses
    for name, value in ours.params.items():
        np.testing.assert_array_equal(value, theirs.params[name], err_msg=name)
    assert theirs.report["simulator"] == "gvsoc" and theirs.report.keys() == ours.report.keys()
    assert [layer.keys() for layer in theirs.report["layers"]] == [
        layer.keys() for layer in ours.report["layers"]
    ]


@needs_gvsoc
def test_cycle_limit() -> None:
    program = traindeeploy.compile("deep-ae", loss="mse", target="pulp", batch_size=1)
    x = np.zeros((1, 640), np.float32)
    with pytest.raises(TrainDeeployError, match="did not end within 300,000 cycles on GVSoC"):
        program.run({"input": x, "target": x}, steps=1, lr=0.01, simulator="gvsoc", max_cycles=300_000)
