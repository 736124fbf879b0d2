#include "lib/Target/Target.h"

#include "mlir/IR/BuiltinAttributes.h"
#include "llvm/Support/ErrorHandling.h"

using namespace mlir;

namespace td {

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
  return 0;
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
