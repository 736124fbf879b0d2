#include "lib/Target/Target.h"

#include "mlir/IR/BuiltinAttributes.h"
#include "llvm/ADT/StringSet.h"

using namespace mlir;

namespace td {

/// The first entry of a description that no machine has; empty if all are
/// possible. Counts, widths and rates are divided by: they are not zero.
static std::string findImpossible(DictionaryAttr section, StringRef path) {
  static const llvm::StringSet<> positive = {
      "banks",    "burst_bytes", "bytes_per_cycle",    "columns", "count",
      "own_sets", "own_ways",    "outstanding_bursts", "rows",    "port_bytes",
      "sets",     "ways"};
  constexpr int64_t most = int64_t(1) << 32; // what 32 bits address
  for (NamedAttribute entry : section) {
    std::string name = (path + entry.getName().getValue()).str();
    if (auto inner = dyn_cast<DictionaryAttr>(entry.getValue())) {
      if (std::string found = findImpossible(inner, name + "."); !found.empty())
        return found;
    } else if (auto integer = dyn_cast<IntegerAttr>(entry.getValue())) {
      if (!integer.getType().isSignlessInteger(64) ||
          integer.getInt() < positive.contains(entry.getName().getValue()) ||
          integer.getInt() > most)
        return name;
    } else if (auto real = dyn_cast<FloatAttr>(entry.getValue())) {
      if (!(real.getValueAsDouble() >= 0 && real.getValueAsDouble() <= most))
        return name;
    }
  }
  return "";
}

FailureOr<Target> Target::get(Operation *op) {
  auto module = dyn_cast<ModuleOp>(op);
  if (!module)
    module = op->getParentOfType<ModuleOp>();
  auto dict = module ? module->getAttrOfType<DictionaryAttr>(targetAttrName)
                     : DictionaryAttr();
  if (!dict)
    return op->emitError()
           << "the module has no target description (attribute '"
           << targetAttrName << "'; td-set-target sets it)";
  if (std::string name = findImpossible(dict, ""); !name.empty())
    return op->emitError() << "the target description's '" << name
                           << "' is no number that a machine has";
  return Target(dict);
}

Attribute Target::find(StringRef section, StringRef key) const {
  DictionaryAttr where = dict;
  SmallVector<StringRef> path;
  section.split(path, '.', -1, /*KeepEmpty=*/false);
  for (StringRef part : path) {
    where = dyn_cast_or_null<DictionaryAttr>(where.get(part));
    if (!where)
      return {};
  }
  return where.get(key);
}

bool Target::has(StringRef section) const {
  auto [parent, key] = section.rsplit('.');
  return key.empty() ? static_cast<bool>(find("", parent))
                     : static_cast<bool>(find(parent, key));
}

double Target::number(StringRef section, StringRef key) const {
  Attribute value = find(section, key);
  if (auto integer = dyn_cast_or_null<IntegerAttr>(value))
    return integer.getInt();
  if (auto real = dyn_cast_or_null<FloatAttr>(value))
    return real.getValueAsDouble();
  emitError(UnknownLoc::get(dict.getContext()))
      << "the target description lacks the number '" << key << "' in section ["
      << section << "]";
  return 1; // may be divided by
}

int64_t Target::integer(StringRef section, StringRef key) const {
  return static_cast<int64_t>(number(section, key));
}

bool Target::readsOnAccelerator(Type element) const {
  auto formats = dyn_cast_or_null<ArrayAttr>(find("redmule", "formats"));
  StringRef wanted = element.isF32() ? "fp32" : element.isF16() ? "fp16" : "";
  return formats &&
         llvm::any_of(formats.getAsRange<StringAttr>(), [&](StringAttr format) {
           return format.getValue() == wanted;
         });
}

StringRef Target::name() const {
  auto name = dyn_cast_or_null<StringAttr>(find("", "name"));
  return name ? name.getValue() : "unnamed";
}

} // namespace td
