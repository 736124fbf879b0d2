"""Output folders and files that appear whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import TrainDeeployError

MANIFEST = "program.json"
"""The file by which a folder is known as one of ours."""


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Turns an operating-system error inside into a TrainDeeployError that says `what` failed."""
    try:
        yield
    except OSError as error:
        reason = (
            "the disk is full"
            if error.errno in (errno.ENOSPC, errno.EDQUOT)
            else error.strerror or str(error)
        )
        raise TrainDeeployError(f"{what}: {reason}") from None


def _check_replaceable(path: Path) -> None:
    """An error if `path` holds anything that is not ours to replace."""
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise TrainDeeployError(f"output {path} exists and is not a folder")
    if path.is_dir() and any(path.iterdir()) and not (path / MANIFEST).is_file():
        raise TrainDeeployError(
            f"output folder {path} holds files that traindeeploy did not write; name another, or empty it"
        )


def write_file(path: Path, content: str | bytes) -> None:
    """Writes a file that appears whole, or replaces the one that was there, or not at all."""
    with explained(f"cannot write {path}"):
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.absolute().parent)
        try:
            with open(descriptor, "wb") as file:
                file.write(content.encode() if isinstance(content, str) else content)
            os.chmod(name, 0o666 & ~_umask())
            os.replace(name, path)
        except BaseException:
            os.unlink(name)
            raise


@contextmanager
def output_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path` that takes its place when the block ends well.

    Whatever ends the block early (an error, a full disk, Ctrl-C) leaves `path` as it was and removes
    the temporary folder, along with parents that were created for it. A folder that was there before
    is replaced only if it is empty or one of ours.
    """
    path = Path(os.path.abspath(path))
    failure = f"cannot write the output folder {path}"
    created: list[Path] = []
    staging: Path | None = None
    done = False
    try:
        with explained(failure):
            _check_replaceable(path)
            missing = [parent for parent in path.parents if not parent.exists()]
            for parent in reversed(missing):
                parent.mkdir()
                created.append(parent)
            staging = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
            staging.chmod(0o777 & ~_umask())
        with explained(failure):
            yield staging
            _check_replaceable(path)
            old = staging.with_name(staging.name + ".old")
            if path.exists():
                path.rename(old)
            try:
                staging.rename(path)
            except BaseException:
                if old.exists():
                    old.rename(path)
                raise
            done = True
            shutil.rmtree(old, ignore_errors=True)
    finally:
        if not done:
            if staging is not None:
                shutil.rmtree(staging, ignore_errors=True)
            for parent in reversed(created):
                with suppress(OSError):
                    parent.rmdir()


def _umask() -> int:
    """The process's file mode creation mask."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
