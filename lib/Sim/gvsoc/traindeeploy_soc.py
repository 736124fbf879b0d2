"""The SoC of a TrainDeeploy target description as a target of GVSoC.

GVSoC loads this file with `--target-dir`. It builds on GVSoC's own PULP-open: the same components, with
the numbers of the description that TRAINDEEPLOY_GVSOC_TARGET names (a JSON file), banks of L1 that
conflict, RedMulE, and probes that log what the engines do at no simulated time.
"""

import json
import os
from pathlib import Path

import gvsoc.runner
import gvsoc.systree as st
import pulp.chips.pulp_open.pulp_open as pulp_open
from devices.hyperbus.hyperram import Hyperram
from pulp.chips.pulp_open.cluster import Cluster as PulpOpenCluster

TARGET_VARIABLE = "TRAINDEEPLOY_GVSOC_TARGET"
CYCLES_VARIABLE = "TRAINDEEPLOY_GVSOC_CYCLES"
BANK_BYTES = 4
CACHE_LINE_BYTES = 16
REDMULE_EVENT = 12
HOST_HART_ID = 0x3E0  # of PULP-open's host core
STOCK = "pulp/chips/pulp_open"


def log_path():
    """The pipe that all components write their logs to: beside the description."""
    return str(Path(os.environ[TARGET_VARIABLE]).with_name("log"))


class Redmule(st.Component):
    """This project's RedMulE, for FP32 (redmule.cpp)."""

    def __init__(self, parent, name, description):
        super().__init__(parent, name)
        redmule, l1 = description["redmule"], description["memory"]["l1"]
        self.set_component("traindeeploy.redmule")
        self.add_properties(
            {
                **{key: redmule[key] for key in ("rows", "columns", "pipeline", "port_bytes", "tile_cycles")},
                "arithmetic": redmule["code_fp32"],
                "l1_base": l1["base"],
                "l1_size": l1["size"],
                "banks": l1["banks"],
                "log": log_path(),
            }
        )


class Probe(st.Component):
    """Passes requests through and logs them (probe.cpp)."""

    def __init__(self, parent, name, kind, **properties):
        super().__init__(parent, name)
        self.set_component("traindeeploy.probe")
        self.add_properties({"kind": kind, "log": log_path(), **properties})


class Cluster(PulpOpenCluster):
    """PULP-open's cluster with banks that conflict, RedMulE and probes."""

    description = None

    def __init__(self, parent, name, config_file, cid=0, pulpnn=False):
        self.probed = {}
        super().__init__(parent, name, config_file=config_file, cid=cid, pulpnn=pulpnn)
        l1 = self.get_component("l1")
        banks = [l1.get_component(f"bank{i}") for i in range(self.description["memory"]["l1"]["banks"])]
        for bank in banks:
            bank.add_property("width_bits", (BANK_BYTES - 1).bit_length())
        if "redmule" in self.description:
            self.add_redmule(l1, banks)

    def bind(self, master, master_itf, slave, slave_itf, *properties):
        """Binds two components, through a probe where there is something to log."""
        probe = None
        if slave_itf == "demux_in_0" and master_itf == "event_unit_0":
            probe = self.probe("marks")
        elif (slave_itf == "in_0" and master_itf == "dma_0") or master_itf.startswith("loc_itf_"):
            probe = self.probe("dma")
        elif master_itf == "cluster_ico" and slave_itf == "input":
            probe = self.probe("hyperram")
        if probe is None:
            super().bind(master, master_itf, slave, slave_itf, *properties)
            return
        port = master_itf if master_itf.startswith("loc_itf_") else "registers"
        super().bind(master, master_itf, probe, port, *properties)
        super().bind(probe, f"{port}_out", slave, slave_itf, *properties)

    def probe(self, kind):
        """The probe of that kind, which is made when it is first asked for."""
        if kind not in self.probed:
            properties = {
                "hyperram": {"base": self.description["devices"]["udma_hyperram"]},
                "marks": {"max_cycles": int(os.environ[CYCLES_VARIABLE])},
            }
            self.probed[kind] = Probe(self, f"probe_{kind}", kind, **properties.get(kind, {}))
        return self.probed[kind]

    def add_redmule(self, l1, banks):
        """RedMulE, with a port of its own on all banks, its registers and its event."""
        description = self.description
        redmule = description["redmule"]
        formats = redmule["formats"]
        if formats == ["fp32"]:
            engine = Redmule(self, "redmule", description)
            registers, done = (engine, "input"), (engine, "done")
            for i, bank in enumerate(banks):
                self.bind(engine, f"bank_{i}", l1, f"redmule_bank_{i}")
                l1.bind(l1, f"redmule_bank_{i}", bank, "input")
        elif formats == ["fp16"]:
            from pulp.light_redmule.hwpe_interleaver import HWPEInterleaver
            from pulp.light_redmule.light_redmule import LightRedmule

            engine = LightRedmule(
                self,
                "redmule",
                tcdm_bank_width=BANK_BYTES,
                tcdm_bank_number=redmule["port_bytes"] // BANK_BYTES,
                elem_size=2,
                ce_height=redmule["columns"],
                ce_width=redmule["rows"],
                ce_pipe=redmule["pipeline"],
                queue_depth=0,  # the port is in order: a beat that waits for a bank holds up the next
                loc_base=description["memory"]["l1"]["base"],
            )
            probe = Probe(self, "probe_redmule", "redmule")
            registers, done = (probe, "registers"), (probe, "done_out")
            self.bind(probe, "registers_out", engine, "input")
            self.bind(engine, "done_irq", probe, "done")
            port = HWPEInterleaver(l1, "redmule_port", 1, len(banks), BANK_BYTES)
            self.bind(engine, "tcdm", l1, "redmule_port")
            l1.bind(l1, "redmule_port", port, "input")
            for i, bank in enumerate(banks):
                l1.bind(port, f"out_{i}", bank, "input")
        else:
            raise RuntimeError(f"RedMulE with formats {formats}: GVSoC has a model of one format each")
        bus = self.get_component("periph_ico")
        base = description["devices"]["redmule"]
        bus.add_mapping("redmule", base=base, size=0x400, remove_offset=base)
        self.bind(bus, "redmule", *registers)
        events = self.get_component("event_unit")
        for core in range(description["cores"]["count"]):
            self.bind(*done, events, f"in_event_{REDMULE_EVENT}_pe_{core}")


def logarithm(value):
    """The logarithm of a power of two."""
    if value & (value - 1):
        raise RuntimeError(f"GVSoC has instruction caches of powers of two only, not of {value}")
    return value.bit_length() - 1


def place(mapping, base, size=None):
    """Moves a mapping of a configuration."""
    offset = int(mapping.get("remove_offset", mapping["base"]), 0) - int(mapping["base"], 0)
    mapping["base"] = hex(base)
    if "remove_offset" in mapping:
        mapping["remove_offset"] = hex(base + offset)
    if size is not None:
        mapping["size"] = hex(size)


def cluster_configuration(stock, description):
    """PULP-open's configuration of its cluster, with the description's numbers."""
    count, l1, devices = description["cores"]["count"], description["memory"]["l1"], description["devices"]
    if l1["banks"] % count:
        raise RuntimeError(f"{l1['banks']} banks of L1 are no multiple of {count} cores")
    stock["nb_pe"] = count
    stock["l1"]["banking_factor"] = l1["banks"] // count
    place(stock["l1"]["mapping"], l1["base"], l1["size"])
    stock["l1"]["ts_mapping"]["size"] = hex(l1["size"])
    caches, stated = stock["icache"]["config"], description["icache"]
    caches.update(nb_cores=count, has_cc=False, nb_l1_banks=stated["banks"])
    for level, sets, ways in (("l0", "own_sets", "own_ways"), ("l1", "sets", "ways")):
        caches[level].update(
            nb_sets_bits=logarithm(stated[sets]),
            nb_ways_bits=logarithm(stated[ways]),
            line_size_bits=logarithm(CACHE_LINE_BYTES),
            refill_latency=stated["refill"],
        )
    peripherals, demux = stock["peripherals"], stock["demux_peripherals"]
    peripherals["event_unit"]["config"]["nb_core"] = count
    place(peripherals["cluster_ctrl"]["mapping"], devices["cluster_control"])
    place(peripherals["event_unit"]["mapping"], devices["event_unit_host"])
    place(peripherals["icache_ctrl"]["mapping"], devices["cluster_icache"])
    place(peripherals["dma"]["mapping"], devices["dma_host"])
    place(demux["event_unit"]["mapping"], devices["event_unit"])
    place(demux["dma"]["mapping"], devices["dma"])
    return stock


def soc_configuration(stock, description):
    """PULP-open's configuration of the SoC, with the description's numbers."""
    private, shared = description["memory"]["l2_private"], description["memory"]["l2"]
    half = private["size"] // 2
    l2 = stock["l2"]
    l2["base"], l2["size"] = hex(private["base"]), hex(private["size"] + shared["size"])
    place(l2["priv0"]["mapping"], private["base"], half)
    place(l2["priv1"]["mapping"], private["base"] + half, half)
    l2["priv0_alias"]["mapping"]["size"] = hex(half)
    place(l2["shared"]["mapping"], shared["base"], shared["size"])
    l2["shared"]["nb_regions"] = 1
    devices, buses = description["devices"], stock["apb_ico"]["mappings"]
    place(buses["udma"], devices["udma_clock_gate"])
    place(buses["stdout"], devices["standard_output"])
    place(buses["fc_icache_ctrl"], devices["host_icache"])
    place(buses["fc_itc"], devices["host_interrupts"])
    place(buses["apb_soc_ctrl"], devices["exit"] & ~0xFFF)
    return stock


class Board(st.Component):
    """The chip and its HyperRAM."""

    def __init__(self, parent, name, parser, options):
        super().__init__(parent, name, options=options)
        path = Path(os.environ[TARGET_VARIABLE])
        description = json.loads(path.read_text())
        if description["cores"]["host_hartid"] != HOST_HART_ID:
            raise RuntimeError(f"GVSoC's host core has mhartid {HOST_HART_ID:#x}, the target another one")
        files = {}
        for part, configure in (("cluster", cluster_configuration), ("soc", soc_configuration)):
            files[part] = path.with_name(f"{part}.json")
            stock = self.load_property_file(f"{STOCK}/{part}.json")
            files[part].write_text(json.dumps(configure(stock, description)))
        attributes = pulp_open.PulpOpenAttr(self)
        self.set_attributes(attributes)
        private, shared = description["memory"]["l2_private"], description["memory"]["l2"]
        l2 = attributes.soc.l2
        l2.priv0.size = l2.priv1.size = private["size"] // 2
        l2.shared.nb_regions = 1
        l2.shared.range.size = shared["size"]
        # PULP-open makes the cluster of this name.
        Cluster.description = description
        pulp_open.Cluster = Cluster
        chip = pulp_open.Pulp_open(
            self,
            "chip",
            attributes,
            parser,
            soc_config_file=str(files["soc"]),
            cluster_config_file=str(files["cluster"]),
        )
        ram = Hyperram(self, "ram", size=description["memory"]["l3"]["size"])
        probe = Probe(self, "probe_bus", "bus")
        self.bind(chip, "hyper0_cs0_data", probe, "bus")
        self.bind(probe, "bus_out", ram, "input")


class Target(gvsoc.runner.Target):
    """What GVSoC looks for in this file."""

    gapy_description = "The SoC of a TrainDeeploy target description"
    name = "traindeeploy_soc"
    model = Board

    def __init__(self, parser, options=None, name=None):
        super().__init__(parser, options, model=Board, name=name)
