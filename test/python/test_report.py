"""The page of `traindeeploy report`: what is in it, that it needs nothing else, and that it draws."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import traindeeploy
from traindeeploy.errors import TrainDeeployError
from traindeeploy.report_page import page

NASTY = "a</script><b>&\u2028'\""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Runs on two targets; one folder has a name that means something to HTML."""
    base = tmp_path_factory.mktemp("runs")
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(35, 41), torch.nn.ReLU(), torch.nn.Linear(41, 5))
    random = np.random.default_rng(0)
    data = {
        "input": random.standard_normal((6, 35)).astype(np.float32),
        "target": random.standard_normal((6, 5)).astype(np.float32),
    }
    made = []
    for name, target, steps in (("plain", "pulp-redmule", 3), (NASTY.replace("/", "|"), "pulp", 1)):
        program = traindeeploy.compile(model, (torch.zeros(3, 35),), loss="mse", momentum=0.5, target=target)
        folder = base / name
        folder.mkdir()
        program.write(folder)
        program.run(data, steps=steps, lr=0.01).write(folder)
        made.append(folder)
    return made


def data_of(text: str) -> list[dict[str, Any]]:
    found = re.search(r"^const DATA = (.*);$", text, re.MULTILINE)
    assert found
    runs: list[dict[str, Any]] = json.loads(found.group(1))["runs"]
    return runs


def test_a_page_holds_all_that_it_shows(folders: list[Path]) -> None:
    text = page(folders)
    assert text == page(folders)
    # One script, no network.
    assert text.count("</script>") == 1 and text.count("<script") == 1
    assert set(re.findall(r"https?://[^\"' ]+", text)) == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"<link|@import|<img|url\(|fetch\(|XMLHttp", text)
    runs = data_of(text)
    assert [run["name"] for run in runs] == [folder.name for folder in folders]
    for run, folder in zip(runs, folders, strict=True):
        report = json.loads((folder / "report.json").read_text())
        assert run["report"]["layers"] == report["layers"]
        assert [loss for _, loss in run["loss"]] == report["loss"]
        tracks = {track["name"]: track["slices"] for track in run["timeline"]["tracks"]}
        assert ("RedMulE" in tracks) == (report["target"] == "pulp-redmule")
        assert {"core 0", "core 7", "DMA in", "DMA out"} <= set(tracks)
        cycles = run["timeline"]["cycles"]
        assert all(0 <= s[1] <= s[2] <= cycles for rows in tracks.values() for s in rows)
        assert {s[0] for rows in tracks.values() for s in rows} - {-1} == set(range(len(report["layers"])))
        assert [level["name"] for level in run["memory"]] == ["L1", "L2"]
        for level in run["memory"]:
            assert level["peak"] == report["memory"][level["name"].lower()]["peak"]
            assert 0 < level["live"] <= level["peak"] - level["reserved"]
            for name, role, offset, size, born, dies in level["arrays"]:
                assert level["reserved"] <= offset and offset + size <= level["peak"], name
                assert 0 <= born <= dies <= cycles, name
                assert role in ("parameter", "state", "input", "output", "constant", "temporary")
        parameters = {row[0] for row in run["memory"][1]["arrays"] if row[1] == "parameter"}
        assert parameters == {"0.weight", "0.bias", "2.weight", "2.bias"}


def test_lives_follow_the_timeline(folders: list[Path]) -> None:
    """A tile that is loaded is there while its transfer runs."""
    (run,) = data_of(page(folders[:1]))
    transfers = next(t["slices"] for t in run["timeline"]["tracks"] if t["name"] == "DMA in")
    tiles = run["memory"][0]["arrays"]
    for operator, begin, end, details in transfers:
        if operator >= 0:
            offset = int(re.search(r"l1 (0x\w+)", details).group(1), 16) - 0x1000_0000  # type: ignore[union-attr]
            assert any(
                o <= offset < o + size and born <= begin and end <= dies
                for _, _, o, size, born, dies in tiles
            )


def test_runs_of_the_same_name_and_long_losses(folders: list[Path], tmp_path: Path) -> None:
    twin = tmp_path / "plain"
    shutil.copytree(folders[0], twin)
    report = json.loads((twin / "report.json").read_text())
    report["loss"] = [1 / (1 + i) for i in range(5001)]
    (twin / "report.json").write_text(json.dumps(report))
    first, second = data_of(page([folders[0], twin]))
    assert [first["name"], second["name"]] == [str(folders[0]), str(twin)]
    assert len(second["loss"]) <= 1001
    assert second["loss"][0] == [1, 1.0] and second["loss"][-1] == [5001, 1 / 5001]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / "report.json").unlink(), "holds no report.json: `traindeeploy run"),
        (lambda f: (f / "timeline.json").unlink(), "holds no timeline.json: `traindeeploy run"),
        (lambda f: (f / "program.json").unlink(), "holds no compiled program"),
        (lambda f: (f / "report.json").write_text("{"), "is damaged or of another version; run it again"),
        (lambda f: (f / "report.json").write_text("[1]"), "is damaged or was edited: [1] is not Report"),
        (lambda f: (f / "timeline.json").write_bytes(b"\xff\xfe"), "a file that is damaged; run it again"),
        (
            lambda f: (f / "timeline.json").write_text('{"traceEvents": []}'),
            "is damaged or of another version",
        ),
    ],
)
def test_a_folder_without_a_run(folders: list[Path], tmp_path: Path, change: Any, message: str) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(folders[0], broken)
    change(broken)
    with pytest.raises(TrainDeeployError) as caught:
        page([folders[0], broken])
    assert message in str(caught.value) and str(broken) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_command_line(cli, folders: list[Path], tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(folders[0], copy)
    done = cli("report", "run")
    assert (done.returncode, done.stdout.strip()) == (0, "run/report.html"), done.stderr
    done = cli("report", "run", folders[1], "-o", "both.html")
    assert (done.returncode, done.stdout.strip()) == (0, "both.html"), done.stderr
    assert len(data_of((tmp_path / "both.html").read_text(encoding="utf-8"))) == 2
    for arguments, message in (
        (["nowhere"], "nowhere holds no compiled program"),
        (["run", "-o", "no/such.html"], "cannot write no/such.html: there is no folder"),
        (["run", "-o", "run"], "cannot write run: it is a folder"),
    ):
        done = cli("report", *arguments)
        assert done.returncode == 1 and done.stdout == ""
        assert done.stderr.startswith(f"traindeeploy: error: {message}"), done.stderr
        assert len(done.stderr.splitlines()) == 1


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no browser")
def test_a_browser_draws_it(folders: list[Path], tmp_path: Path) -> None:
    """The page's script runs to its end: figures of both runs are there, and nothing was thrown."""
    guard = "<script>addEventListener('error', e => document.title = 'ERROR ' + e.message)</script>"
    drawn = "views.every(view => view.figures.every(figure => figure.canvas.width > 900))"
    after = f"<script>document.title += {drawn} ? ' drawn' : ''</script>"
    text = page(folders).replace("<title>", guard + "<title>").replace("</body>", after + "</body>")
    (tmp_path / "page.html").write_text(text, encoding="utf-8")
    # fmt: off
    command = [
        "chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1280,1000",
        f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", f"file://{tmp_path / 'page.html'}",
    ]
    # fmt: on
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
    assert "<title>TrainDeeploy report drawn</title>" in dom
    body = dom[dom.index("<main") : dom.index("</main>")]
    assert body.count("<canvas") == 2 * 3
    assert body.count("<section>") == 2 and "Side by side" in body
    assert body.count("NaN") == body.count("undefined") == body.count("Infinity") == 0
