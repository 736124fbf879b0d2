"""Training data: which array feeds which input, in which order, and what is wrong with it."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from .errors import TrainDeeployError
from .losses import same_but_ones

Array = npt.NDArray[np.generic]

COUNTER = "dropout.counter"
"""The input of a step that tells dropout the steps apart."""


@dataclass(frozen=True)
class Field:
    """An input of the training step that the host fills before each step."""

    name: str
    """Name in the program, and of the array that feeds it."""
    shape: tuple[int, ...]
    """Shape for a whole batch; the first axis counts samples."""
    dtype: str
    """Element type in the program: "float32" or "int32"."""
    aliases: tuple[str, ...] = ()
    """Other names that the array may have, the first one found wins."""
    classes: int | None = None
    """For labels and indices: one more than the largest one allowed."""
    what: str = "index"
    """What it is, in messages: "index", "label" or "target"."""
    ignored: int | None = None
    """A label that is allowed beside the classes, and does not count."""
    hint: str = ""
    """What to say after an array's shape that does not fit."""


MOST_STEPS = 2**32 - 1
"""Steps of a run: the feed counts them by a word."""
_MOST_SAMPLES = 2**63 - 1


def check_numbers(steps: int, lr: float, first: int = 0, batch: int = 1) -> None:
    """Refuses numbers of a run that nothing can hold.

    first: the sample that it begins with; batch: samples a step.
    """
    if not 1 <= steps <= MOST_STEPS:
        raise TrainDeeployError(f"{steps} steps: a run takes 1 to {MOST_STEPS}")
    if not abs(lr) <= float(np.finfo(np.float32).max):
        raise TrainDeeployError(f"learning rate {lr} is not a finite number of float32")
    if first + steps * batch > _MOST_SAMPLES:
        raise TrainDeeployError(
            f"a run of {steps * batch} samples from sample {first} on goes beyond sample {_MOST_SAMPLES}"
        )


class Arrays(dict[str, Array]):
    """Arrays by name, and where they come from."""

    source = "the data"


def load_npz(path: Path, what: str) -> Arrays:
    """The arrays of the .npz file `path`; errors speak of it as `what` ("data", "--init")."""
    try:
        with path.open("rb") as file:
            arrays = read_npz(file, f"{what} file {path}")
    except FileNotFoundError:
        raise TrainDeeployError(f"{what} file {path} does not exist") from None
    except OSError as error:
        raise TrainDeeployError(f"{what} file {path} cannot be read: {error.strerror or error}") from None
    arrays.source = str(path)
    return arrays


def read_npz(file: BinaryIO, name: str) -> Arrays:
    """The arrays of an open .npz file; errors speak of it by `name`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            opened = np.load(file, allow_pickle=False)
            if not isinstance(opened, np.lib.npyio.NpzFile):
                raise TrainDeeployError(f"{name} is not an .npz archive of named arrays")
            with opened as archive:
                arrays = Arrays((key, archive[key]) for key in archive.files)
    except (TrainDeeployError, OSError):
        raise
    except MemoryError:
        raise TrainDeeployError(f"{name} holds arrays that memory has no room for") from None
    except Exception as error:  # zipfile, zlib and numpy have many for a damaged file
        raise TrainDeeployError(f"{name} is not a readable .npz archive: {error}") from None
    for key, array in arrays.items():
        if not isinstance(array, np.ndarray):
            raise TrainDeeployError(f"{name} holds '{key}', which is no array")
    return arrays


def npz_bytes(arrays: Mapping[str, Array]) -> bytes:
    """The bytes of an .npz file: the same ones for the same content, and any name allowed."""
    content = BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, array in arrays.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.asanyarray(array), allow_pickle=False)
    return content.getvalue()


def _converted(array: Array, field: Field, name: str, source: str) -> Array:
    """`array` in the element type of `field`; an error where that would change its meaning."""
    where = f"array '{name}' of {source}"
    if field.dtype == "float32":
        if (array.dtype != np.bool_ and not np.issubdtype(array.dtype, np.number)) or array.dtype.kind == "c":
            raise TrainDeeployError(f"{where} has element type {array.dtype}, but numbers are needed")
        with np.errstate(over="ignore"):
            values = array.astype(np.float32)
        if array.dtype.kind in "iu" and not (values.astype(np.float64) == array).all():
            raise TrainDeeployError(f"{where} has whole numbers that float32 cannot hold")
        if not np.isfinite(values).all():
            sample = int(np.argwhere(~np.isfinite(values))[0][0])
            raise TrainDeeployError(f"{where} holds NaN or infinity (in float32), first in sample {sample}")
        return values
    if not np.issubdtype(array.dtype, np.integer):
        raise TrainDeeployError(f"{where} has element type {array.dtype}, but an integer type is needed")
    counted = array if field.ignored is None else array[array != field.ignored]
    if counted.size and field.classes is not None:
        lowest, highest = int(counted.min()), int(counted.max())
        if lowest < 0 or highest >= field.classes:
            wrong = lowest if lowest < 0 else highest
            plural = "labels" if field.what == "label" else "indices"
            but = "" if field.ignored is None else f" (or are {field.ignored}, which does not count)"
            raise TrainDeeployError(
                f"{where} has {field.what} {wrong}, but {plural} go from 0 to {field.classes - 1}{but}"
            )
    return array.astype(np.int32)


class DataSet:
    """Samples by name. Sample k of a run is the k-th in order, starting again after the last.

    With a shuffle seed, every pass over the samples is a permutation of its own that depends on the
    seed and the number of the pass only: a run can go on where another has stopped.
    """

    def __init__(
        self,
        arrays: Mapping[str, Array],
        fields: list[Field],
        *,
        notice: Callable[[str], None] = lambda message: None,
    ):
        """Checks `arrays` against `fields`; says to `notice` what is not used.

        Labels and targets may have axes of size 1 more or less than asked for.

        Raises TrainDeeployError for an array that is missing, has the wrong rank, sizes, element type
        or labels, and for arrays that disagree in their number of samples.
        """
        source = getattr(arrays, "source", Arrays.source)
        self.arrays: dict[str, Array] = {}
        used: dict[str, str] = {}
        for field in fields:
            candidates = (field.name, *field.aliases)
            name = next((candidate for candidate in candidates if candidate in arrays), None)
            if name is None:
                wanted = " or ".join(f"'{candidate}'" for candidate in candidates)
                have = ", ".join(sorted(arrays)) or "none"
                raise TrainDeeployError(f"{source} has no array {wanted}; the arrays in it are: {have}")
            array = np.asarray(arrays[name])
            sample = field.shape[1:]
            if field.what != "index" and array.ndim and same_but_ones(array.shape[1:], sample):
                array = array.reshape(array.shape[0], *sample)
            if array.ndim == 0 or array.shape[1:] != sample:
                expected = ", ".join(["samples", *map(str, sample)])
                raise TrainDeeployError(
                    f"array '{name}' of {source} has shape {array.shape}, but ({expected}) is needed"
                    f"{field.hint}"
                )
            if array.shape[0] == 0:
                raise TrainDeeployError(f"array '{name}' of {source} has no samples")
            self.arrays[field.name] = _converted(array, field, name, source)
            used[field.name] = name
            if array.dtype.kind in "iu" and field.dtype == "float32" and field.what != "target":
                notice(
                    f"{source}: '{name}' is {array.dtype}, from {array.min()} to {array.max()};"
                    " its numbers are taken as they are, without scaling"
                )
        sizes = {used[name]: array.shape[0] for name, array in self.arrays.items()}
        if len(set(sizes.values())) > 1:
            listed = ", ".join(f"'{name}' {size}" for name, size in sizes.items())
            raise TrainDeeployError(f"the arrays of {source} disagree in their number of samples: {listed}")
        unused = sorted(set(arrays) - set(used.values()))
        if unused:
            notice(f"{source}: ignored, nothing asks for: {', '.join(unused)}")
        self.samples = next(iter(sizes.values()), 0)

    def order(self, start: int, shuffle: int | None) -> Iterator[int]:
        """Indices of the samples that a run takes from its `start`-th one on, without end."""
        number, position = divmod(start, self.samples)
        while True:
            if shuffle is None:
                turn: Iterator[int] = iter(range(position, self.samples))
            else:
                generator = np.random.Generator(np.random.PCG64([shuffle, number]))
                turn = iter(generator.permutation(self.samples)[position:].tolist())
            yield from turn
            number, position = number + 1, 0

    def batches(self, batch: int, start: int = 0, shuffle: int | None = None) -> Iterator[dict[str, Array]]:
        """Full batches of `batch` samples without end, the first one from sample `start` of the order."""
        order = self.order(start, shuffle)
        while True:
            indices = [next(order) for _ in range(batch)]
            yield {name: np.ascontiguousarray(array[indices]) for name, array in self.arrays.items()}
