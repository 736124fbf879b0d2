#include "dialects/Tile/Windows.h"

#include "llvm/Support/MathExtras.h"
#include <limits>
#include <numeric>

using namespace mlir;

namespace td::tile {

/// Adds `scale * expression` to `sum`.
static bool addTo(AffineSum &sum, AffineExpr expression, int64_t scale) {
  if (auto constant = dyn_cast<AffineConstantExpr>(expression)) {
    sum.constant += scale * constant.getValue();
    return true;
  }
  if (auto dim = dyn_cast<AffineDimExpr>(expression)) {
    for (AffineSum::Term &term : sum.terms)
      if (term.dim == dim.getPosition()) {
        term.coefficient += scale;
        return true;
      }
    sum.terms.push_back({dim.getPosition(), scale});
    return true;
  }
  auto binary = dyn_cast<AffineBinaryOpExpr>(expression);
  if (!binary)
    return false;
  if (binary.getKind() == AffineExprKind::Add)
    return addTo(sum, binary.getLHS(), scale) &&
           addTo(sum, binary.getRHS(), scale);
  if (binary.getKind() != AffineExprKind::Mul)
    return false;
  if (auto factor = dyn_cast<AffineConstantExpr>(binary.getRHS()))
    return addTo(sum, binary.getLHS(), scale * factor.getValue());
  if (auto factor = dyn_cast<AffineConstantExpr>(binary.getLHS()))
    return addTo(sum, binary.getRHS(), scale * factor.getValue());
  return false;
}

std::optional<AffineSum> AffineSum::get(AffineExpr expression) {
  AffineSum sum;
  // No array has that many elements, and products stay far from overflow.
  constexpr int64_t most = std::numeric_limits<int32_t>::max();
  if (!addTo(sum, expression, 1) || sum.constant < 0 || sum.constant > most)
    return std::nullopt;
  llvm::erase_if(sum.terms, [](Term term) { return term.coefficient == 0; });
  for (Term term : sum.terms)
    if (term.coefficient < 0 || term.coefficient > most)
      return std::nullopt;
  llvm::sort(sum.terms, [](Term a, Term b) { return a.dim < b.dim; });
  return sum;
}

int64_t AffineSum::at(ArrayRef<int64_t> dims) const {
  int64_t value = constant;
  for (Term term : terms)
    value += term.coefficient * dims[term.dim];
  return value;
}

std::optional<SmallVector<AffineSum>> affineSums(AffineMap map) {
  SmallVector<AffineSum> sums;
  for (AffineExpr result : map.getResults()) {
    std::optional<AffineSum> sum = AffineSum::get(result);
    if (!sum)
      return std::nullopt;
    sums.push_back(std::move(*sum));
  }
  return sums;
}

SmallVector<AffineSum> sumsOf(AffineMap map) {
  std::optional<SmallVector<AffineSum>> sums = affineSums(map);
  assert(sums && "the map's results are sums");
  return std::move(*sums);
}

AffineMap mapOf(ArrayRef<AffineSum> sums, unsigned dims, MLIRContext *context) {
  SmallVector<AffineExpr> results;
  for (const AffineSum &sum : sums) {
    AffineExpr result = getAffineConstantExpr(0, context);
    for (AffineSum::Term term : sum.terms)
      result = result + getAffineDimExpr(term.dim, context) * term.coefficient;
    results.push_back(result + sum.constant);
  }
  return AffineMap::get(dims, 0, results, context);
}

SmallVector<AffineSum::Term, 2> outermostFirst(const AffineSum &sum) {
  SmallVector<AffineSum::Term, 2> terms(sum.terms);
  llvm::stable_sort(terms, [](AffineSum::Term a, AffineSum::Term b) {
    return a.coefficient > b.coefficient;
  });
  return terms;
}

bool isNest(const AffineSum &sum, ArrayRef<int64_t> sizes,
            ArrayRef<int64_t> tiles) {
  if (sum.terms.size() != 2)
    return sum.terms.size() == 1;
  SmallVector<AffineSum::Term, 2> terms = outermostFirst(sum);
  AffineSum::Term outer = terms[0], inner = terms[1];
  return outer.coefficient == inner.coefficient * sizes[inner.dim] &&
         (tiles[outer.dim] == 1 || tiles[inner.dim] == sizes[inner.dim]);
}

AffineMap layoutOf(AffineMap map) {
  SmallVector<AffineSum> sums = sumsOf(map);
  for (AffineSum &sum : sums) {
    sum.constant = 0;
    if (sum.terms.size() == 1)
      sum.terms.front().coefficient = 1;
  }
  return mapOf(sums, map.getNumDims(), map.getContext());
}

TiledOperand::TiledOperand(AffineMap map, ArrayRef<int64_t> tiles)
    : all(sumsOf(map)) {
  setTiles(tiles);
}

void TiledOperand::setTiles(ArrayRef<int64_t> tiles) {
  stepOf.clear();
  for (const AffineSum &sum : all) {
    int64_t step = 0;
    for (AffineSum::Term term : sum.terms)
      if (tiles[term.dim] > 1)
        step = std::gcd(step, term.coefficient);
    stepOf.push_back(std::max<int64_t>(step, 1));
  }
}

SmallVector<int64_t, 4> TiledOperand::shape(ArrayRef<int64_t> extents) const {
  SmallVector<int64_t, 4> sizes;
  for (auto [sum, step] : llvm::zip(all, stepOf)) {
    int64_t last = 0;
    for (AffineSum::Term term : sum.terms)
      last += term.coefficient * (extents[term.dim] - 1);
    sizes.push_back(last / step + 1);
  }
  return sizes;
}

SmallVector<int64_t, 4> TiledOperand::offsets(ArrayRef<int64_t> starts) const {
  SmallVector<int64_t, 4> result;
  for (const AffineSum &sum : all)
    result.push_back(sum.at(starts));
  return result;
}

WindowNest::WindowNest(ArrayRef<int64_t> shape, ArrayRef<int64_t> offsets,
                       ArrayRef<int64_t> sizes, ArrayRef<int64_t> steps,
                       int64_t elementBytes)
    : run(elementBytes) {
  int64_t stride = elementBytes;
  for (int64_t i = (int64_t)shape.size() - 1; i >= 0; --i) {
    begin += offsets[i] * stride;
    if (sizes[i] > 1) {
      int64_t step = stride * steps[i];
      if (nest.empty() && step == run)
        run *= sizes[i];
      else if (!nest.empty() &&
               nest.front().first * nest.front().second == step)
        nest.front().first *= sizes[i];
      else
        nest.insert(nest.begin(), {sizes[i], step});
    }
    stride *= shape[i];
  }
}

int64_t WindowNest::runs() const {
  int64_t count = 1;
  for (auto [trips, stride] : nest)
    count *= trips;
  return count;
}

int64_t WindowNest::commands() const {
  return nest.empty() ? 1 : runs() / nest.back().first;
}

} // namespace td::tile
