// The redmule dialect: GEMM jobs of the RedMulE accelerator. See README.md.
#ifndef REDMULE_OPS
#define REDMULE_OPS

include "mlir/IR/OpBase.td"
include "mlir/IR/AttrTypeBase.td"
include "mlir/IR/EnumAttr.td"
include "mlir/Interfaces/SideEffectInterfaces.td"

// The tile dialect's token, by name: including its ops would define them twice.
def RedMulE_Token : Type<CPred<"::llvm::isa<::td::tile::TokenType>($_self)">, "tile token">,
                    BuildableType<"$_builder.getType<::td::tile::TokenType>()">;

def RedMulE_Dialect : Dialect {
  let name = "redmule";
  let cppNamespace = "::td::redmule";
  let summary = "GEMM jobs on RedMulE";
  let dependentDialects = ["::td::tile::TileDialect"];
}

class RedMulE_Op<string mnemonic, list<Trait> traits = []> : Op<RedMulE_Dialect, mnemonic, traits>;

def RedMulE_GemmOp : RedMulE_Op<"gemm"> {
  let summary = "start Z += X W on RedMulE";
  let description = [{
    X is M x N, W is N x K, Z is M x K and holds Y before: all packed row-major
    tiles in L1, of one element type (f32 or f16), each size at most 65535.
    `sizes` is [M, N, K] for tiles that have these numbers of elements in other
    than two dimensions.
    Each element is accumulated by fused multiply-adds in ascending N, rounded
    once a step. The accelerator has no queue: a job starts only after the wait
    for the job before it.
  }];
  let arguments = (ins AnyStaticShapeMemRef:$x, AnyStaticShapeMemRef:$w, AnyStaticShapeMemRef:$z,
                       OptionalAttr<DenseI64ArrayAttr>:$sizes, I32Attr:$op_index);
  let results = (outs RedMulE_Token:$token);
  let assemblyFormat = [{
    $x `,` $w `,` $z (`sizes` $sizes^)? `operator` $op_index attr-dict `:` type($x) `,` type($w) `,` type($z)
  }];
  let hasVerifier = 1;
  let extraClassDeclaration = [{
    /// M, N and K.
    ::llvm::SmallVector<int64_t, 3> getJobSizes();
  }];
}

def RedMulE_StartOp : RedMulE_Op<"start"> {
  let summary = "program a GEMM job and trigger it";
  let description = [{
    The job's registers: absolute L1 addresses of X (m x n), W (n x k) and
    Z (m x k, read as Y), and the element type.
  }];
  let arguments = (ins I64Attr:$x, I64Attr:$w, I64Attr:$z, I64Attr:$m, I64Attr:$n, I64Attr:$k,
                       TypeAttrOf<AnyTypeOf<[F32, F16]>>:$format, I32Attr:$op_index);
  let assemblyFormat = [{
    `x` $x `w` $w `z` $z `m` $m `n` $n `k` $k `format` $format `operator` $op_index attr-dict
  }];
  let hasVerifier = 1;
}

def RedMulE_WaitOp : RedMulE_Op<"wait"> {
  let summary = "wait for the GEMM job";
  let arguments = (ins I32Attr:$op_index);
  let assemblyFormat = "`operator` $op_index attr-dict";
}

#endif
