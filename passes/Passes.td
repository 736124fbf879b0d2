// Every pass of the compiler: what it requires, what it guarantees.
#ifndef TRAINDEEPLOY_PASSES
#define TRAINDEEPLOY_PASSES

include "mlir/Pass/PassBase.td"

def ApplyRecipe : Pass<"td-apply-recipe", "::mlir::ModuleOp"> {
  let summary = "Mark the parameters that a recipe trains";
  let description = [{
    Requires: `train.parameter`s without marks. Guarantees: exactly the
    parameters whose symbol is listed in `trainable` are marked trainable; a name
    that is no parameter is an error.
  }];
  let options = [ListOption<"trainable", "trainable", "std::string", "Symbols of the parameters to train">];
  let dependentDialects = ["::td::train::TrainDialect"];
}

def SetTarget : Pass<"td-set-target", "::mlir::ModuleOp"> {
  let summary = "Put a built-in target description on the module";
  let description = [{
    Guarantees: the module attribute `tile.target` mirrors
    python/traindeeploy/targets/<name>.toml. The driver sets the attribute itself
    when the target is a file.
  }];
  let options = [Option<"name", "name", "std::string", "\"pulp-redmule\"", "Name of a built-in target">];
  let dependentDialects = ["::td::tile::TileDialect"];
}

#endif
