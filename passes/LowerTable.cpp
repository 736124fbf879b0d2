// Makes the job records of a program a constant table for the executor, and
// describes the program to the runtime and to tools.
#include "lib/Runtime/Layout.h"
#include "passes/Passes.h"

#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/IR/BuiltinAttributes.h"
#include "llvm/ADT/MapVector.h"
#include "llvm/Support/JSON.h"

namespace td {
#define GEN_PASS_DEF_LOWERTABLE
#include "passes/Passes.h.inc"
} // namespace td

using namespace mlir;
using td::tile::Level;
using td::tile::Role;

namespace {

/// A record as the executor reads it. `kernel` is what word 1 of a CALL names.
struct Record {
  SmallVector<uint32_t, 8> words;
  StringAttr kernel;
};

/// Records that run `runs` times; `increments` are added to the words of the
/// body (offset from its first word) between two runs.
struct Item {
  ArrayRef<Record> body;
  int64_t runs = 1;
  SmallVector<std::pair<uint32_t, uint32_t>> increments;

  int64_t bodyWords() const {
    int64_t words = 0;
    for (const Record &record : body)
      words += record.words.size();
    return words;
  }
  int64_t loopWords() const { return runs > 1 ? 3 + 2 * increments.size() : 0; }
};

uint32_t header(uint32_t kind, size_t words, uint32_t opIndex) {
  return kind | words << 8 | opIndex << 16;
}

class Encoder {
public:
  explicit Encoder(const td::Target &target) : target(target) {}
  LogicalResult encode(td::tile::ProgramOp program);
  std::vector<Record> records;

private:
  Record &append(uint32_t kind, uint32_t opIndex, ArrayRef<int64_t> words) {
    Record &record = records.emplace_back();
    record.words.push_back(header(kind, words.size() + 1, opIndex));
    record.words.append(words.begin(), words.end());
    return record;
  }
  FailureOr<int64_t> arithmetic(td::redmule::StartOp op);
  const td::Target &target;
};

FailureOr<int64_t> Encoder::arithmetic(td::redmule::StartOp op) {
  StringRef format = op.getFormat().isF16() ? "fp16" : "fp32";
  auto section =
      dyn_cast_or_null<DictionaryAttr>(target.dictionary().get("redmule"));
  auto formats = section ? dyn_cast_or_null<ArrayAttr>(section.get("formats"))
                         : ArrayAttr();
  if (!formats ||
      !llvm::is_contained(formats, StringAttr::get(op.getContext(), format)))
    return op.emitOpError("needs a RedMulE that computes in ")
           << format << ", and target '" << target.name() << "' has none";
  return target.integer("redmule", ("code_" + format).str());
}

LogicalResult Encoder::encode(td::tile::ProgramOp program) {
  for (Operation &op : program.getBody().front()) {
    if (isa<td::tile::BufferOp, td::tile::OperatorOp>(op))
      continue;
    if (auto dma = dyn_cast<td::pulp::DmaStartOp>(op)) {
      int64_t command = dma.getBytes() | (dma.getLoad() ? TD_DMA_TO_L1 : 0) |
                        TD_DMA_INCREMENT | TD_DMA_EVENT |
                        (dma.getLine() ? TD_DMA_2D : 0);
      SmallVector<uint32_t> words = {(uint32_t)command, (uint32_t)dma.getL1(),
                                     (uint32_t)dma.getL2()};
      if (dma.getLine())
        words.append({(uint32_t)*dma.getLine(), (uint32_t)*dma.getStride()});
      Record &record = dma.getContinued() ? records.back()
                                          : append(TD_JOB_DMA, dma.getOpIndex(),
                                                   {dma.getSlot()});
      record.words.append(words);
      if (record.words.size() > TD_MAX_RECORD_WORDS)
        return op.emitOpError("continues more commands than a record holds");
      record.words[0] =
          header(TD_JOB_DMA, record.words.size(), record.words[0] >> 16);
    } else if (auto wait = dyn_cast<td::pulp::DmaWaitOp>(op)) {
      append(TD_JOB_DMA_WAIT, wait.getOpIndex(), {wait.getSlot()});
    } else if (auto gemm = dyn_cast<td::redmule::StartOp>(op)) {
      FailureOr<int64_t> code = arithmetic(gemm);
      if (failed(code))
        return failure();
      append(TD_JOB_GEMM, gemm.getOpIndex(),
             {int64_t(gemm.getX()), int64_t(gemm.getW()), int64_t(gemm.getZ()),
              int64_t(gemm.getK() << 16 | gemm.getM()), int64_t(gemm.getN()),
              *code});
    } else if (auto wait = dyn_cast<td::redmule::WaitOp>(op)) {
      append(TD_JOB_GEMM_WAIT, wait.getOpIndex(), {});
    } else if (auto hyper = dyn_cast<td::pulp::HyperStartOp>(op)) {
      append(TD_JOB_L3, hyper.getOpIndex(),
             {hyper.getSlot(), !hyper.getLoad(), int64_t(hyper.getL3()),
              int64_t(hyper.getL2()), int64_t(hyper.getBytes()),
              int64_t(hyper.getLine().value_or(0)),
              int64_t(hyper.getStride().value_or(0))});
    } else if (auto wait = dyn_cast<td::pulp::HyperWaitOp>(op)) {
      append(TD_JOB_L3_WAIT, wait.getOpIndex(), {wait.getSlot()});
    } else if (auto call = dyn_cast<td::pulp::CallOp>(op)) {
      SmallVector<int64_t> words = {0};
      llvm::append_range(words, call.getArgs());
      append(TD_JOB_CALL, call.getOpIndex(), words).kernel =
          call.getKernelAttr().getAttr();
    } else if (auto barrier = dyn_cast<td::pulp::BarrierOp>(op)) {
      append(TD_JOB_BARRIER, barrier.getOpIndex(), {});
    } else {
      return op.emitOpError("is no job record; td-lower-jobs makes them");
    }
  }
  return success();
}

constexpr int64_t chunkRoom =
    TD_CHUNK_WORDS - TD_CHUNK_HEADER_WORDS - TD_NEXT_WORDS;

/// Whether `b` is `a` but for words that a loop can increment.
bool sameButWords(const Record &a, const Record &b) {
  return a.words[0] == b.words[0] && a.kernel == b.kernel &&
         a.words.size() == b.words.size();
}

/// The longest loop with a body of `period` records that `records` begins with.
Item findLoop(ArrayRef<Record> records, size_t period) {
  Item loop;
  loop.body = records.take_front(period);
  if (records.size() < 2 * period)
    return loop;
  SmallVector<uint32_t> deltas;
  for (size_t i = 0; i < period; ++i) {
    const Record &a = records[i], &b = records[period + i];
    if (!sameButWords(a, b))
      return loop;
    for (auto [x, y] : llvm::zip(a.words, b.words)) {
      if (x != y)
        loop.increments.push_back({(uint32_t)deltas.size(), y - x});
      deltas.push_back(y - x);
    }
  }
  for (loop.runs = 2; (size_t)(loop.runs + 1) * period <= records.size();
       ++loop.runs) {
    size_t word = 0;
    for (size_t i = 0; i < period; ++i) {
      const Record &a = records[(loop.runs - 1) * period + i],
                   &b = records[loop.runs * period + i];
      if (!sameButWords(a, b))
        return loop;
      for (auto [x, y] : llvm::zip(a.words, b.words))
        if (y - x != deltas[word++])
          return loop;
    }
  }
  return loop;
}

/// Covers the records with loops where that saves words.
std::vector<Item> rollRecords(ArrayRef<Record> records) {
  constexpr size_t maxPeriod = 96;
  std::vector<Item> items;
  while (!records.empty()) {
    Item best;
    int64_t saved = 0;
    for (size_t period = 1; period <= maxPeriod && 2 * period <= records.size();
         ++period) {
      if (!sameButWords(records[0], records[period]))
        continue;
      Item loop = findLoop(records, period);
      int64_t body = loop.bodyWords();
      if (body > chunkRoom)
        break;
      if (loop.runs > 1 && body + loop.loopWords() <= chunkRoom &&
          (loop.runs - 1) * body - loop.loopWords() > saved) {
        saved = (loop.runs - 1) * body - loop.loopWords();
        best = loop;
      }
    }
    if (saved == 0)
      best.body = records.take_front(1);
    records = records.drop_front(best.body.size() * best.runs);
    items.push_back(std::move(best));
  }
  return items;
}

/// A chunk: words, of which some are the addresses of kernels.
struct Chunk {
  SmallVector<uint32_t> words;
  SmallVector<std::pair<size_t, StringAttr>> kernels;
};

std::vector<Chunk> packChunks(ArrayRef<Item> items) {
  std::vector<Chunk> chunks(1);
  chunks.back().words.assign(TD_CHUNK_HEADER_WORDS, 0);
  uint32_t lastOperator = 0;
  for (const Item &item : items) {
    int64_t used = chunks.back().words.size() - TD_CHUNK_HEADER_WORDS;
    if (used + item.bodyWords() + item.loopWords() > chunkRoom) {
      chunks.back().words.push_back(
          header(TD_JOB_NEXT, TD_NEXT_WORDS, lastOperator));
      chunks.emplace_back().words.assign(TD_CHUNK_HEADER_WORDS, 0);
    }
    Chunk &chunk = chunks.back();
    uint32_t start = chunk.words.size();
    for (const Record &record : item.body) {
      if (record.kernel)
        chunk.kernels.push_back({chunk.words.size() + 1, record.kernel});
      chunk.words.append(record.words);
    }
    lastOperator = item.body.back().words[0] >> 16;
    if (item.runs > 1) {
      chunk.words.append({header(TD_JOB_LOOP, item.loopWords(), lastOperator),
                          start, uint32_t(item.runs - 1)});
      for (auto [offset, increment] : item.increments)
        chunk.words.append({start + offset, increment});
    }
  }
  chunks.back().words.push_back(header(TD_JOB_END, 1, lastOperator));
  return chunks;
}

/// Builds a constant struct of words, addresses of symbols and bytes.
class StructBuilder {
public:
  StructBuilder(OpBuilder &builder, Location loc)
      : builder(builder), loc(loc) {}

  void words(ArrayRef<uint32_t> values) {
    pending.append(values.begin(), values.end());
  }
  void address(StringRef symbol) {
    flush();
    fields.push_back(FlatSymbolRefAttr::get(builder.getContext(), symbol));
    types.push_back(pointerType());
  }

  LLVM::GlobalOp build(StringRef name, LLVM::Linkage linkage) {
    flush();
    auto type = LLVM::LLVMStructType::getLiteral(builder.getContext(), types);
    auto global = LLVM::GlobalOp::create(
        builder, loc, type, /*isConstant=*/true, linkage, name, Attribute(),
        /*alignment=*/4);
    OpBuilder::InsertionGuard guard(builder);
    builder.createBlock(&global.getInitializerRegion());
    Value value = LLVM::UndefOp::create(builder, loc, type);
    for (auto [i, field] : llvm::enumerate(fields)) {
      Value part;
      if (auto symbol = dyn_cast<FlatSymbolRefAttr>(field))
        part = LLVM::AddressOfOp::create(builder, loc, pointerType(),
                                         symbol.getValue());
      else
        part = LLVM::ConstantOp::create(builder, loc, types[i], field);
      value = LLVM::InsertValueOp::create(builder, loc, value, part, i);
    }
    LLVM::ReturnOp::create(builder, loc, value);
    return global;
  }

private:
  Type pointerType() {
    return LLVM::LLVMPointerType::get(builder.getContext());
  }
  void flush() {
    if (pending.empty())
      return;
    auto tensor =
        RankedTensorType::get({(int64_t)pending.size()}, builder.getI32Type());
    fields.push_back(
        DenseElementsAttr::get(tensor, ArrayRef<uint32_t>(pending)));
    types.push_back(
        LLVM::LLVMArrayType::get(builder.getI32Type(), pending.size()));
    pending.clear();
  }

  OpBuilder &builder;
  Location loc;
  SmallVector<uint32_t> pending;
  SmallVector<Attribute> fields;
  SmallVector<Type> types;
};

int64_t byteSize(td::tile::BufferOp buffer) {
  auto type = cast<MemRefType>(buffer.getMemref().getType());
  return type.getNumElements() * type.getElementTypeBitWidth() / 8;
}

Level levelOf(td::tile::BufferOp buffer) {
  return cast<td::tile::MemoryAttr>(
             cast<MemRefType>(buffer.getMemref().getType()).getMemorySpace())
      .getLevel();
}

/// Code, constants and tables may take the shared L2 up to here: the lowest
/// array's address, and what is reserved if it has none.
int64_t endOfFreeL2(td::tile::ProgramOp program,
                    const td::RuntimeLayout &layout) {
  std::optional<int64_t> lowest;
  if (auto arrays = program->getAttrOfType<ArrayAttr>("tile.arrays"))
    for (auto array : arrays.getAsRange<DictionaryAttr>()) {
      auto number = [&](StringRef key) {
        return cast<IntegerAttr>(array.get(key)).getInt();
      };
      if (Level(number("level")) == Level::L2)
        lowest = std::min(lowest.value_or(layout.l2End()), number("address"));
    }
  for (auto buffer : program.getBody().getOps<td::tile::BufferOp>())
    if (levelOf(buffer) == Level::L2)
      lowest = std::min(lowest.value_or(layout.l2End()),
                        (int64_t)*buffer.getAddress());
  return lowest.value_or(layout.l2Begin());
}

/// What td-assign-addresses and td-lower-jobs leave: buffers with addresses,
/// and a list of where arrays lie.
LogicalResult checkArrays(td::tile::ProgramOp program) {
  for (auto buffer : program.getBody().getOps<td::tile::BufferOp>())
    if (!buffer.getAddress())
      return buffer.emitOpError("has no address; td-assign-addresses gives it");
  Attribute listed = program->getAttr("tile.arrays");
  if (!listed)
    return success();
  auto arrays = dyn_cast<ArrayAttr>(listed);
  auto isComplete = [](Attribute attribute) {
    auto array = dyn_cast<DictionaryAttr>(attribute);
    return array &&
           llvm::all_of(ArrayRef<StringRef>{"name", "role"},
                        [&](StringRef key) {
                          return isa_and_present<StringAttr>(array.get(key));
                        }) &&
           llvm::all_of(
               ArrayRef<StringRef>{"level", "address", "bytes", "first",
                                   "last"},
               [&](StringRef key) {
                 auto number = dyn_cast_or_null<IntegerAttr>(array.get(key));
                 return number && number.getType().isSignlessInteger(64);
               });
  };
  if (!arrays || !llvm::all_of(arrays, isComplete))
    return program.emitOpError("has 'tile.arrays' that are not a list of name, "
                               "role, level, address, bytes, first and last");
  return success();
}

/// The stream of records, the arguments of kernels, and where arrays and tiles
/// lie between which records: what it takes to follow a run.
void describeStream(llvm::json::OStream &json, td::tile::ProgramOp program) {
  std::vector<std::pair<uint32_t, std::string>> runs;
  llvm::MapVector<StringRef, size_t> kernels;
  for (Operation &op : program.getBody().front()) {
    if (isa<td::tile::BufferOp, td::tile::OperatorOp>(op))
      continue;
    char kind = '.';
    if (auto call = dyn_cast<td::pulp::CallOp>(op)) {
      kind = 'C';
      size_t &words = kernels[call.getKernel()];
      words = std::max(words, call.getArgs().size());
    } else if (auto dma = dyn_cast<td::pulp::DmaStartOp>(op)) {
      kind = dma.getLoad() ? 'L' : 'S';
    } else if (isa<td::pulp::HyperStartOp>(op)) {
      kind = 'H';
    } else if (isa<td::redmule::StartOp>(op)) {
      kind = 'G';
    }
    uint32_t opIndex = op.getAttrOfType<IntegerAttr>("op_index").getInt();
    if (runs.empty() || runs.back().first != opIndex)
      runs.push_back({opIndex, ""});
    runs.back().second += kind;
  }
  json.attributeArray("stream", [&] {
    for (auto &[opIndex, kinds] : runs) {
      json.value(opIndex);
      json.value(kinds);
    }
  });
  json.attributeObject("kernels", [&] {
    for (auto [name, words] : kernels)
      json.attribute(name, (int64_t)words);
  });
  auto arrays = program->getAttrOfType<ArrayAttr>("tile.arrays");
  if (!arrays)
    return;
  json.attributeArray("arrays", [&] {
    for (auto array : arrays.getAsRange<DictionaryAttr>())
      json.array([&] {
        for (StringRef key : {"name", "role"})
          json.value(cast<StringAttr>(array.get(key)).getValue());
        for (StringRef key : {"level", "address", "bytes", "first", "last"})
          json.value(cast<IntegerAttr>(array.get(key)).getInt());
      });
  });
}

/// What tools need to know of the program, as JSON; docs/runtime.md lists it.
std::string describe(td::tile::ProgramOp program, const td::Target &target) {
  std::string text;
  llvm::raw_string_ostream stream(text);
  llvm::json::OStream json(stream);
  json.object([&] {
    json.attribute("program", program.getSymName());
    json.attribute("target", target.name());
    td::RuntimeLayout layout(
        target, td::countOperators(program),
        td::tableBytes(program->getParentOfType<ModuleOp>()));
    json.attribute("l1_begin", layout.l1Begin());
    json.attribute("l2_begin", endOfFreeL2(program, layout));
    json.attributeArray("operators", [&] {
      for (auto op : program.getBody().getOps<td::tile::OperatorOp>())
        json.object([&] {
          json.attribute("name", op.getName());
          json.attributeArray("predicted", [&] {
            for (int64_t cycles : op.getPredicted())
              json.value(cycles);
          });
        });
    });
    // Which operator the n-th command of each engine belongs to, as runs:
    // operator, commands, operator, commands, ...
    json.attributeObject("jobs", [&] {
      auto list = [&](StringRef name, auto opIndexOf) {
        SmallVector<int64_t> runs;
        for (Operation &op : program.getBody().front()) {
          std::optional<uint32_t> opIndex = opIndexOf(&op);
          if (!opIndex)
            continue;
          if (runs.empty() || runs[runs.size() - 2] != *opIndex)
            runs.append({*opIndex, 0});
          ++runs.back();
        }
        json.attributeArray(name, [&] {
          for (int64_t value : runs)
            json.value(value);
        });
      };
      auto dma = [](bool load) {
        return [load](Operation *op) -> std::optional<uint32_t> {
          auto start = dyn_cast<td::pulp::DmaStartOp>(op);
          return start && start.getLoad() == load
                     ? std::optional(start.getOpIndex())
                     : std::nullopt;
        };
      };
      list("dma_load", dma(true));
      list("dma_store", dma(false));
      list("hyperram", [](Operation *op) -> std::optional<uint32_t> {
        auto start = dyn_cast<td::pulp::HyperStartOp>(op);
        return start ? std::optional(start.getOpIndex()) : std::nullopt;
      });
      list("redmule", [](Operation *op) -> std::optional<uint32_t> {
        auto start = dyn_cast<td::redmule::StartOp>(op);
        return start ? std::optional(start.getOpIndex()) : std::nullopt;
      });
    });
    describeStream(json, program);
    json.attributeArray("buffers", [&] {
      for (auto op : program.getBody().getOps<td::tile::BufferOp>()) {
        auto type = cast<MemRefType>(op.getMemref().getType());
        std::string element;
        llvm::raw_string_ostream(element) << type.getElementType();
        json.object([&] {
          json.attribute("name", op.getSymbol());
          json.attribute("role", td::tile::stringifyRole(op.getRole()));
          json.attribute("level", td::tile::stringifyLevel(levelOf(op)));
          json.attribute("address", (int64_t)*op.getAddress());
          json.attribute("type", element);
          json.attributeArray("shape", [&] {
            for (int64_t size : type.getShape())
              json.value(size);
          });
        });
      }
    });
  });
  return text;
}

struct LowerTable : td::impl::LowerTableBase<LowerTable> {
  using LowerTableBase::LowerTableBase;

  void runOnOperation() override {
    ModuleOp module = getOperation();
    FailureOr<td::Target> target = td::Target::get(module);
    if (failed(target))
      return signalPassFailure();
    auto programs = llvm::to_vector(module.getOps<td::tile::ProgramOp>());
    if (programs.size() != 1) {
      module.emitError() << "needs one tile.program, has " << programs.size();
      return signalPassFailure();
    }
    td::tile::ProgramOp program = programs.front();
    if (failed(checkArrays(program)))
      return signalPassFailure();
    Encoder encoder(*target);
    if (failed(encoder.encode(program)))
      return signalPassFailure();

    int64_t words = 0;
    for (const Record &record : encoder.records)
      words += record.words.size();
    std::vector<Item> items;
    // A loop costs two barriers a run, so a table that fits is left as it is;
    // half of what is reserved is for code.
    td::RuntimeLayout layout(*target, td::countOperators(program),
                             td::tableBytes(module));
    int64_t room = endOfFreeL2(program, layout) - layout.l2Start() -
                   target->integer("runtime", "l2_reserved") / 2;
    if (roll == "always" || (roll == "auto" && 4 * words > room))
      items = rollRecords(encoder.records);
    else
      for (const Record &record : encoder.records)
        items.emplace_back().body = ArrayRef(record);
    std::vector<Chunk> chunks = packChunks(items);
    numRecords += encoder.records.size();
    for (const Item &item : items)
      numLoops += item.runs > 1;
    for (const Chunk &chunk : chunks)
      numBytes += 4 * chunk.words.size();

    OpBuilder builder(program);
    Location loc = program.getLoc();
    auto chunkName = [](size_t i) { return "td_jobs_" + std::to_string(i); };
    for (auto [i, chunk] : llvm::enumerate(chunks)) {
      StructBuilder global(builder, loc);
      size_t from = 0;
      if (i + 1 < chunks.size()) {
        global.address(chunkName(i + 1));
        global.words({uint32_t(4 * chunks[i + 1].words.size())});
        from = TD_CHUNK_HEADER_WORDS;
      }
      for (auto [at, kernel] : chunk.kernels) {
        global.words(ArrayRef(chunk.words).slice(from, at - from));
        global.address(kernel);
        from = at + 1;
      }
      global.words(ArrayRef(chunk.words).drop_front(from));
      global.build(chunkName(i), LLVM::Linkage::Internal);
    }
    emitBuffers(builder, program);
    StructBuilder description(builder, loc);
    description.address(chunkName(0));
    description.words({uint32_t(4 * chunks[0].words.size()),
                       uint32_t(td::countOperators(program)), numBuffers});
    description.address("td_buffers");
    description.build("td_program", LLVM::Linkage::External);

    // The runtime is compiled for what its first output is.
    auto outputs = llvm::make_filter_range(
        program.getBody().getOps<td::tile::BufferOp>(),
        [](auto buffer) { return buffer.getRole() == td::tile::Role::Output; });
    if (!outputs.empty() && (*outputs.begin()).getSymbol() == "prediction") {
      StructBuilder mark(builder, loc);
      mark.words({1});
      mark.build("td_without_loss", LLVM::Linkage::External);
    }

    std::string json = describe(program, *target);
    auto type = LLVM::LLVMArrayType::get(builder.getI8Type(), json.size());
    auto manifest = LLVM::GlobalOp::create(
        builder, loc, type, /*isConstant=*/true, LLVM::Linkage::External,
        "td_manifest", builder.getStringAttr(json), /*alignment=*/1);
    manifest.setSection(".traindeeploy");
    // The machine that every target description describes.
    module->setAttr(LLVM::LLVMDialect::getDataLayoutAttrName(),
                    builder.getStringAttr("e-m:e-p:32:32-i64:64-n32-S128"));
    module->setAttr(LLVM::LLVMDialect::getTargetTripleAttrName(),
                    builder.getStringAttr("riscv32-unknown-unknown-elf"));
    program.erase();
  }

  /// The table of buffers: role, level, address, bytes, content.
  void emitBuffers(OpBuilder &builder, td::tile::ProgramOp program) {
    StructBuilder table(builder, program.getLoc());
    numBuffers = 0;
    for (auto buffer : program.getBody().getOps<td::tile::BufferOp>()) {
      table.words({(uint32_t)buffer.getRole(), (uint32_t)levelOf(buffer),
                   (uint32_t)*buffer.getAddress(), (uint32_t)byteSize(buffer)});
      ++numBuffers;
      if (!buffer.getInit()) {
        table.words({0});
        continue;
      }
      std::string name = "td_constant_" + std::to_string(numBuffers - 1);
      auto type = cast<MemRefType>(buffer.getMemref().getType());
      auto content = cast<DenseElementsAttr>(*buffer.getInit());
      auto array = LLVM::LLVMArrayType::get(type.getElementType(),
                                            type.getNumElements());
      LLVM::GlobalOp::create(
          builder, buffer.getLoc(), array, /*isConstant=*/true,
          LLVM::Linkage::Internal, name,
          content.reshape(RankedTensorType::get({type.getNumElements()},
                                                type.getElementType())),
          /*alignment=*/4);
      table.address(name);
    }
    if (numBuffers == 0)
      table.words({0});
    table.build("td_buffers", LLVM::Linkage::Internal);
  }

  uint32_t numBuffers = 0;
};
} // namespace
