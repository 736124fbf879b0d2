// Decomposition of convolution and pooling, channels last. Windows are affine
// sums in indexing maps; borders are written into halo'd arrays.
#include "dialects/Train/Structured.h"

using namespace mlir;
using namespace td::train;

using Values = FailureOr<SmallVector<Value>>;

static Value add(OpBuilder &b, Location l, Value x, Value y) {
  return arith::AddFOp::create(b, l, x, y);
}
static Value mul(OpBuilder &b, Location l, Value x, Value y) {
  return arith::MulFOp::create(b, l, x, y);
}

/// `type` with another shape.
static RankedTensorType withShape(RankedTensorType type,
                                  ArrayRef<int64_t> shape) {
  return RankedTensorType::get(shape, type.getElementType());
}

/// [n, h, w, c] -> an array of height `height` and width `width` filled with
/// `fill` (an integer array: with -1), in which `value` begins at (`top`,
/// `left`); what lies outside is cut off.
static Value withHalo(OpBuilder &builder, Location loc, Value value,
                      int64_t top, int64_t left, int64_t height, int64_t width,
                      double fill) {
  RankedTensorType type = tensorType(value);
  SmallVector<int64_t> begin = {0, 0, 0, 0}, at = {0, 0, 0, 0},
                       ones = {1, 1, 1, 1};
  SmallVector<int64_t> sizes(type.getShape()), whole(type.getShape());
  int64_t starts[] = {top, left}, extents[] = {height, width};
  for (unsigned i : {0, 1}) {
    int64_t from = std::max<int64_t>(0, -starts[i]);
    begin[i + 1] = from;
    at[i + 1] = std::max<int64_t>(0, starts[i]);
    sizes[i + 1] =
        std::min(type.getDimSize(i + 1) - from, extents[i] - at[i + 1]);
    whole[i + 1] = extents[i];
  }
  if (sizes == SmallVector<int64_t>(type.getShape()) && sizes == whole)
    return value;
  Value background;
  if (isa<IntegerType>(type.getElementType())) {
    Value none = arith::ConstantOp::create(
        builder, loc, builder.getIntegerAttr(type.getElementType(), -1));
    Value empty =
        tensor::EmptyOp::create(builder, loc, whole, type.getElementType());
    background = linalg::FillOp::create(builder, loc, ValueRange{none},
                                        ValueRange{empty})
                     .getResult(0);
  } else {
    background = filled(builder, loc, withShape(type, whole), fill);
  }
  if (sizes[1] <= 0 || sizes[2] <= 0)
    return background;
  value = sliced(builder, loc, value, begin, sizes, ones);
  return inserted(builder, loc, value, background, at, ones);
}

/// Rows (and columns) that windows over an axis of `count` results reach.
static int64_t reach(int64_t count, int64_t stride, int64_t taps,
                     int64_t dilation) {
  return (count - 1) * stride + (taps - 1) * dilation + 1;
}

//===----------------------------------------------------------------------===//
// Convolution
//===----------------------------------------------------------------------===//

namespace {
/// The loops of a convolution: n, y, x, [g,] o, i, j, c, without those of size
/// 1 among i and j. Each of the three arrays, with its channels split in groups
/// where there are several, is addressed by a map.
struct ConvolutionLoops {
  ConvolutionLoops(MLIRContext *context, int64_t kernelHeight,
                   int64_t kernelWidth, int64_t groups, int64_t groupInputs,
                   int64_t groupOutputs, int64_t strideY, int64_t strideX,
                   int64_t dilationY, int64_t dilationX) {
    unsigned count = 0;
    auto loop = [&](bool present) {
      return present ? getAffineDimExpr(count++, context)
                     : getAffineConstantExpr(0, context);
    };
    bool grouped = groups > 1;
    // A depthwise convolution has one channel in and out of each group.
    bool wideInput = !grouped || groupInputs > 1,
         wideOutput = !grouped || groupOutputs > 1;
    AffineExpr n = loop(true), y = loop(true), x = loop(true),
               g = loop(grouped), o = loop(wideOutput),
               i = loop(kernelHeight > 1), j = loop(kernelWidth > 1),
               c = loop(wideInput);
    loops = count;
    auto channels = [&](SmallVectorImpl<AffineExpr> &dims, AffineExpr channel,
                        bool wide) {
      if (grouped)
        dims.push_back(g);
      if (wide)
        dims.push_back(channel);
    };
    SmallVector<AffineExpr> in = {n, y * strideY + i * dilationY,
                                  x * strideX + j * dilationX};
    channels(in, c, wideInput);
    SmallVector<AffineExpr> out = {n, y, x};
    channels(out, o, wideOutput);
    SmallVector<AffineExpr> taps;
    if (kernelHeight > 1)
      taps.push_back(i);
    if (kernelWidth > 1)
      taps.push_back(j);
    if (wideInput)
      taps.push_back(c);
    channels(taps, o, wideOutput);
    input = AffineMap::get(loops, 0, in, context);
    output = AffineMap::get(loops, 0, out, context);
    filter = AffineMap::get(loops, 0, taps, context);
    inputChannels = channelShape(groups, groupInputs, grouped, wideInput);
    outputChannels = channelShape(groups, groupOutputs, grouped, wideOutput);
    if (kernelHeight > 1)
      filterShape.push_back(kernelHeight);
    if (kernelWidth > 1)
      filterShape.push_back(kernelWidth);
    if (wideInput)
      filterShape.push_back(groupInputs);
    turnedFilterShape = filterShape;
    if (wideInput)
      turnedFilterShape.pop_back();
    filterShape.append(outputChannels);
    // The same filter in the gradient, where outputs are inputs.
    SmallVector<AffineExpr> turned;
    if (kernelHeight > 1)
      turned.push_back(i);
    if (kernelWidth > 1)
      turned.push_back(j);
    if (wideOutput) {
      turned.push_back(o);
      turnedFilterShape.push_back(groupOutputs);
    }
    channels(turned, c, wideInput);
    turnedFilterShape.append(inputChannels);
    turnedFilter = AffineMap::get(loops, 0, turned, context);
  }

  static SmallVector<int64_t> channelShape(int64_t groups, int64_t channels,
                                           bool grouped, bool wide) {
    SmallVector<int64_t> shape;
    if (grouped)
      shape.push_back(groups);
    if (wide)
      shape.push_back(channels);
    return shape;
  }

  /// Which loops the result's map does not have.
  SmallVector<bool> reductions(AffineMap result) const {
    SmallVector<bool> reduced(loops, true);
    for (AffineExpr dim : result.getResults())
      reduced[cast<AffineDimExpr>(dim).getPosition()] = false;
    return reduced;
  }

  unsigned loops;
  AffineMap input, filter, output, turnedFilter;
  SmallVector<int64_t> inputChannels, outputChannels, filterShape,
      turnedFilterShape;
};
} // namespace

/// An activation with its channels split as `channels` says.
static Value withChannels(OpBuilder &builder, Location loc, Value value,
                          ArrayRef<int64_t> channels) {
  SmallVector<int64_t> shape(tensorType(value).getShape().take_front(3));
  shape.append(channels.begin(), channels.end());
  return reshapeTo(builder, loc, value, shape);
}

/// Sum of products of `x` and `y` from zero.
static Value contraction(OpBuilder &builder, Location loc, Value x,
                         AffineMap xMap, Value y, AffineMap yMap,
                         ArrayRef<int64_t> shape, AffineMap resultMap,
                         ArrayRef<bool> reductions) {
  Value zero = filled(builder, loc, withShape(tensorType(x), shape), 0.0);
  return structured(builder, loc, {x, y}, zero, {xMap, yMap, resultMap},
                    reductions, [](OpBuilder &b, Location l, ValueRange v) {
                      return SmallVector<Value>{
                          add(b, l, v[2], mul(b, l, v[0], v[1]))};
                    })[0];
}

Values Conv2DOp::decomposeOperation(OpBuilder &builder) {
  Location loc = getLoc();
  RankedTensorType type = getType();
  ArrayRef<int64_t> filter = getFilter().getType().getShape();
  ArrayRef<int64_t> strides = getStrides(), dilations = getDilations(),
                    padding = getPadding();
  int64_t groups = getGroups(), outputs = type.getDimSize(3) / groups;
  ConvolutionLoops loops(getContext(), filter[0], filter[1], groups, filter[2],
                         outputs, strides[0], strides[1], dilations[0],
                         dilations[1]);
  // The halo, as far as windows reach.
  Value input = withHalo(
      builder, loc, getInput(), padding[0], padding[2],
      reach(type.getDimSize(1), strides[0], filter[0], dilations[0]),
      reach(type.getDimSize(2), strides[1], filter[1], dilations[1]), 0.0);
  SmallVector<int64_t> shape(type.getShape().take_front(3));
  shape.append(loops.outputChannels);
  Value result = contraction(
      builder, loc, withChannels(builder, loc, input, loops.inputChannels),
      loops.input, reshapeTo(builder, loc, getFilter(), loops.filterShape),
      loops.filter, shape, loops.output, loops.reductions(loops.output));
  return SmallVector<Value>{reshapeTo(builder, loc, result, type.getShape())};
}

Values Conv2DFilterVJPOp::decomposeOperation(OpBuilder &builder) {
  Location loc = getLoc();
  RankedTensorType type = cast<RankedTensorType>(getResult().getType());
  RankedTensorType output = getCotangent().getType();
  ArrayRef<int64_t> filter = type.getShape();
  ArrayRef<int64_t> strides = getStrides(), dilations = getDilations(),
                    padding = getPadding();
  int64_t groups = getGroups();
  ConvolutionLoops loops(getContext(), filter[0], filter[1], groups, filter[2],
                         output.getDimSize(3) / groups, strides[0], strides[1],
                         dilations[0], dilations[1]);
  Value input = withHalo(
      builder, loc, getInput(), padding[0], padding[2],
      reach(output.getDimSize(1), strides[0], filter[0], dilations[0]),
      reach(output.getDimSize(2), strides[1], filter[1], dilations[1]), 0.0);
  Value result = contraction(
      builder, loc, withChannels(builder, loc, input, loops.inputChannels),
      loops.input,
      withChannels(builder, loc, getCotangent(), loops.outputChannels),
      loops.output, loops.filterShape, loops.filter,
      loops.reductions(loops.filter));
  return SmallVector<Value>{reshapeTo(builder, loc, result, type.getShape())};
}

//===----------------------------------------------------------------------===//
// Windows read backwards
//===----------------------------------------------------------------------===//

namespace {
/// Of one axis, the positions p of a window's input with p + begin = residue
/// modulo the stride. Taps k = first + t * step (t < count) reach them. The
/// result's index is quotient(p) - offset - t * dilation: with the taps in
/// reverse order, an affine sum with positive coefficients.
struct Phase {
  int64_t start; // the first such position
  int64_t size;  // how many there are
  int64_t first, step, count;
  int64_t low;      // result index of the first position's last tap
  int64_t dilation; // between the result indices of neighbouring taps

  /// The tap that is read as number `t`.
  int64_t tap(int64_t t) const { return first + (count - 1 - t) * step; }
};
} // namespace

/// The phases of an axis of `size` positions behind `begin` rows of halo.
static SmallVector<Phase> phasesOf(int64_t size, int64_t begin, int64_t stride,
                                   int64_t taps, int64_t dilation) {
  SmallVector<Phase> phases;
  for (int64_t start = 0; start < std::min(stride, size); ++start) {
    Phase phase = {start, (size - start + stride - 1) / stride, 0, 1, 0, 0, 1};
    int64_t last = 0;
    for (int64_t tap = 0; tap < taps; ++tap) {
      if ((start + begin - tap * dilation) % stride)
        continue;
      if (phase.count == 0)
        phase.first = tap;
      else if (phase.count == 1)
        phase.step = tap - phase.first;
      ++phase.count;
      last = tap;
    }
    phase.dilation = phase.step * dilation / stride;
    if (phase.count < 2)
      phase.dilation = 1;
    phase.low = (start + begin - last * dilation) / stride;
    phases.push_back(phase);
  }
  return phases;
}

/// The part of `value` [n, oh, ow, ...] that a pair of phases reads, from the
/// first position's last tap on.
static Value readByPhases(OpBuilder &builder, Location loc, Value value,
                          const Phase &y, const Phase &x, double fill) {
  return withHalo(builder, loc, value, -y.low, -x.low,
                  reach(y.size, 1, y.count, y.dilation),
                  reach(x.size, 1, x.count, x.dilation), fill);
}

/// Puts the phases of a result together: `part` makes that of each pair.
static Value byPhases(
    OpBuilder &builder, Location loc, RankedTensorType type,
    ArrayRef<Phase> rows, ArrayRef<Phase> columns, ArrayRef<int64_t> strides,
    llvm::function_ref<Value(const Phase &, const Phase &, ArrayRef<int64_t>)>
        part) {
  Value result;
  for (const Phase &y : rows)
    for (const Phase &x : columns) {
      if (y.count == 0 || x.count == 0)
        continue; // no window reaches these: zero
      int64_t shape[] = {type.getDimSize(0), y.size, x.size,
                         type.getDimSize(3)};
      Value value = part(y, x, shape);
      if (ArrayRef<int64_t>(shape) == type.getShape())
        return value;
      if (!result)
        result = filled(builder, loc, type, 0.0);
      result = inserted(builder, loc, value, result, {0, y.start, x.start, 0},
                        {1, strides[0], strides[1], 1});
    }
  return result ? result : filled(builder, loc, type, 0.0);
}

/// The taps of a filter that a pair of phases reads, in their order.
static Value tapsOf(OpBuilder &builder, Location loc, Value filter,
                    const Phase &y, const Phase &x) {
  RankedTensorType type = tensorType(filter);
  SmallVector<int64_t> shape(type.getShape()), one(type.getShape());
  SmallVector<int64_t> ones(4, 1);
  shape[0] = y.count;
  shape[1] = x.count;
  one[0] = one[1] = 1;
  if (y.count == 1 && x.count == 1)
    return sliced(builder, loc, filter, {y.first, x.first, 0, 0}, shape, ones);
  Value result =
      tensor::EmptyOp::create(builder, loc, shape, type.getElementType());
  for (int64_t i = 0; i < y.count; ++i)
    for (int64_t j = 0; j < x.count; ++j) {
      Value tap =
          sliced(builder, loc, filter, {y.tap(i), x.tap(j), 0, 0}, one, ones);
      result = inserted(builder, loc, tap, result, {i, j, 0, 0}, ones);
    }
  return result;
}

Values Conv2DInputVJPOp::decomposeOperation(OpBuilder &builder) {
  Location loc = getLoc();
  RankedTensorType type = getType();
  ArrayRef<int64_t> filter = getFilter().getType().getShape();
  ArrayRef<int64_t> strides = getStrides(), dilations = getDilations(),
                    padding = getPadding();
  int64_t groups = getGroups();
  int64_t outputs = getCotangent().getType().getDimSize(3) / groups;
  auto rows = phasesOf(type.getDimSize(1), padding[0], strides[0], filter[0],
                       dilations[0]);
  auto columns = phasesOf(type.getDimSize(2), padding[2], strides[1], filter[1],
                          dilations[1]);
  return SmallVector<Value>{byPhases(
      builder, loc, type, rows, columns, strides,
      [&](const Phase &y, const Phase &x, ArrayRef<int64_t> shape) {
        // As a convolution of the cotangent: its inputs are the outputs.
        ConvolutionLoops loops(getContext(), y.count, x.count, groups, outputs,
                               filter[2], 1, 1, y.dilation, x.dilation);
        Value cotangent = readByPhases(builder, loc, getCotangent(), y, x, 0.0);
        SmallVector<int64_t> split(shape.take_front(3));
        split.append(loops.outputChannels);
        Value taps =
            reshapeTo(builder, loc, tapsOf(builder, loc, getFilter(), y, x),
                      loops.turnedFilterShape);
        Value result = contraction(
            builder, loc,
            withChannels(builder, loc, cotangent, loops.inputChannels),
            loops.input, taps, loops.turnedFilter, split, loops.output,
            loops.reductions(loops.output));
        return reshapeTo(builder, loc, result, shape);
      })};
}

//===----------------------------------------------------------------------===//
// Pooling
//===----------------------------------------------------------------------===//

namespace {
/// The loops n, y, x, c, i, j of a pooling, and the operand that gives i and j
/// their sizes.
struct PoolingLoops {
  PoolingLoops(OpBuilder &builder, Location loc, Type element, int64_t height,
               int64_t width, int64_t strideY, int64_t strideX,
               int64_t dilationY, int64_t dilationX) {
    MLIRContext *context = builder.getContext();
    AffineExpr n, y, x, c, i, j;
    bindDims(context, n, y, x, c, i, j);
    input = AffineMap::get(
        6, 0, {n, y * strideY + i * dilationY, x * strideX + j * dilationX, c},
        context);
    output = AffineMap::get(6, 0, {n, y, x, c}, context);
    window = AffineMap::get(6, 0, {i, j}, context);
    shape = tensor::EmptyOp::create(builder, loc,
                                    ArrayRef<int64_t>{height, width}, element);
  }
  AffineMap input, output, window;
  Value shape;
  SmallVector<bool> reductions = {false, false, false, false, true, true};
};
} // namespace

Values MaxPool2DOp::decomposeOperation(OpBuilder &builder) {
  Location loc = getLoc();
  RankedTensorType type = getResult().getType();
  Type element = type.getElementType(),
       tap = getTaps().getType().getElementType();
  ArrayRef<int64_t> kernel = getKernel(), strides = getStrides(),
                    padding = getPadding(), dilations = getDilations();
  double lowest = -std::numeric_limits<double>::infinity();
  Value input = withHalo(
      builder, loc, getInput(), padding[0], padding[2],
      reach(type.getDimSize(1), strides[0], kernel[0], dilations[0]),
      reach(type.getDimSize(2), strides[1], kernel[1], dilations[1]), lowest);
  PoolingLoops loops(builder, loc, element, kernel[0], kernel[1], strides[0],
                     strides[1], dilations[0], dilations[1]);
  Value start = filled(builder, loc, type, lowest);
  if (getTaps().use_empty()) {
    Value result =
        structured(builder, loc, {input, loops.shape}, start,
                   {loops.input, loops.window, loops.output}, loops.reductions,
                   [](OpBuilder &b, Location l, ValueRange v) {
                     return SmallVector<Value>{
                         arith::MaximumFOp::create(b, l, v[2], v[0])};
                   })[0];
    return SmallVector<Value>{result, Value()};
  }
  Value zero =
      arith::ConstantOp::create(builder, loc, builder.getIntegerAttr(tap, 0));
  Value empty = tensor::EmptyOp::create(builder, loc, type.getShape(), tap);
  Value noTap =
      linalg::FillOp::create(builder, loc, ValueRange{zero}, ValueRange{empty})
          .getResult(0);
  return structured(
      builder, loc, {input, loops.shape}, {start, noTap},
      {loops.input, loops.window, loops.output, loops.output}, loops.reductions,
      [&](OpBuilder &b, Location l, ValueRange v) {
        // A NaN takes the place of what was there, and stays until the next
        // one.
        Value larger =
            arith::CmpFOp::create(b, l, arith::CmpFPredicate::OGT, v[0], v[2]);
        Value isNaN =
            arith::CmpFOp::create(b, l, arith::CmpFPredicate::UNO, v[0], v[0]);
        Value wins = arith::OrIOp::create(b, l, larger, isNaN);
        Value number =
            arith::ConstantOp::create(b, l, b.getIntegerAttr(tap, kernel[1]));
        Value row = arith::IndexCastOp::create(
            b, l, tap, linalg::IndexOp::create(b, l, 4));
        Value column = arith::IndexCastOp::create(
            b, l, tap, linalg::IndexOp::create(b, l, 5));
        Value position = arith::AddIOp::create(
            b, l, arith::MulIOp::create(b, l, row, number), column);
        return SmallVector<Value>{
            arith::SelectOp::create(b, l, wins, v[0], v[2]),
            arith::SelectOp::create(b, l, wins, position, v[3])};
      });
}

/// The tap that loop `position` of a body stands for in a phase.
static Value tapInBody(OpBuilder &b, Location l, Type type, unsigned position,
                       const Phase &phase) {
  auto constant = [&](int64_t value) {
    return arith::ConstantOp::create(b, l, b.getIntegerAttr(type, value))
        .getResult();
  };
  if (phase.count == 1)
    return constant(phase.first);
  Value index = arith::IndexCastOp::create(
      b, l, type, linalg::IndexOp::create(b, l, position));
  Value back = arith::MulIOp::create(b, l, index, constant(phase.step));
  return arith::SubIOp::create(b, l, constant(phase.tap(0)), back);
}

Values MaxPool2DVJPOp::decomposeOperation(OpBuilder &builder) {
  Location loc = getLoc();
  RankedTensorType type = cast<RankedTensorType>(getResult().getType());
  Type element = type.getElementType(),
       tap = getTaps().getType().getElementType();
  ArrayRef<int64_t> kernel = getKernel(), strides = getStrides(),
                    padding = getPadding(), dilations = getDilations();
  auto rows = phasesOf(type.getDimSize(1), padding[0], strides[0], kernel[0],
                       dilations[0]);
  auto columns = phasesOf(type.getDimSize(2), padding[2], strides[1], kernel[1],
                          dilations[1]);
  return SmallVector<Value>{byPhases(
      builder, loc, type, rows, columns, strides,
      [&](const Phase &y, const Phase &x, ArrayRef<int64_t> shape) {
        Value taps = readByPhases(builder, loc, getTaps(), y, x, 0.0);
        Value cotangent = readByPhases(builder, loc, getCotangent(), y, x, 0.0);
        PoolingLoops loops(builder, loc, element, y.count, x.count, 1, 1,
                           y.dilation, x.dilation);
        Value zero = filled(builder, loc, withShape(type, shape), 0.0);
        return structured(
            builder, loc, {taps, cotangent, loops.shape}, zero,
            {loops.input, loops.input, loops.window, loops.output},
            loops.reductions, [&](OpBuilder &b, Location l, ValueRange v) {
              Value width = arith::ConstantOp::create(
                  b, l, b.getIntegerAttr(tap, kernel[1]));
              Value position = arith::AddIOp::create(
                  b, l,
                  arith::MulIOp::create(b, l, tapInBody(b, l, tap, 4, y),
                                        width),
                  tapInBody(b, l, tap, 5, x));
              Value won = arith::CmpIOp::create(b, l, arith::CmpIPredicate::eq,
                                                v[0], position);
              Value part = arith::SelectOp::create(b, l, won, v[1],
                                                   scalar(b, l, element, 0.0));
              return SmallVector<Value>{add(b, l, v[3], part)};
            })[0];
      })};
}

/// `value` [n, oh, ow, c] divided by the number of elements in each window.
static Value averaged(OpBuilder &builder, Location loc, Value value,
                      ArrayRef<int64_t> inputShape, ArrayRef<int64_t> kernel,
                      ArrayRef<int64_t> strides, ArrayRef<int64_t> padding,
                      bool excludePadding) {
  RankedTensorType type = tensorType(value);
  Type element = type.getElementType();
  return elementwise(
      builder, loc, type, {value},
      [&](OpBuilder &b, Location l, ValueRange v) -> Value {
        if (!excludePadding)
          return mul(b, l, v[0],
                     scalar(b, l, element,
                            1.0 / static_cast<double>(kernel[0] * kernel[1])));
        Value count;
        for (unsigned axis : {0, 1}) {
          // min(begin + kernel, size) - max(begin, 0), begin = index * stride -
          // padding.
          auto constant = [&](int64_t number) {
            return arith::ConstantIndexOp::create(b, l, number).getResult();
          };
          Value begin = arith::SubIOp::create(
              b, l,
              arith::MulIOp::create(b, l,
                                    linalg::IndexOp::create(b, l, axis + 1),
                                    constant(strides[axis])),
              constant(padding[2 * axis]));
          Value end = arith::MinSIOp::create(
              b, l, arith::AddIOp::create(b, l, begin, constant(kernel[axis])),
              constant(inputShape[axis + 1]));
          Value extent = arith::SubIOp::create(
              b, l, end, arith::MaxSIOp::create(b, l, begin, constant(0)));
          count = count ? arith::MulIOp::create(b, l, count, extent).getResult()
                        : extent;
        }
        Value number = arith::SIToFPOp::create(
            b, l, element,
            arith::IndexCastOp::create(b, l, b.getI32Type(), count));
        return arith::DivFOp::create(b, l, v[0], number);
      });
}

Values AvgPool2DOp::decomposeOperation(OpBuilder &builder) {
  Location loc = getLoc();
  RankedTensorType type = getType();
  ArrayRef<int64_t> kernel = getKernel(), strides = getStrides(),
                    padding = getPadding();
  Value input =
      withHalo(builder, loc, getInput(), padding[0], padding[2],
               reach(type.getDimSize(1), strides[0], kernel[0], 1),
               reach(type.getDimSize(2), strides[1], kernel[1], 1), 0.0);
  PoolingLoops loops(builder, loc, type.getElementType(), kernel[0], kernel[1],
                     strides[0], strides[1], 1, 1);
  Value zero = filled(builder, loc, type, 0.0);
  Value sum =
      structured(builder, loc, {input, loops.shape}, zero,
                 {loops.input, loops.window, loops.output}, loops.reductions,
                 [](OpBuilder &b, Location l, ValueRange v) {
                   return SmallVector<Value>{add(b, l, v[2], v[0])};
                 })[0];
  return SmallVector<Value>{averaged(builder, loc, sum,
                                     getInput().getType().getShape(), kernel,
                                     strides, padding, getExcludePadding())};
}

Values AvgPool2DVJPOp::decomposeOperation(OpBuilder &builder) {
  Location loc = getLoc();
  RankedTensorType type = cast<RankedTensorType>(getResult().getType());
  ArrayRef<int64_t> kernel = getKernel(), strides = getStrides(),
                    padding = getPadding();
  Value shares = averaged(builder, loc, getCotangent(), type.getShape(), kernel,
                          strides, padding, getExcludePadding());
  auto rows =
      phasesOf(type.getDimSize(1), padding[0], strides[0], kernel[0], 1);
  auto columns =
      phasesOf(type.getDimSize(2), padding[2], strides[1], kernel[1], 1);
  return SmallVector<Value>{byPhases(
      builder, loc, type, rows, columns, strides,
      [&](const Phase &y, const Phase &x, ArrayRef<int64_t> shape) {
        Value part = readByPhases(builder, loc, shares, y, x, 0.0);
        PoolingLoops loops(builder, loc, type.getElementType(), y.count,
                           x.count, 1, 1, y.dilation, x.dilation);
        Value zero = filled(builder, loc, withShape(type, shape), 0.0);
        return structured(builder, loc, {part, loops.shape}, zero,
                          {loops.input, loops.window, loops.output},
                          loops.reductions,
                          [](OpBuilder &b, Location l, ValueRange v) {
                            return SmallVector<Value>{add(b, l, v[2], v[0])};
                          })[0];
      })};
}
