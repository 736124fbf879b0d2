"""Output folders and files: whole or not at all; the user's stay, leftovers of killed processes go."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from traindeeploy.errors import TrainDeeployError
from traindeeploy.output import (
    check_file,
    output_folder,
    read_summed,
    temporary_folder,
    write_file,
    write_summed,
)

Command = Callable[..., subprocess.CompletedProcess[str]]


def aged(path: Path) -> Path:
    """A leftover that is old enough."""
    os.utime(path, (0, 0))
    return path


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    return tmp_path / "tmp"


def test_leftovers_of_dead_processes_go_and_those_in_use_stay(temporary: Path) -> None:
    (temporary / "traindeeploy-tmp-new").mkdir()
    (temporary / "of the user").mkdir()
    dead = temporary / "traindeeploy-tmp-dead"
    dead.mkdir()
    aged(dead)
    with temporary_folder("a test") as mine:
        aged(mine)
        with temporary_folder("another") as other:
            assert sorted(temporary.iterdir()) == sorted(
                [mine, other, temporary / "traindeeploy-tmp-new", temporary / "of the user"]
            )
        assert mine.is_dir() and not other.exists()
    assert not dead.exists()


def test_a_killed_run_is_cleaned_up_after(cli: Command, tmp_path: Path) -> None:
    """SIGKILL in the middle of a run: the next one removes what it has left."""
    x = np.random.default_rng(0).standard_normal((2, 640)).astype(np.float32)
    np.savez(tmp_path / "data.npz", input=x, target=x)
    (tmp_path / "tmp").mkdir()
    environment = {**os.environ, "TMPDIR": str(tmp_path / "tmp")}
    train = [
        "train",
        "deep-ae",
        "--loss",
        "mse",
        "--data",
        "data.npz",
        "--lr",
        "0.01",
        "-o",
        "out",
        "--steps",
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "traindeeploy", *train, "1000000"], cwd=tmp_path, env=environment
    )
    while process.poll() is None and not list((tmp_path / "tmp").glob("*/feed.bin")):
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    left = [*(tmp_path / "tmp").iterdir(), *tmp_path.glob(".traindeeploy-*")]
    assert len(left) == 2 and not (tmp_path / "out").exists()
    for path in left:
        aged(path)
    assert cli(*train, 1, env=environment).returncode == 0
    assert not list((tmp_path / "tmp").iterdir())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.npz", "out", "tmp"]


def test_what_the_user_has_put_into_a_folder_of_ours_stays(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for content in ("one", "two"):
        with output_folder(out) as folder:
            (folder / "program.json").write_text(content)
            if content == "one":
                (folder / "params.npz").write_text(content)
        (out / "thesis.tex").write_text("mine")
    assert {path.name: path.read_text() for path in out.iterdir()} == {
        "program.json": "two",
        "thesis.tex": "mine",
    }
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize("replaced", [False, True])
def test_a_process_killed_between_two_renames(tmp_path: Path, replaced: bool) -> None:
    """The folder that was there comes back, or gives what is the user's to the one that took its place."""
    left = tmp_path / ".traindeeploy-left"
    old = left / "old" / "out"
    old.mkdir(parents=True)
    (old / "program.json").write_text("old")
    (old / "thesis.tex").write_text("mine")
    if replaced:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "program.json").write_text("new")
    aged(left)
    write_file(tmp_path / "other", "")
    assert not left.exists()
    assert (tmp_path / "out" / "program.json").read_text() == ("new" if replaced else "old")
    assert (tmp_path / "out" / "thesis.tex").read_text() == "mine"


def test_a_file_replaces_one_and_follows_a_link(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder/file")
    for content in ("a", "b"):
        write_file(tmp_path / "link", content)
        assert (tmp_path / "folder" / "file").read_text() == content
    assert (tmp_path / "link").is_symlink() and len(list((tmp_path / "folder").iterdir())) == 1
    assert (tmp_path / "folder" / "file").stat().st_mode & 0o777 == 0o666 & ~umask()


def umask() -> int:
    """Of this process."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.parametrize(
    ("name", "says"),
    [
        (".", "it is a folder"),
        ("absent/file", "there is no folder"),
        ("pipe", "it is no regular file"),
        ("a" * 300, "File name too long"),
    ],
)
def test_files_that_cannot_be_written(tmp_path: Path, name: str, says: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    for act in (check_file, lambda path: write_file(path, "x")):
        with pytest.raises(TrainDeeployError, match=f"cannot write .*{says}"):
            act(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]


def test_sums_are_those_of_sha256sum(tmp_path: Path) -> None:
    files = {"a.bin": b"\0\xff", "ir/b.mlir": b"module {}"}
    write_summed(tmp_path, files)
    assert read_summed(tmp_path, files) == files
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=tmp_path, check=True)
    for name, content in files.items():
        (tmp_path / name).write_bytes(content[::-1])
        with pytest.raises(TrainDeeployError, match=f"{name} is damaged or was edited; compile again"):
            read_summed(tmp_path, ())
        (tmp_path / name).unlink()
        with pytest.raises(TrainDeeployError, match=f"cannot read .*{name}: No such file"):
            read_summed(tmp_path, ())
        (tmp_path / name).write_bytes(content)
    with pytest.raises(TrainDeeployError, match="SHA256SUMS is damaged"):
        read_summed(tmp_path, ["c"])
    (tmp_path / "SHA256SUMS").write_text("0  ../../etc/passwd\n")
    with pytest.raises(TrainDeeployError, match="SHA256SUMS is damaged"):
        read_summed(tmp_path, ())
