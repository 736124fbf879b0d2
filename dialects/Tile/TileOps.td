// The tile dialect: where data lives, how a group of operators is cut into
// tiles, and the asynchronous jobs that result. See README.md in this folder.
#ifndef TILE_OPS
#define TILE_OPS

include "mlir/IR/OpBase.td"
include "mlir/IR/AttrTypeBase.td"
include "mlir/IR/EnumAttr.td"
include "mlir/IR/BuiltinAttributes.td"
include "mlir/IR/RegionKindInterface.td"
include "mlir/IR/SymbolInterfaces.td"
include "mlir/Interfaces/SideEffectInterfaces.td"

def Tile_Dialect : Dialect {
  let name = "tile";
  let cppNamespace = "::td::tile";
  let summary = "Memory placement, tiling and asynchronous jobs";
  let useDefaultAttributePrinterParser = 1;
  let useDefaultTypePrinterParser = 1;
}

class Tile_Op<string mnemonic, list<Trait> traits = []> : Op<Tile_Dialect, mnemonic, traits>;

//===----------------------------------------------------------------------===//
// Attributes and types
//===----------------------------------------------------------------------===//

def Tile_Level : I32EnumAttr<"Level", "level of the memory hierarchy", [
    I32EnumAttrCase<"L1", 1, "l1">, I32EnumAttrCase<"L2", 2, "l2">, I32EnumAttrCase<"L3", 3, "l3">]> {
  let cppNamespace = "::td::tile";
  let genSpecializedAttr = 0;
}

def Tile_MemoryAttr : AttrDef<Tile_Dialect, "Memory"> {
  let mnemonic = "memory";
  let summary = "memory space of a memref: `#tile.memory<l1>` (TCDM), `l2` (SRAM), `l3` (HyperRAM)";
  let parameters = (ins EnumParameter<Tile_Level>:$level);
  let assemblyFormat = "`<` $level `>`";
}

def Tile_Role : I32EnumAttr<"Role", "what a buffer is to the training program", [
    I32EnumAttrCase<"Parameter", 0, "parameter">,   // trained or frozen; loaded before the first step
    I32EnumAttrCase<"State", 1, "state">,           // optimizer state; loaded before the first step
    I32EnumAttrCase<"Input", 2, "input">,           // written by the host before each step
    I32EnumAttrCase<"Output", 3, "output">,         // read by the host after each step (the loss)
    I32EnumAttrCase<"Constant", 4, "constant">,     // never written; content in the module
    I32EnumAttrCase<"Temporary", 5, "temporary">]> {// lives within a step
  let cppNamespace = "::td::tile";
  let genSpecializedAttr = 0;
}
def Tile_RoleAttr : EnumAttr<Tile_Dialect, Tile_Role, "role">;

def Tile_Engine : I32EnumAttr<"Engine", "what executes a stage", [
    I32EnumAttrCase<"Cores", 0, "cores">, I32EnumAttrCase<"RedMulE", 1, "redmule">]> {
  let cppNamespace = "::td::tile";
  let genSpecializedAttr = 0;
}
def Tile_EngineAttr : EnumAttr<Tile_Dialect, Tile_Engine, "engine">;

def Tile_Phase : I32EnumAttr<"Phase", "when a stage of a group runs", [
    I32EnumAttrCase<"Prepare", 0, "prepare">,  // when a tile that it reads has changed
    I32EnumAttrCase<"Init", 1, "init">,        // before the first step of the reduction
    I32EnumAttrCase<"Main", 2, "main">,        // for every tile
    I32EnumAttrCase<"Finish", 3, "finish">,    // after the last step of the reduction
    I32EnumAttrCase<"First", 4, "first">,      // then, if no lines were ahead of the tile
    I32EnumAttrCase<"Next", 5, "next">]> {     // then, if there were
  let cppNamespace = "::td::tile";
  let genSpecializedAttr = 0;
}
def Tile_PhaseAttr : EnumAttr<Tile_Dialect, Tile_Phase, "phase">;

def Tile_TokenType : TypeDef<Tile_Dialect, "Token"> {
  let mnemonic = "token";
  let summary = "completion of an asynchronous job";
}

//===----------------------------------------------------------------------===//
// Level 3: the plan
//===----------------------------------------------------------------------===//

def Tile_ProgramOp : Tile_Op<"program", [IsolatedFromAbove, SingleBlock, NoTerminator,
                                         NoRegionArguments, Symbol]> {
  let summary = "one training step on the SoC: buffers, then groups or jobs in execution order";
  let description = [{
    Holds first the `tile.buffer`s, then, at the level of the plan, one
    `tile.group` per operator in execution order, or, once expanded, the jobs.
    `target` is the name of the target description that the plan was made for.
  }];
  let arguments = (ins SymbolNameAttr:$sym_name, StrAttr:$target);
  let regions = (region SizedRegion<1>:$body);
  let assemblyFormat = "$sym_name `target` $target attr-dict-with-keyword $body";
}

def Tile_BufferOp : Tile_Op<"buffer"> {
  let summary = "an array of the program with a name, a role and a memory level";
  let description = [{
    Row-major and contiguous. `symbol` is the parameter's, input's or temporary's
    own name. `address` (bytes, absolute for l1 and l2, from the start of the
    device for l3) is present once addresses are assigned. `init` is the content
    of a constant.
  }];
  let arguments = (ins StrAttr:$symbol, Tile_RoleAttr:$role,
                       OptionalAttr<I64Attr>:$address, OptionalAttr<ElementsAttr>:$init);
  let results = (outs Res<AnyStaticShapeMemRef, "", [MemAlloc]>:$memref);
  let assemblyFormat = "$role $symbol (`at` $address^)? (`init` $init^)? attr-dict `:` type($memref)";
  let hasVerifier = 1;
}

def Tile_GroupOp : Tile_Op<"group", [SingleBlock, NoTerminator, AttrSizedOperandSegments]> {
  let summary = "operators that share one tiled iteration domain";
  let description = [{
    A loop nest over tiles of the domain `sizes` (one entry per dimension), tile
    sizes `tiles`, loops nested in `order` (outermost first); `reductions` lists
    the dimensions that are summed over. The block has one argument per operand,
    ins then outs: the operand's tile in L1, a packed row-major memref whose
    sizes are dynamic because edge tiles are smaller. `maps` has, per operand, how the
    domain addresses it: each result is `c0 + c1*d1 + c2*d2...`, all c positive,
    for `outs` with one dimension at most, each dimension once. Of each dimension
    of the array a tile holds every g-th element of its window, g the greatest
    common divisor of the coefficients of dimensions whose tile size is above 1.
    An operand that is both in ins and outs (an update in place) is the same
    buffer twice; its tile is loaded, changed and stored.
    The body holds `tile.scratch` and `tile.stage`s in execution order.

    `name` says which operator of the model this is; `predicted` the cycles that
    the cost model gives: [total, dma, cores, redmule].
  }];
  let arguments = (ins StrAttr:$name, DenseI64ArrayAttr:$sizes, DenseI64ArrayAttr:$tiles,
                       DenseI64ArrayAttr:$order, DenseI64ArrayAttr:$reductions,
                       Variadic<AnyStaticShapeMemRef>:$ins, Variadic<AnyStaticShapeMemRef>:$outs,
                       AffineMapArrayAttr:$maps, DenseI64ArrayAttr:$predicted);
  let regions = (region SizedRegion<1>:$body);
  let assemblyFormat = [{
    $name `domain` $sizes `tiles` $tiles `order` $order `reductions` $reductions
    `predicted` $predicted
    (`ins` `(` $ins^ `:` type($ins) `)`)? `outs` `(` $outs `:` type($outs) `)`
    `maps` $maps attr-dict-with-keyword $body
  }];
  let hasVerifier = 1;
}

def Tile_ScratchOp : Tile_Op<"scratch", [HasParent<"GroupOp">]> {
  let summary = "a tile in L1 that belongs to the group alone";
  let description = [{
    `map` is a projection of the group's domain on the scratch tile's dimensions:
    a transposed operand, an accumulator. A dimension may also be walked by a nest
    of dimensions of the domain, `c1*d1 + d2` with c1 the size of d2. One that no stage reads or writes an
    element of gives loops their sizes (the window of a pooling).
  }];
  let arguments = (ins AffineMapAttr:$map);
  let results = (outs MemRefOf<[AnyType]>:$memref);
  let assemblyFormat = "$map attr-dict `:` type($memref)";
}

def Tile_LinesOp : Tile_Op<"lines", [HasParent<"GroupOp">,
                                     AllTypesMatch<["tile", "whole", "head", "before"]>]> {
  let summary = "a scratch tile behind the last lines of the tile before it";
  let description = [{
    A line buffer, for windows that reach over the edge of a tile. Lines are the
    slices of a scratch `tile` along the dimension that the domain's dimension
    `along` walks; dimensions ahead of it have one element in a tile. `whole` has
    `count` more lines ahead of the tile's own, of which `head` is a view, and
    `before` is a view of as many last lines of the tile before. Stages of phase
    `first` and `next` write the head: at the first place of `along`, and at
    others. Tiles come one after the other along this dimension.
  }];
  let arguments = (ins MemRefOf<[AnyType]>:$tile, I64Attr:$count, I64Attr:$along);
  let results = (outs MemRefOf<[AnyType]>:$whole, MemRefOf<[AnyType]>:$head,
                      MemRefOf<[AnyType]>:$before);
  let assemblyFormat = "$count `before` $tile `along` $along attr-dict `:` type($tile)";
  let hasVerifier = 1;
  let extraClassDeclaration = [{
    /// The dimension of the tile whose slices are lines.
    unsigned getLine();
  }];
}

def Tile_StageOp : Tile_Op<"stage", [SingleBlock, NoTerminator, HasParent<"GroupOp">]> {
  let summary = "one structured operation of a group on tiles, on one engine";
  let description = [{
    The region holds one linalg op on memrefs that are tiles of the group, after
    the constants that it reads. Its maps address the tiles: plain dimensions,
    or, where the operand's map has a sum of several, that sum without its
    constant; expansion takes from it what the tile sizes make superfluous.
    RedMulE runs a linalg.matmul, or a linalg.generic that contracts: of the
    dimensions with tiles above 1, X has those of the rows, then those that are
    summed over, W those and the columns, Z rows and columns, each in one order.
    `phase` says when it runs within the loop nest.
  }];
  let arguments = (ins Tile_PhaseAttr:$phase, Tile_EngineAttr:$engine);
  let regions = (region SizedRegion<1>:$body);
  let assemblyFormat = "$phase `on` $engine attr-dict-with-keyword $body";
  let hasVerifier = 1;
}

//===----------------------------------------------------------------------===//
// Level 4: jobs
//===----------------------------------------------------------------------===//

def Tile_OperatorOp : Tile_Op<"operator", [HasParent<"ProgramOp">]> {
  let summary = "an operator of the program that jobs are accounted to";
  let description = [{
    The i-th of a program is what a job's `operator i` names: one per
    `tile.group` of the plan, in its order and with its location. `predicted` has
    the cycles that the plan expects: [total, dma, cores, redmule].
  }];
  let arguments = (ins StrAttr:$name, DenseI64ArrayAttr:$predicted);
  let assemblyFormat = "$name `predicted` $predicted attr-dict";
}

def Tile_ViewOp : Tile_Op<"view", [Pure]> {
  let summary = "a contiguous part of an array in place";
  let description = [{
    The window `offsets`/`sizes` (elements, one per dimension of `source`). It
    must be contiguous in the row-major source: every dimension after the first
    one of size above 1 is taken whole. The result is packed and has the window's
    sizes.
  }];
  let arguments = (ins AnyStaticShapeMemRef:$source, DenseI64ArrayAttr:$offsets,
                       DenseI64ArrayAttr:$sizes);
  let results = (outs AnyStaticShapeMemRef:$result);
  let assemblyFormat = "$source $offsets $sizes attr-dict `:` type($source) `to` type($result)";
  let hasVerifier = 1;
  let extraClassDeclaration = [{
    /// Elements before the window in the row-major source.
    int64_t getElementOffset();
  }];
}

def Tile_AllocOp : Tile_Op<"alloc"> {
  let summary = "a packed row-major tile in L1 or L2 for some jobs";
  let description = [{
    Lives from the issue of the first job that uses it to the completion of the
    last. `address` is present once addresses are assigned.
  }];
  let arguments = (ins StrAttr:$symbol, OptionalAttr<I64Attr>:$address);
  let results = (outs Res<AnyStaticShapeMemRef, "", [MemAlloc]>:$memref);
  let assemblyFormat = "$symbol (`at` $address^)? attr-dict `:` type($memref)";
  let hasVerifier = 1;
}

def Tile_CopyOp : Tile_Op<"copy"> {
  let summary = "start an asynchronous copy of a tile between two levels";
  let description = [{
    One side is a whole packed tile (`tile`), the other the window
    `offsets`/`sizes` (elements, one per dimension of `array`) of an array, of
    which it has every `step`-th element along each dimension (every one without
    `step`); `load` says whether data goes into the tile. L1 <-> L2 by the cluster's
    DMA, L2 <-> L3 by the uDMA; other pairs are refused. `operator` is the index
    of the program's operator that the job is accounted to.
  }];
  let arguments = (ins AnyStaticShapeMemRef:$array, AnyStaticShapeMemRef:$tile,
                       DenseI64ArrayAttr:$offsets, DenseI64ArrayAttr:$sizes,
                       OptionalAttr<DenseI64ArrayAttr>:$steps, BoolAttr:$load,
                       I32Attr:$op_index);
  let results = (outs Tile_TokenType:$token);
  let assemblyFormat = [{
    $array $offsets $sizes (`step` $steps^)? `,` $tile `load` $load `operator` $op_index attr-dict
    `:` type($array) `,` type($tile)
  }];
  let hasVerifier = 1;
  let extraClassDeclaration = [{
    /// The step along each dimension of the array.
    ::llvm::SmallVector<int64_t> getWindowSteps();
  }];
}

def Tile_WaitOp : Tile_Op<"wait", [AttrSizedOperandSegments]> {
  let summary = "block until jobs are complete";
  let description = [{
    `buffers` become valid (a copy's destination, a GEMM's result) or reusable
    (a copy's source) by it.
  }];
  let arguments = (ins Variadic<Tile_TokenType>:$tokens,
                       Arg<Variadic<AnyStaticShapeMemRef>, "", [MemRead, MemWrite]>:$buffers);
  let assemblyFormat = "$tokens (`makes` $buffers^ `:` type($buffers))? attr-dict";
  let hasVerifier = 1;
}

def Tile_CallOp : Tile_Op<"call", [DeclareOpInterfaceMethods<SymbolUserOpInterface>]> {
  let summary = "run a kernel on all cores of the cluster";
  let description = [{
    Synchronous for the issuing stream: jobs issued before go on beside it. The
    kernel is a private function whose arguments are the tiles (memrefs of the
    same rank, sizes dynamic) and, per entry of `indices`, the index of the tile's
    first element along a dimension (for kernels that use `linalg.index`).
  }];
  let arguments = (ins FlatSymbolRefAttr:$kernel, Variadic<AnyStaticShapeMemRef>:$operands_,
                       DenseI64ArrayAttr:$indices, I32Attr:$op_index);
  let assemblyFormat = [{
    $kernel `(` $operands_ `:` type($operands_) `)` `indices` $indices `operator` $op_index attr-dict
  }];
  let hasVerifier = 1;
}

#endif
