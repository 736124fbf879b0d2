// The target description as the compiler reads it. The numbers live in
// python/traindeeploy/targets/*.toml; they reach the compiler as the module
// attribute `tile.target`, a dictionary with the same sections and keys.
#ifndef TD_LIB_TARGET_TARGET_H
#define TD_LIB_TARGET_TARGET_H

#include "mlir/IR/BuiltinAttributes.h"
#include "mlir/IR/BuiltinOps.h"
#include <optional>
#include <string>

namespace td {

/// Name of the module attribute that holds the target description.
inline constexpr llvm::StringLiteral targetAttrName = "tile.target";

class Target {
public:
  /// The target of `op`'s module; an error on `op` if it has none.
  static mlir::FailureOr<Target> get(mlir::Operation *op);

  /// A number by section path and key, "memory.l1" and "size". A missing key is
  /// reported once on the module and reads as zero.
  int64_t integer(llvm::StringRef section, llvm::StringRef key) const;
  double number(llvm::StringRef section, llvm::StringRef key) const;
  bool has(llvm::StringRef section) const;
  llvm::StringRef name() const;

  /// Whether RedMulE exists and computes in this element type.
  bool readsOnAccelerator(mlir::Type element) const;

  mlir::DictionaryAttr dictionary() const { return dict; }

private:
  explicit Target(mlir::DictionaryAttr dict) : dict(dict) {}
  mlir::Attribute find(llvm::StringRef section, llvm::StringRef key) const;
  mlir::DictionaryAttr dict;
};

} // namespace td

#endif
