"""Prints the pinned requirements of pyproject.toml, one a line.

Usage: python tools/requirements.py build|runtime|EXTRA ...

The Makefile installs the build's requirements into its own environment, so that the package builds
there without isolation, and a second build is incremental.
"""

import sys
import tomllib
from pathlib import Path


def requirements(groups: list[str]) -> list[str]:
    """The requirement lines of `groups`: "build", "runtime" or the name of an extra."""
    text = (Path(__file__).parent.parent / "pyproject.toml").read_text()
    config = tomllib.loads(text)
    tables = {
        "build": config["build-system"]["requires"],
        "runtime": config["project"]["dependencies"],
        **config["project"]["optional-dependencies"],
    }
    return [line for group in groups for line in tables[group]]


if __name__ == "__main__":
    print("\n".join(dict.fromkeys(requirements(sys.argv[1:]))))
