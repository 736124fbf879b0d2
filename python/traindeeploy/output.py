"""Output folders and files that appear whole or not at all, and temporary folders.

What is not finished has a name of its own (`.traindeeploy-...` beside the output, `traindeeploy-tmp-...`
where temporary files are) and is locked by the process that works on it. What a killed process has left
is not locked any more: the next one that works there removes it.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import TrainDeeployError

MANIFEST = "program.json"
"""The file by which a folder is known as one of ours."""
SUMS = "SHA256SUMS"
"""Sums of a program's files, as `sha256sum -c` reads them."""
_OURS = {
    *(MANIFEST, SUMS, "program.elf", "initial.npz", "model.onnx", "ir"),
    *("params.npz", "report.json", "timeline.json", "report.html"),
    *("evaluate", "infer"),
}
"""What a folder of ours may hold; other files in it are the user's."""

_STAGING, _TEMPORARY = ".traindeeploy-", "traindeeploy-tmp-"
_NEW, _OLD = "new", "old"
_GRACE = 60.0
"""Seconds within which a process locks what it has made."""


def reason(error: OSError) -> str:
    """What went wrong, in the system's words, or plainer ones."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return "the disk is full"
    return error.strerror or str(error)


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Turns an operating-system error inside into a TrainDeeployError that says `what` failed."""
    try:
        yield
    except OSError as error:
        raise TrainDeeployError(f"{what}: {reason(error)}") from None


def _locked(path: Path) -> int:
    """A descriptor that holds the lock of a file or folder; raises OSError when another one does."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


@contextmanager
def _own(path: Path) -> Iterator[None]:
    """Locks what was just made. Where locks are not to be had, nothing is ever taken for a leftover."""
    descriptor = -1
    with suppress(OSError):
        descriptor = _locked(path)
    try:
        yield
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def _remove_leftovers(folder: Path, prefix: str) -> None:
    """Removes what killed processes of this user have left in a folder."""
    with suppress(OSError):
        for path in sorted(folder.iterdir()):
            if path.name.startswith(prefix):
                with suppress(OSError):
                    _remove_leftover(path)


def _remove_leftover(path: Path) -> None:
    descriptor = _locked(path)
    try:
        status = os.fstat(descriptor)
        if status.st_uid != os.getuid() or time.time() - status.st_mtime < _GRACE:
            return
        if not stat.S_ISDIR(status.st_mode):
            path.unlink()
            return
        # Between the two renames of `output_folder` the folder that was there is in here.
        for old in (path / _OLD).iterdir() if (path / _OLD).is_dir() else ():
            place = path.parent / old.name
            if place.exists():
                _keep_others(old, place)
            else:
                old.rename(place)
        shutil.rmtree(path, ignore_errors=True)
    finally:
        os.close(descriptor)


def _keep_others(old: Path, new: Path) -> None:
    """Moves what is not ours from the folder that was there to the one that took its place."""
    for entry in old.iterdir():
        if entry.name not in _OURS and not (new / entry.name).exists():
            entry.rename(new / entry.name)


@contextmanager
def temporary_folder(user: str) -> Iterator[Path]:
    """A folder for the files of `user`, which is removed when the block ends."""
    with explained(f"cannot write temporary files for {user}"):
        parent = Path(tempfile.gettempdir())
        _remove_leftovers(parent, _TEMPORARY)
        folder = Path(tempfile.mkdtemp(prefix=_TEMPORARY, dir=parent))
    try:
        with _own(folder):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _check_replaceable(path: Path) -> None:
    """An error if `path` holds anything that is not ours to replace."""
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise TrainDeeployError(f"output {path} exists and is not a folder")
    if path.is_dir() and any(path.iterdir()) and not (path / MANIFEST).is_file():
        raise TrainDeeployError(
            f"output folder {path} holds files that traindeeploy did not write; name another, or empty it"
        )


@contextmanager
def _staged(path: Path) -> Iterator[tuple[int, Path]]:
    """A new file beside `path`, open, which is removed unless the block renames it."""
    _remove_leftovers(path.parent, _STAGING)
    descriptor, name = tempfile.mkstemp(prefix=_STAGING, dir=path.parent)
    try:
        with _own(Path(name)):
            yield descriptor, Path(name)
    finally:
        os.close(descriptor)
        Path(name).unlink(missing_ok=True)


def check_file(path: Path) -> None:
    """An error if `write_file` could not write `path`, which is found out before long work."""
    with explained(f"cannot write {path}"):
        place = Path(os.path.realpath(path))
        if place.is_dir():
            raise TrainDeeployError(f"cannot write {path}: it is a folder")
        if place.exists() and not place.is_file():
            raise TrainDeeployError(f"cannot write {path}: it is no regular file")
        if not place.parent.is_dir():
            raise TrainDeeployError(f"cannot write {path}: there is no folder {place.parent}")
        with _staged(place):
            pass


def write_file(path: Path, content: str | bytes) -> None:
    """Writes a file that appears whole, or replaces the one that was there, or not at all."""
    check_file(path)
    with explained(f"cannot write {path}"):
        place = Path(os.path.realpath(path))
        with _staged(place) as (descriptor, name):
            with open(descriptor, "wb", closefd=False) as file:
                file.write(content.encode() if isinstance(content, str) else content)
            os.fchmod(descriptor, 0o666 & ~_umask())
            os.replace(name, place)


@contextmanager
def output_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path` that takes its place when the block ends well.

    Whatever ends the block early (an error, a full disk, Ctrl-C) leaves `path` as it was and removes
    the temporary folder, along with parents that were created for it. A folder that was there before
    is replaced only if it is empty or one of ours; what the user has put into it stays there.
    """
    path = Path(os.path.abspath(path))
    failure = f"cannot write the output folder {path}"
    created: list[Path] = []
    staging: Path | None = None
    done = False
    try:
        with explained(failure):
            _check_replaceable(path)
            for parent in reversed([parent for parent in path.parents if not parent.exists()]):
                parent.mkdir()
                created.append(parent)
            _remove_leftovers(path.parent, _STAGING)
            staging = Path(tempfile.mkdtemp(prefix=_STAGING, dir=path.parent))
            new, old = staging / _NEW / path.name, staging / _OLD / path.name
            new.mkdir(parents=True)
            old.parent.mkdir()
        with explained(failure), _own(staging):
            yield new
            _check_replaceable(path)
            if path.exists():
                path.rename(old)
            try:
                new.rename(path)
            except BaseException:
                if old.exists():
                    old.rename(path)
                raise
            done = True
            if old.exists():
                try:
                    _keep_others(old, path)
                except BaseException:
                    staging = None  # what could not be moved is still there
                    raise
    except TrainDeeployError as error:
        # Who writes into it knows the temporary folder, and the user the one that it stands for.
        if staging is None or str(staging) not in str(error):
            raise
        raise TrainDeeployError(str(error).replace(str(staging / _NEW / path.name), str(path))) from None
    finally:
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)
        if not done:
            for parent in reversed(created):
                with suppress(OSError):
                    parent.rmdir()


def is_ours(name: str) -> bool:
    """Whether a file of that name in an output folder is one that this package writes."""
    return name in _OURS


def write_summed(folder: Path, files: Mapping[str, bytes]) -> None:
    """Writes files by name into an existing folder, and their sums."""
    with explained(f"cannot write into {folder}"):
        for name, content in files.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(content)
        sums = (f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in files.items())
        (folder / SUMS).write_text("".join(sums))


def read_summed(folder: Path, needed: Iterable[str]) -> dict[str, bytes]:
    """The files that the sums in a folder list, by name; those `needed` are among them.

    Raises TrainDeeployError, with the file, when one is missing, cannot be read, or is not as it was written.
    """

    def read(name: str) -> bytes:
        with explained(f"cannot read {folder / name}"):
            return (folder / name).read_bytes()

    def changed(name: str) -> TrainDeeployError:
        return TrainDeeployError(f"{folder / name} is damaged or was edited; compile again")

    files: dict[str, bytes] = {}
    for line in read(SUMS).decode(errors="replace").splitlines():
        wanted, _, name = line.partition("  ")
        if not re.fullmatch(r"((ir|evaluate|infer)/)?\w[\w.-]*", name, re.ASCII):
            raise changed(SUMS)
        files[name] = read(name)
        if hashlib.sha256(files[name]).hexdigest() != wanted:
            raise changed(name)
    if not files.keys() >= set(needed):
        raise changed(SUMS)
    return files


def _umask() -> int:
    """The process's file mode creation mask."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
