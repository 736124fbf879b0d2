"""Mutated texts for the compiler's passes: whatever the text, they end in a result or a diagnostic.

Texts and pipelines are those of the lit tests. Each runs in a fork of a process that has loaded the compiler.

python test/python/fuzz_td_opt.py [SECONDS] [SEED]    mutates for so long (600 s) from a seed (0); `make fuzz`
"""

from __future__ import annotations

import functools
import itertools
import os
import random
import re
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parent.parent
LIMIT = 20
"""Seconds a text may take."""

# Assertions of MLIR itself: texts that its own dialects do not expect.
UPSTREAM: tuple[str, ...] = (
    'isIntOrFloat() && "only integers and floats have a bitwidth"',  # array<index: ...>
    'isa<To>(Val) && "cast<Ty>() argument of incompatible type!"',  # linalg ops' attributes of another kind
    'num >= 0 && "integer overflow in element count computation"',  # shapes of 2^63 elements and more
)


@dataclass(frozen=True)
class Case:
    """A text and the pipeline that a lit test runs it through."""

    name: str
    text: str
    pipeline: str


def pipeline_of(arguments: list[str]) -> str:
    """The pass pipeline that flags of td-opt ask for; passes on functions are nested, as td-opt does."""
    passes: list[str] = []
    for argument in arguments:
        name, _, options = argument.removeprefix("--").partition("=")
        if name == "pass-pipeline":
            return options
        if name.startswith("td-") or name in ("cse", "canonicalize"):
            one = f"{name}{{{options}}}" if options else name
            passes.append(one if _parses(f"builtin.module({one})") else f"func.func({one})")
    return f"builtin.module({','.join(passes)})"


@functools.cache
def compiler() -> Any:
    """A context with the compiler's dialects and no threads, which forks share."""
    from mlir import ir, passmanager  # noqa: F401

    from traindeeploy import _td

    context = ir.Context()
    context.enable_multithreading(False)
    context.emit_error_diagnostics = False
    _td.register_dialects(context)
    return context


def _parses(pipeline: str) -> bool:
    from mlir.passmanager import PassManager

    try:
        with compiler():
            PassManager.parse(pipeline)
    except ValueError:
        return False
    return True


def cases() -> list[Case]:
    """All texts of the lit tests, with each of their pipelines."""
    found = []
    for path in sorted(TESTS.glob("*/**/*.mlir")):
        text = path.read_text()
        for run in re.findall(r"// RUN: (.*)", text.replace("\\\n// RUN:", " ")):
            lexer = shlex.shlex(run, posix=True, punctuation_chars="|;&")
            lexer.whitespace_split = True
            words = list(lexer)
            for start in [i for i, word in enumerate(words) if word == "td-opt"]:
                words = list(itertools.takewhile(lambda word: word[0] not in "|;&", words[start + 1 :]))
                files = [
                    w.replace("%S", str(path.parent)).replace("%s", str(path)) for w in words if "%" in w
                ]
                pipeline = pipeline_of([w for w in words if w.startswith("--")])
                if not _parses(pipeline):
                    continue  # a test of what an option may be
                for file in files:
                    if Path(file).is_file():
                        parts = re.split(r"^// -----.*$", Path(file).read_text(), flags=re.MULTILINE)
                        found += [Case(f"{path.name}", part, pipeline) for part in parts]
    return list(dict.fromkeys(found))


NUMBERS = (
    "0",
    "-1",
    "1",
    "2",
    "3",
    "7",
    "65536",
    "2147483648",
    "4294967296",
    "4611686018427387904",
    "-5",
    "1000003",
)
WORDS = {
    "f32": ("f16", "f64", "i32", "i1", "index", "i8", "bf16"),
    "i32": ("i64", "f32", "i1", "index"),
    '"parallel"': ('"reduction"', '"window"', "-1"),
    '"reduction"': ('"parallel"',),
    "l1": ("l2", "l3"),
    "l2": ("l1", "l3"),
    "cores": ("redmule",),
    "redmule": ("cores",),
    "main": ("prepare", "init", "finish", "first", "next"),
    "input": ("parameter", "state", "output", "constant", "temporary"),
    "temporary": ("parameter", "input", "output", "constant"),
    "tensor": ("memref", "vector"),
    "memref": ("tensor",),
    "true": ("false",),
    "false": ("true",),
}
TOKEN = re.compile(r"-?\d+(?:\.\d+(?:e[+-]?\d+)?)?|[%@#!^]?[\w.$-]+|->|\"[^\"]*\"|[^\s\w]")


def mutated(text: str, others: list[Case], random: random.Random) -> str:
    """The text with one to four changes."""
    text = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("//"))
    for _ in range(random.choice((1, 1, 1, 1, 2, 3))):
        tokens = list(TOKEN.finditer(text))
        if not tokens:
            return text
        kind = random.randrange(-12, 12)
        if kind <= 3:  # a number, also within a type; or a size everywhere, or a type
            size = r"(?<=[<x])\d+(?=x)"
            pattern = (
                size
                if kind < -3
                else r"(?<=x)[fi]\d+(?=[>,])"
                if kind < 0
                else (r"(?<![\w.%@#])-?\d+(?![\w.])|(?<=[<x])\d+(?=x)")
            )
            found = list(re.finditer(pattern, text))
            if found:
                at = random.choice(found)
                old = at.group()
                if old[0] in "fi":
                    text = re.sub(rf"\b{old}\b|(?<=x){old}\b", random.choice(WORDS["f32"]), text)
                    continue
                new = random.choice((*NUMBERS, str(int(old) + 1), str(int(old) - 1), str(int(old) * 2), "?"))
                if kind < -3:
                    text = re.sub(rf"(?<=[<x\[, ]){old}(?=[x\], ])", new, text)
                else:
                    text = text[: at.start()] + new + text[at.end() :]
        elif kind <= 5:  # a word by one of its kind
            words = [t for t in tokens if t.group() in WORDS]
            words += [m for m in re.finditer(r"(?<=x)(f32|i32)(?=[>,])", text)]
            if words:
                at = random.choice(words)
                text = text[: at.start()] + random.choice(WORDS[at.group()]) + text[at.end() :]
        elif kind == 6:  # an operand, symbol or map by another one
            names = [t for t in tokens if t.group()[0] in "%@#"]
            if names:
                at, other = random.choice(names), random.choice(names)
                text = text[: at.start()] + other.group() + text[at.end() :]
        elif kind == 7:  # a token away
            at = random.choice(tokens)
            text = text[: at.start()] + text[at.end() :]
        elif kind == 8:  # a token by one from anywhere
            at = random.choice(tokens)
            other = random.choice(TOKEN.findall(random.choice(others).text) or [""])
            text = text[: at.start()] + other + text[at.end() :]
        else:  # lines away, twice, in another order, from elsewhere
            lines = text.splitlines()
            at, other = random.randrange(len(lines)), random.randrange(len(lines))
            if kind == 9:
                del lines[at]
            elif kind == 10:
                lines[at], lines[other] = lines[other], lines[at]
            else:
                source = random.choice(others).text.splitlines() if random.random() < 0.3 else lines
                lines.insert(at, random.choice(source or [""]))
            text = "\n".join(lines)
    return text


@dataclass(frozen=True)
class Failure:
    """A text that ended its process, or took too long."""

    case: Case
    why: str


def run(case: Case) -> str:
    """Why the passes ended the process on a text; nothing if they did not."""
    with tempfile.TemporaryFile() as said:
        child = os.fork()
        if child == 0:
            os.dup2(said.fileno(), 2)
            signal.alarm(LIMIT)
            try:
                _passes(case)
            finally:
                os._exit(0)
        status = os.waitpid(child, 0)[1]
        if not os.WIFSIGNALED(status):
            return ""
        said.seek(0)
        text = said.read().decode(errors="replace")
    found = re.search(r"Assertion `(.*)' failed|LLVM ERROR: (.*)", text)
    return next(filter(None, found.groups())) if found else signal.Signals(os.WTERMSIG(status)).name


def _passes(case: Case) -> None:
    import resource

    from mlir import ir
    from mlir.passmanager import PassManager

    resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
    with compiler():
        try:
            module = ir.Module.parse(case.text)
            PassManager.parse(case.pipeline).run(module.operation)
        except (ir.MLIRError, ValueError):
            return


def failures(texts: Iterator[Case]) -> Iterator[Failure]:
    """Those of the texts that end their process."""
    compiler()
    for case in texts:
        if why := run(case):
            yield Failure(case, why)


def mutations(seed: int) -> Iterator[Case]:
    """Mutated texts, without end."""
    draw = random.Random(seed)
    known = cases()
    while True:
        case = draw.choice(known)
        pipeline = draw.choice(known).pipeline if draw.random() < 0.15 else case.pipeline
        yield Case(case.name, mutated(case.text, known, draw), pipeline)


def main() -> int:
    """Mutates for some time and writes what fails; the exit code is 1 if something does."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 600
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    folder = Path(tempfile.mkdtemp(prefix="fuzz-td-opt-"))
    end = time.time() + seconds
    tried = 0

    def texts() -> Iterator[Case]:
        nonlocal tried
        for case in mutations(seed):
            if time.time() > end:
                return
            tried += 1
            yield case

    found = 0
    for failure in failures(texts()):
        if failure.why in UPSTREAM:
            continue
        path = folder / f"{found}.mlir"
        case = failure.case
        path.write_text(f"// td-opt --pass-pipeline='{case.pipeline}'\n// {failure.why}\n{case.text}\n")
        print(f"{path}: {failure.case.name}: {failure.why}", flush=True)
        found += 1
    print(f"{tried} texts, {found} failures")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
