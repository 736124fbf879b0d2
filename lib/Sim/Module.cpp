//===- Module.cpp - The Python extension traindeeploy._tdsim --------------===//
#include "Machine.h"
#include "Registers.h"
#include <chrono>
#include <cstring>
#include <functional>
#include <map>
#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>
#include <optional>

namespace nb = nanobind;
using namespace tdsim;

namespace {

/// Every field of Config by the name Python gives it.
std::map<std::string, std::function<void(nb::handle)>> setters(Config &c) {
  std::map<std::string, std::function<void(nb::handle)>> all;
#define FIELD(name, member)                                                    \
  all[name] = [&c](nb::handle v) { c.member = nb::cast<decltype(c.member)>(v); }
  FIELD("clock_hz", clockHz);
  FIELD("cluster_cores", clusterCores);
  FIELD("host_hart_id", hostHartId);
  FIELD("l1_base", l1.base);
  FIELD("l1_size", l1.size);
  FIELD("l1_banks", l1Banks);
  FIELD("l2_base", l2.base);
  FIELD("l2_size", l2.size);
  FIELD("l3_size", l3Size);
  FIELD("cluster_control", clusterControl);
  FIELD("event_unit", eventUnit);
  FIELD("event_unit_local", eventUnitLocal);
  FIELD("dma_local", dmaLocal);
  FIELD("dma_host", dmaHost);
  FIELD("redmule", redmule);
  FIELD("cluster_icache", clusterIcache);
  FIELD("host_icache", hostIcache);
  FIELD("host_interrupts", hostInterrupts);
  FIELD("udma", udma);
  FIELD("soc_control", socControl);
  FIELD("standard_output", standardOutput);
  FIELD("mul", mul);
  FIELD("mul_dependent", mulDependent);
  FIELD("mulh", mulh);
  FIELD("div", div);
  FIELD("load_use", loadUse);
  FIELD("l2_access", l2Access);
  FIELD("peripheral_access", peripheralAccess);
  FIELD("local_access", localAccess);
  FIELD("soc_access", socAccess);
  FIELD("taken_branch", takenBranch);
  FIELD("jump", jump);
  FIELD("wake_up", wakeUp);
  FIELD("icache_off_line", icacheOffLine);
  FIELD("icache_own_sets", icacheOwnSets);
  FIELD("icache_own_ways", icacheOwnWays);
  FIELD("icache_banks", icacheBanks);
  FIELD("icache_sets", icacheSets);
  FIELD("icache_ways", icacheWays);
  FIELD("icache_refill", icacheRefill);
  FIELD("fpus", fpus);
  FIELD("fdiv32", fdiv32);
  FIELD("fdiv16", fdiv16);
  FIELD("dma_bytes_per_cycle", dmaBytesPerCycle);
  FIELD("dma_transfer", dmaTransfer);
  FIELD("dma_burst", dmaBurst);
  FIELD("dma_outstanding", dmaOutstanding);
  FIELD("dma_latency", dmaLatency);
  FIELD("dma_core_queue", dmaCoreQueue);
  FIELD("dma_global_queue", dmaGlobalQueue);
  FIELD("hyper_read_per_byte", hyperReadPerByte);
  FIELD("hyper_write_per_byte", hyperWritePerByte);
  FIELD("hyper_transfer", hyperTransfer);
  FIELD("hyper_read_line", hyperReadLine);
  FIELD("hyper_write_line", hyperWriteLine);
  FIELD("redmule_rows", redmuleRows);
  FIELD("redmule_columns", redmuleColumns);
  FIELD("redmule_pipeline", redmulePipeline);
  FIELD("redmule_port_bytes", redmulePortBytes);
  FIELD("redmule_tile", redmuleTile);
  FIELD("redmule_fp16", redmuleFp16);
  FIELD("redmule_fp32", redmuleFp32);
  FIELD("redmule_code_fp16", redmuleCodeFp16);
  FIELD("redmule_code_fp32", redmuleCodeFp32);
#undef FIELD
  return all;
}

Config configFrom(const nb::dict &values) {
  Config config;
  auto fields = setters(config);
  for (auto [key, value] : values) {
    auto name = nb::cast<std::string>(key);
    auto field = fields.find(name);
    if (field == fields.end())
      throw nb::key_error(("unknown machine number " + name).c_str());
    field->second(value);
    fields.erase(field);
  }
  if (!fields.empty())
    throw nb::key_error(
        ("machine number " + fields.begin()->first + " is missing").c_str());
  return config;
}

/// What Python knows of the program: traindeeploy.memory_map.MemoryMap.
CheckPlan planFrom(const nb::handle &map) {
  CheckPlan plan;
  auto number = [](nb::handle v) { return nb::cast<uint32_t>(v); };
  for (nb::handle row : map.attr("planned")) {
    unsigned level = number(row[0]);
    plan.planned.at(level) = {number(row[1]), number(row[2])};
  }
  for (nb::handle row : map.attr("arrays"))
    plan.arrays.push_back(
        {nb::cast<std::string>(row.attr("name")), number(row.attr("level")),
         number(row.attr("address")), number(row.attr("bytes")),
         number(row.attr("first")), number(row.attr("last")),
         nb::cast<bool>(row.attr("host")), nb::cast<bool>(row.attr("output"))});
  plan.kinds = nb::cast<std::string>(map.attr("kinds"));
  plan.operatorOf = nb::cast<std::vector<uint32_t>>(map.attr("operator_of"));
  plan.operators = nb::cast<std::vector<std::string>>(map.attr("operators"));
  for (nb::handle row : map.attr("kernels"))
    plan.kernels[number(row[0])] = number(row[1]);
  for (nb::handle row : map.attr("stacks"))
    plan.stacks.push_back({number(row[0]), number(row[1])});
  return plan;
}

template <class T> nb::bytes rawBytes(const std::vector<T> &jobs) {
  return nb::bytes(jobs.data(), jobs.size() * sizeof(T));
}

nb::dict countersOf(const Machine &machine, unsigned core) {
  const CoreCounters &c = machine.counters(core);
  nb::dict d;
  d["instructions"] = c.instructions;
  d["active_cycles"] = machine.activeCycles(core);
  d["asleep_cycles"] = c.asleep;
  d["loads"] = c.loads;
  d["stores"] = c.stores;
  d["jumps"] = c.jumps;
  d["branches"] = c.branches;
  d["taken_branches"] = c.takenBranches;
  d["load_use_stalls"] = c.loadUseStalls;
  d["bank_stalls"] = c.bankStalls;
  d["fpu_stalls"] = c.fpuStalls;
  d["l2_stalls"] = c.l2Stalls;
  d["device_stalls"] = c.deviceStalls;
  d["icache_stalls"] = c.icacheStalls;
  return d;
}

nb::dict simulate(const nb::dict &numbers, const std::string &elf,
                  const std::string &workdir, std::optional<uint64_t> maxCycles,
                  const std::string &log, uint64_t logLimit, nb::object output,
                  nb::object progress, bool portable, nb::object check,
                  nb::object step, const std::vector<uint32_t> &kernels) {
  RunOptions options;
  options.workdir = workdir;
  options.maxCycles = maxCycles.value_or(Never);
  options.log = log == "none"     ? LogPolicy::None
                : log == "marked" ? LogPolicy::Marked
                                  : LogPolicy::All;
  options.logLimit = logLimit;
  options.kernels = kernels;
  if (!check.is_none())
    options.check = planFrom(check);
  options.standardOutput = [&](const std::string &text) {
    nb::gil_scoped_acquire gil;
    output(nb::bytes(text.data(), text.size()));
  };
  options.progress = [&](uint64_t cycle) {
    nb::gil_scoped_acquire gil;
    if (PyErr_CheckSignals() != 0) // Ctrl-C
      throw nb::python_error();
    if (!progress.is_none())
      progress(cycle);
  };
  Machine machine(configFrom(numbers), portable);
  auto logs = [&](nb::dict d) {
    d["dma"] = rawBytes(machine.dmaJobs);
    d["hyperram"] = rawBytes(machine.hyperJobs);
    d["redmule"] = rawBytes(machine.redmuleJobs);
    d["markers"] = rawBytes(machine.markers);
    return d;
  };
  if (!step.is_none())
    options.stepEnded = [&] {
      nb::gil_scoped_acquire gil;
      step(logs(nb::dict()));
    };
  machine.load(Elf::read(elf));
  std::string stop;
  int exitCode = 0;
  auto start = std::chrono::steady_clock::now();
  {
    nb::gil_scoped_release unlocked;
    try {
      exitCode = machine.run(options);
    } catch (const Stop &error) {
      stop = error.what();
    }
  }
  std::chrono::duration<double> seconds =
      std::chrono::steady_clock::now() - start;

  nb::dict result;
  result["error"] = stop;
  result["exit_code"] = exitCode;
  result["cycles"] = machine.endCycle();
  result["instructions"] = machine.instructions();
  result["host_seconds"] = seconds.count();
  nb::list cores;
  for (unsigned i = 0; i < machine.coreCount(); ++i)
    cores.append(countersOf(machine, i));
  result["cores"] = cores;
  logs(result);
  result["dropped"] = machine.droppedJobs();
  return result;
}

} // namespace

NB_MODULE(_tdsim, m) {
  m.doc() = "The embedded simulator; use traindeeploy.sim.";
  m.attr("REDMULE_FP16") = redmule::ArithmeticFp16;
  m.attr("REDMULE_FP32") = redmule::ArithmeticFp32;
  m.def("simulate", &simulate, nb::arg("config"), nb::arg("elf"),
        nb::arg("workdir"), nb::arg("max_cycles").none(), nb::arg("log"),
        nb::arg("log_limit"), nb::arg("output"), nb::arg("progress").none(),
        nb::arg("portable"), nb::arg("check").none(), nb::arg("step").none(),
        nb::arg("kernels"));
}
