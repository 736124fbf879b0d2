// The tile dialect: groups that run again and again.
#ifndef TILE_LOOP
#define TILE_LOOP

include "dialects/Tile/TileOps.td"

def Tile_LoopOp : Tile_Op<"loop", [SingleBlock, NoTerminator, NoRegionArguments, HasParent<"ProgramOp">]> {
  let summary = "groups that run again and again, one run after the other";
  let description = [{
    Its body holds `tile.group`s in execution order. In run i the windows of a
    group's operands lie i times `tile.advance` elements further along the operands'
    first dimension: an attribute of the group with one number per operand, without
    which none moves.
  }];
  let arguments = (ins I64Attr:$runs);
  let regions = (region SizedRegion<1>:$body);
  let assemblyFormat = "$runs attr-dict-with-keyword $body";
  let hasVerifier = 1;
}

#endif
