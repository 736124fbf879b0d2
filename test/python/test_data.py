"""The order of samples, and output folders that appear whole or not at all."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from traindeeploy.data import DataSet, Field
from traindeeploy.errors import TrainDeeployError
from traindeeploy.output import MANIFEST, output_folder


def samples(count: int, **options: object) -> list[int]:
    """The first samples that a run over 5 samples takes, in batches of 4."""
    dataset = DataSet({"x": np.arange(5, dtype=np.float32)[:, None]}, [Field("x", (4, 1), "float32")])
    batches = islice(dataset.batches(4, **options), count // 4)  # type: ignore[arg-type]
    return [int(value) for batch in batches for value in batch["x"].ravel()]


def test_samples_come_in_order_and_batches_are_full() -> None:
    assert samples(12) == [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1]


def test_shuffle_permutes_each_pass() -> None:
    order = samples(20, shuffle=1)
    passes = [order[i : i + 5] for i in range(0, 20, 5)]
    assert all(sorted(turn) == [0, 1, 2, 3, 4] for turn in passes)
    assert len({tuple(turn) for turn in passes}) > 1
    assert order == samples(20, shuffle=1) != samples(20, shuffle=2)


@pytest.mark.parametrize("shuffle", [None, 3])
@pytest.mark.parametrize("start", [1, 4, 5, 8, 13])
def test_a_run_goes_on_at_any_sample(start: int, shuffle: int | None) -> None:
    whole = samples(40, shuffle=shuffle)
    assert samples(20, start=start, shuffle=shuffle) == whole[start : start + 20]


def test_aliases_and_conversion() -> None:
    field = Field("target", (2, 1), "float32", aliases=("labels",))
    dataset = DataSet({"labels": np.array([[1.5], [2.5]])}, [field])
    assert dataset.arrays["target"].dtype == np.float32


def test_an_output_folder_appears_whole(tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    with output_folder(out) as staging:
        (staging / MANIFEST).write_text("{}")
        assert not out.exists()
    assert [path.name for path in out.iterdir()] == [MANIFEST]
    with output_folder(out) as staging:
        (staging / "other").write_text("")
    assert [path.name for path in out.iterdir()] == ["other"]
    assert [path.name for path in out.parent.iterdir()] == ["out"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, MemoryError])
def test_what_ends_early_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    out = tmp_path / "new" / "out"
    with pytest.raises(error), output_folder(out) as staging:
        (staging / "half").write_text("")
        raise error
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_said(tmp_path: Path) -> None:
    import errno

    with pytest.raises(TrainDeeployError, match="disk is full"), output_folder(tmp_path / "out"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_labels_may_have_axes_of_size_one() -> None:
    labels = Field("labels", (2,), "int32", classes=3, what="label", ignored=-100)
    for shape in ((4,), (4, 1), (4, 1, 1)):
        given = np.array([0, 2, -100, 1]).reshape(shape)
        assert DataSet({"labels": given}, [labels]).arrays["labels"].tolist() == [0, 2, -100, 1]
    target = Field("target", (2, 1), "float32", what="target")
    assert DataSet({"target": np.ones(4)}, [target]).arrays["target"].shape == (4, 1)
    with pytest.raises(TrainDeeployError, match=r"has shape \(4, 2\), but \(samples\) is needed"):
        DataSet({"labels": np.zeros((4, 2), int)}, [labels])


def test_images_of_bytes_are_numbers() -> None:
    image, notes = Field("x", (2, 3), "float32"), []
    dataset = DataSet({"x": np.array([[0, 1, 255]] * 2, np.uint8)}, [image], notice=notes.append)
    assert dataset.arrays["x"].dtype == np.float32 and dataset.arrays["x"][0].tolist() == [0, 1, 255]
    assert notes == [
        "the data: 'x' is uint8, from 0 to 255; its numbers are taken as they are, without scaling"
    ]
    with pytest.raises(TrainDeeployError, match="whole numbers that float32 cannot hold"):
        DataSet({"x": np.full((2, 3), 2**24 + 1)}, [image])
    with pytest.raises(TrainDeeployError, match="has element type <U1, but numbers are needed"):
        DataSet({"x": np.full((2, 3), "a")}, [image])
