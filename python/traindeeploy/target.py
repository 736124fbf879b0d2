"""Target descriptions: the machine's numbers, read from TOML and checked.

A target is a TOML file; `targets/*.toml` in this package are built in. Sizes are
in bytes, times in cycles. Nothing has a default: a key that is missing, unknown
or out of range is an error of one line that names the file and the key.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from .errors import TrainDeeployError

_DIRECTORY = Path(__file__).parent / "targets"

# Codes of RedMulE's arithmetic register, as lib/Sim/Registers.h defines them.
REDMULE_CODES = {"fp16": 0x480, "fp32": 0x482}
_ELEMENT_BYTES = {"fp16": 2, "fp32": 4}

_ADDRESS = 0xFFFF_FFFF

# Section and key to (smallest, largest) value of an integer, or to a type.
_INTEGERS: dict[str, dict[str, tuple[int, int]]] = {
    "memory.l1": {"base": (1, _ADDRESS), "size": (64, 1 << 30), "banks": (1, 32)},
    "memory.l2_private": {"base": (1, _ADDRESS), "size": (4, 1 << 30)},
    "memory.l2": {"base": (1, _ADDRESS), "size": (4, 1 << 30)},
    "memory.l3": {"size": (0, 1 << 31)},
    "cores": {
        "count": (1, 16),
        "host_hartid": (0, _ADDRESS),
        "mul": (1, 255),
        "mul_dependent": (1, 255),
        "mulh": (1, 255),
        "div": (1, 255),
        "load_use": (0, 16),
        "l2_access": (1, 255),
        "peripheral_access": (1, 255),
        "local_access": (1, 255),
        "soc_access": (1, 255),
        "taken_branch": (1, 255),
        "jump": (1, 255),
        "barrier": (1, 255),
        "icache_off_line": (0, 255),
    },
    "icache": {
        "own_sets": (1, 1024),
        "own_ways": (1, 64),
        "banks": (1, 64),
        "sets": (1, 1 << 16),
        "ways": (1, 64),
        "refill": (0, 255),
    },
    "fpu": {"count": (1, 16), "fdiv32": (1, 255), "fdiv16": (1, 255)},
    "dma": {
        "bytes_per_cycle": (4, 32),
        "start_cycles": (1, 1000),
        "max_bytes": (1, 131071),
        "burst_bytes": (4, 4096),
        "outstanding_bursts": (1, 64),
        "latency_cycles": (0, 1000),
        "core_queue": (1, 64),
        "global_queue": (1, 64),
        "meets_cores_percent": (0, 200),
        "cores_meet_percent": (0, 200),
    },
    "hyperram": {
        "transfer_cycles": (0, 10000),
        "start_cycles": (0, 10000),
        "read_line_cycles": (0, 10000),
        "write_line_cycles": (0, 10000),
    },
    "redmule": {
        "rows": (1, 64),
        "columns": (1, 64),
        "pipeline": (0, 16),
        "port_bytes": (4, 64),
        "read_ahead": (0, 4096),
        "job_cycles": (0, 10000),
        "tile_cycles": (0, 1000),
        "meets_cores_percent": (0, 200),
        "meets_dma_percent": (0, 200),
        "cores_meet_percent": (0, 200),
        "dma_meets_percent": (0, 200),
        "code_fp16": (0, _ADDRESS),
        "code_fp32": (0, _ADDRESS),
    },
    "runtime": {
        "core_stack": (64, 1 << 20),
        "l2_reserved": (0, 1 << 30),
        "issue_cycles": (0, 10000),
        "command_cycles": (0, 10000),
        "wait_cycles": (0, 10000),
        "call_cycles": (0, 10000),
    },
    "devices": {
        name: (1, _ADDRESS)
        for name in (
            "cluster_control",
            "cluster_icache",
            "host_icache",
            "event_unit",
            "event_unit_host",
            "dma",
            "dma_host",
            "host_interrupts",
            "redmule",
            "udma_clock_gate",
            "udma_hyperram",
            "standard_output",
            "exit",
        )
    },
}
_FLOATS = {"hyperram": ("read_cycles_per_byte", "write_cycles_per_byte")}

# Where the registers that a description names lie in their block.
_HYPERRAM_OFFSET, _EXIT_OFFSET = 0x480, 0xA0


@dataclass(frozen=True)
class Target:
    """A machine to compile for and to simulate.

    `description` is the TOML file's content; it is what the compiler embeds in the program and what
    the other properties read.
    """

    name: str
    description: Mapping[str, Any]

    def __post_init__(self) -> None:
        _check(self.name, self.description)

    @property
    def clock_hz(self) -> int:
        """Cycles a second."""
        return int(self.description["clock_hz"])

    @property
    def cores(self) -> int:
        """Cores of the cluster; the host core comes on top."""
        return int(self.description["cores"]["count"])

    @property
    def l1_bytes(self) -> int:
        """Size of the cluster's memory."""
        return self.capacity("l1")

    def capacity(self, level: str) -> int:
        """Size in bytes of memory `l1`, `l2` (the shared part) or `l3`."""
        return int(self.description["memory"][level]["size"])

    def with_l2_reserved(self, size: int) -> Target:
        """The same machine with `size` bytes of L2 for code, constants and job tables."""
        runtime = {**self.description["runtime"], "l2_reserved": size}
        return Target(self.name, {**self.description, "runtime": runtime})

    @property
    def dma_bytes_per_cycle(self) -> int:
        """What the cluster's DMA moves, each way at once."""
        return int(self.description["dma"]["bytes_per_cycle"])

    @property
    def redmule_formats(self) -> tuple[str, ...]:
        """Formats of the GEMM accelerator (`fp16`, `fp32`); empty when there is none."""
        return tuple(self.description.get("redmule", {}).get("formats", ()))

    @property
    def peak_flop_per_cycle(self) -> int:
        """Two operations for each multiply-add of all engines that compute a GEMM, the faster of
        accelerator and cores, for they do not share a job."""
        cores = 2 * min(self.cores, int(self.description["fpu"]["count"]))
        redmule = self.description.get("redmule")
        return max(cores, 2 * redmule["rows"] * redmule["columns"]) if redmule else cores

    @cached_property
    def simulator_config(self) -> dict[str, int | float | bool]:
        """The numbers by the names of the simulator's configuration (lib/Sim/Config.h)."""
        d = self.description
        memory, cores, devices, dma = d["memory"], d["cores"], d["devices"], d["dma"]
        redmule = d.get("redmule")
        return {
            "clock_hz": d["clock_hz"],
            "cluster_cores": cores["count"],
            "host_hart_id": cores["host_hartid"],
            "l1_base": memory["l1"]["base"],
            "l1_size": memory["l1"]["size"],
            "l1_banks": memory["l1"]["banks"],
            "l2_base": memory["l2_private"]["base"],
            "l2_size": memory["l2_private"]["size"] + memory["l2"]["size"],
            "l3_size": memory["l3"]["size"],
            "cluster_control": devices["cluster_control"],
            "event_unit": devices["event_unit_host"],
            "event_unit_local": devices["event_unit"],
            "dma_local": devices["dma"],
            "dma_host": devices["dma_host"],
            "redmule": devices["redmule"] if redmule else 0,
            "cluster_icache": devices["cluster_icache"],
            "host_icache": devices["host_icache"],
            "host_interrupts": devices["host_interrupts"],
            "udma": devices["udma_clock_gate"],
            "soc_control": devices["exit"] - _EXIT_OFFSET,
            "standard_output": devices["standard_output"],
            "mul": cores["mul"],
            "mul_dependent": cores["mul_dependent"],
            "mulh": cores["mulh"],
            "div": cores["div"],
            "load_use": cores["load_use"],
            "l2_access": cores["l2_access"],
            "peripheral_access": cores["peripheral_access"],
            "local_access": cores["local_access"],
            "soc_access": cores["soc_access"],
            "taken_branch": cores["taken_branch"],
            "jump": cores["jump"],
            "wake_up": cores["barrier"],
            "icache_off_line": cores["icache_off_line"],
            **{f"icache_{key}": value for key, value in d["icache"].items()},
            "fpus": d["fpu"]["count"],
            "fdiv32": d["fpu"]["fdiv32"],
            "fdiv16": d["fpu"]["fdiv16"],
            "dma_bytes_per_cycle": dma["bytes_per_cycle"],
            "dma_transfer": dma["start_cycles"],
            "dma_burst": dma["burst_bytes"],
            "dma_outstanding": dma["outstanding_bursts"],
            "dma_latency": dma["latency_cycles"],
            "dma_core_queue": dma["core_queue"],
            "dma_global_queue": dma["global_queue"],
            "hyper_read_per_byte": float(d["hyperram"]["read_cycles_per_byte"]),
            "hyper_write_per_byte": float(d["hyperram"]["write_cycles_per_byte"]),
            "hyper_transfer": d["hyperram"]["start_cycles"],
            "hyper_read_line": d["hyperram"]["read_line_cycles"],
            "hyper_write_line": d["hyperram"]["write_line_cycles"],
            "redmule_rows": redmule["rows"] if redmule else 0,
            "redmule_columns": redmule["columns"] if redmule else 0,
            "redmule_pipeline": redmule["pipeline"] if redmule else 0,
            "redmule_port_bytes": redmule["port_bytes"] if redmule else 0,
            "redmule_tile": redmule["tile_cycles"] if redmule else 0,
            "redmule_fp16": "fp16" in self.redmule_formats,
            "redmule_fp32": "fp32" in self.redmule_formats,
            "redmule_code_fp16": redmule["code_fp16"] if redmule else 0,
            "redmule_code_fp32": redmule["code_fp32"] if redmule else 0,
        }


def load_target(name_or_path: str | Path) -> Target:
    """The target description of that name (one of `target_names()`), or in that TOML file.

    Raises TrainDeeployError when there is none, or when it is not a complete description.
    """
    path = Path(name_or_path)
    if path.suffix != ".toml":
        path = _DIRECTORY / f"{name_or_path}.toml"
        if not path.is_file():
            raise TrainDeeployError(
                f"no target named {name_or_path}; there are {', '.join(target_names())}, or give a .toml file"
            )
    try:
        description = tomllib.loads(path.read_text())
    except OSError as error:
        raise TrainDeeployError(f"cannot read target {path}: {error.strerror}") from None
    except RecursionError:
        raise TrainDeeployError(f"target {path} is nested too deeply") from None
    except ValueError as error:
        raise TrainDeeployError(f"target {path} is not TOML: {error}") from None
    name = description.get("name")
    if not isinstance(name, str) or not name:
        raise TrainDeeployError(f"target {path}: key name is missing")
    return Target(name, description)


def target_names() -> list[str]:
    """Names of the built-in targets."""
    return sorted(path.stem for path in _DIRECTORY.glob("*.toml"))


def _check(name: str, description: Mapping[str, Any]) -> None:
    def fail(message: str) -> TrainDeeployError:
        return TrainDeeployError(f"target {name}: {message}")

    sections: dict[str, Mapping[str, Any]] = {"": {}}
    top: dict[str, Any] = {}
    for key, value in description.items():
        if key == "memory" and isinstance(value, Mapping):
            for level, table in value.items():
                if not isinstance(table, Mapping):
                    raise fail(f"memory.{level} is not a section")
                sections[f"memory.{level}"] = table
        elif isinstance(value, Mapping):
            sections[key] = value
        else:
            top[key] = value
    del sections[""]
    for key in top:
        if key not in ("name", "clock_hz"):
            raise fail(f"unknown key {key}")
    clock = description.get("clock_hz")
    if not isinstance(clock, int) or isinstance(clock, bool) or not 100 <= clock <= 1 << 40:
        raise fail(f"clock_hz must be an integer from 100 to {1 << 40}")
    for section in sections:
        if section not in _INTEGERS:
            raise fail(f"unknown section {section}")
    for section, keys in _INTEGERS.items():
        if section not in sections:
            if section == "redmule":
                continue
            raise fail(f"section {section} is missing")
        table = sections[section]
        known = {*keys, *_FLOATS.get(section, ()), *(["formats"] if section == "redmule" else [])}
        for key in table:
            if key not in known:
                raise fail(f"unknown key {section}.{key}")
        for key, (low, high) in keys.items():
            if section == "devices" and key == "redmule" and "redmule" not in sections and key not in table:
                continue
            if key not in table:
                raise fail(f"key {section}.{key} is missing")
            value = table[key]
            if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
                raise fail(f"{section}.{key} = {value!r} is not an integer from {low} to {high}")
        for key in _FLOATS.get(section, ()):
            if key not in table:
                raise fail(f"key {section}.{key} is missing")
            value = table[key]
            if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= 1000:
                raise fail(f"{section}.{key} = {value!r} is not a number from 0 to 1000")
    memory = description["memory"]
    if memory["l2_private"]["base"] + memory["l2_private"]["size"] != memory["l2"]["base"]:
        raise fail("memory.l2 must start where memory.l2_private ends")
    banks = memory["l1"]["banks"]
    if banks & (banks - 1):
        raise fail(f"memory.l1.banks = {banks} is not a power of two")
    if description["dma"]["bytes_per_cycle"] % 4:
        raise fail("dma.bytes_per_cycle must be a multiple of 4")
    if description["dma"]["latency_cycles"] > description["dma"]["start_cycles"]:
        raise fail("dma.latency_cycles is part of dma.start_cycles and cannot exceed it")
    devices = description["devices"]
    if devices["udma_hyperram"] != devices["udma_clock_gate"] + _HYPERRAM_OFFSET:
        raise fail(f"devices.udma_hyperram must be devices.udma_clock_gate + {_HYPERRAM_OFFSET:#x}")
    if "redmule" in sections:
        formats = sections["redmule"].get("formats")
        if not isinstance(formats, list) or not formats or not set(formats) <= set(REDMULE_CODES):
            raise fail(f"redmule.formats must list some of {', '.join(REDMULE_CODES)}")
        for kind, code in REDMULE_CODES.items():
            if sections["redmule"][f"code_{kind}"] != code:
                raise fail(f"redmule.code_{kind} must be {code:#x}, the arithmetic code of {kind}")
        if sections["redmule"]["port_bytes"] % 4:
            raise fail("redmule.port_bytes must be a multiple of 4")
        given, needed = sections["redmule"]["read_ahead"], _bytes_read_past_an_operand(sections["redmule"])
        if given < needed:
            raise fail(
                f"redmule.read_ahead = {given} is too little: beats of redmule.port_bytes ="
                f" {sections['redmule']['port_bytes']} read up to {needed} bytes past the end of an operand;"
                f" redmule.read_ahead = {needed} would do"
            )


def _bytes_read_past_an_operand(redmule: Mapping[str, Any]) -> int:
    """A row that ends after its first element is read as wide as the array, in whole beats of the port."""
    port, most = redmule["port_bytes"], 0
    for kind in redmule["formats"]:
        element = _ELEMENT_BYTES[kind]
        row = redmule["columns"] * (redmule["pipeline"] + 1) * element
        most = max(most, -(-row // port) * port - element)
    return most
