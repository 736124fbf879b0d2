// The train dialect: loops over time.
#ifndef TRAIN_RECURRENCE
#define TRAIN_RECURRENCE

include "dialects/Train/TrainOps.td"

def Train_RecurrenceOp
    : Train_Op<"recurrence", [Pure, IsolatedFromAbove, AttrSizedOperandSegments,
                              SingleBlockImplicitTerminator<"NextOp">,
                              DeclareOpInterfaceMethods<DifferentiableOpInterface>]> {
  let summary = "one step after the other over time, with states that each hands to the next";
  let description = [{
    The body computes step t, for t from 0 to `steps` - 1, or from the last to
    the first with `reverse`. Its arguments are, of each of `inputs`
    [times, ...], the part [starts[i] + t], then the states, which begin as
    `initials`, then what all steps share (weights). `train.recurrence_next` gives the states
    after the step, then the step's outputs.

    Results are stacks over time: of each state [steps + 1, ...], the initial
    value with it (index t is the state before step t, t + 1 the one after it; with
    `reverse` the other way round, and the initial value is the last), then of each
    output [steps, ...].

    The gradient is a recurrence that runs the other way, on values that this one
    keeps as outputs. What steps share has a gradient as weight or bias of
    `train.linear`: one product over all steps, outside of the loop.
  }];
  let arguments = (ins I64Attr:$steps, DenseI64ArrayAttr:$starts, UnitAttr:$reverse,
                       Variadic<Train_Tensor>:$inputs, Variadic<Train_Tensor>:$initials,
                       Variadic<Train_Tensor>:$shared);
  let results = (outs Variadic<Train_Tensor>:$results);
  let regions = (region SizedRegion<1>:$body);
  let assemblyFormat = [{
    $steps (`reverse` $reverse^)? (`over` `(` $inputs^ `:` type($inputs) `)`)? `at` $starts
    (`from` `(` $initials^ `:` type($initials) `)`)? (`with` `(` $shared^ `:` type($shared) `)`)?
    `->` type($results) attr-dict-with-keyword $body
  }];
  let hasVerifier = 1;
  let hasRegionVerifier = 1;
}

def Train_NextOp : Train_Op<"recurrence_next", [Pure, Terminator, HasParent<"RecurrenceOp">]> {
  let summary = "what a step of a recurrence hands to the next one, and its outputs";
  let arguments = (ins Variadic<Train_Tensor>:$values);
  let assemblyFormat = "($values^ `:` type($values))? attr-dict";
  let builders = [OpBuilder<(ins), [{ (void)$_builder; (void)$_state; }]>];
}

#endif
