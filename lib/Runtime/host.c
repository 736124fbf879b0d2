// The host core: brings parameters and samples from the feed file to memory,
// lets the cluster run each step, and takes the results out. docs/runtime.md
// has the formats of both files.
#include "program.h"

#define FEED_MAGIC 0x31464454   // "TDF1"
#define RESULT_MAGIC 0x31524454 // "TDR1"

// Exit codes.
#define EXIT_TRAP 2
#define EXIT_LOSS 3
#define EXIT_FEED 4
#define EXIT_RESULT 5

#define SYS_OPEN 1
#define SYS_WRITE 5
#define SYS_READ 6
#define OPEN_READ 1  // "rb"
#define OPEN_WRITE 5 // "wb"

uint32_t semihosting_call(uint32_t operation, const uint32_t *arguments);
void cluster_start(void);
extern char td_window[]; // L2 that belongs to the host, for L3's sake
extern char td_window_end[];

volatile struct mailbox td_mailbox;

// C's own: compilers turn loops into calls of these.
void *memset(void *to, int value, __SIZE_TYPE__ bytes) {
  uint8_t *p = to, *end = p + bytes;
  if (((uint32_t)p & 3) == 0) {
    uint32_t word = (uint8_t)value * 0x01010101u;
    for (; end - p >= 16; p += 16) {
      ((uint32_t *)p)[0] = word;
      ((uint32_t *)p)[1] = word;
      ((uint32_t *)p)[2] = word;
      ((uint32_t *)p)[3] = word;
    }
    for (; end - p >= 4; p += 4)
      *(uint32_t *)p = word;
  }
  while (p != end)
    *p++ = (uint8_t)value;
  return to;
}

void *memcpy(void *to, const void *from, __SIZE_TYPE__ bytes) {
  uint8_t *p = to, *end = p + bytes;
  const uint8_t *q = from;
  if ((((uint32_t)p | (uint32_t)q) & 3) == 0) {
    for (; end - p >= 8; p += 8, q += 8) {
      uint32_t a = ((const uint32_t *)q)[0], b = ((const uint32_t *)q)[1];
      ((uint32_t *)p)[0] = a;
      ((uint32_t *)p)[1] = b;
    }
    for (; end - p >= 4; p += 4, q += 4)
      *(uint32_t *)p = *(const uint32_t *)q;
  }
  while (p != end)
    *p++ = *q++;
  return to;
}

static void print(const char *text) {
  while (*text)
    put_character(*text++);
}

static void print_hexadecimal(uint32_t value) {
  for (int shift = 28; shift >= 0; shift -= 4)
    put_character("0123456789abcdef"[value >> shift & 15]);
}

void trap_report(uint32_t cause, uint32_t pc, uint32_t value) {
  print("trap: core ");
  print_hexadecimal(hart_id());
  print(" cause ");
  print_hexadecimal(cause);
  print(" pc ");
  print_hexadecimal(pc);
  print(" value ");
  print_hexadecimal(value);
  print("\n");
  exit_program(EXIT_TRAP);
}

static void __attribute__((noreturn)) fail(uint32_t code, const char *message) {
  print(message);
  print("\n");
  exit_program(code);
}

static uint32_t open_file(const char *name, uint32_t length, uint32_t mode) {
  uint32_t arguments[3] = {(uint32_t)name, mode, length};
  return semihosting_call(SYS_OPEN, arguments);
}

static uint32_t feed, result;

static void read_feed(uint32_t address, uint32_t bytes) {
  uint32_t arguments[3] = {feed, address, bytes};
  if (bytes && semihosting_call(SYS_READ, arguments) != 0)
    fail(EXIT_FEED, "the feed file ends too early");
}

static void write_result(uint32_t address, uint32_t bytes) {
  uint32_t arguments[3] = {result, address, bytes};
  if (bytes && semihosting_call(SYS_WRITE, arguments) != 0)
    fail(EXIT_RESULT, "the result file cannot be written");
}

// Files hold whole words.
static uint32_t padded(uint32_t bytes) { return (bytes + 3) & ~3u; }

static void hyper_copy(uint32_t to_l3, uint32_t l3, uint32_t bytes) {
  hyper_start(0, to_l3, l3, (uint32_t)td_window, bytes, 0, 0);
  hyper_wait(0);
}

// Moves a buffer that lies in L3 through the window, a piece at a time: from
// the feed, from `content`, or to the result.
static void move_l3(const struct buffer *buffer, const uint32_t *content,
                    uint32_t store) {
  uint32_t room = (uint32_t)(td_window_end - td_window),
           bytes = padded(buffer->bytes);
  for (uint32_t done = 0; done < bytes;) {
    uint32_t piece = bytes - done < room ? bytes - done : room;
    if (store) {
      hyper_copy(0, buffer->address + done, piece);
      write_result((uint32_t)td_window, piece);
    } else {
      if (content)
        memcpy(td_window, (const char *)content + done, piece);
      else
        read_feed((uint32_t)td_window, piece);
      hyper_copy(1, buffer->address + done, piece);
    }
    done += piece;
  }
}

// In L2, the bytes behind a buffer of no whole number of words are not the
// buffer's: the last word goes through a word of our own.
static void load(const struct buffer *buffer) {
  if (buffer->level == 3) {
    move_l3(buffer, 0, 0);
    return;
  }
  uint32_t whole = buffer->bytes & ~3u, word;
  read_feed(buffer->address, whole);
  if (buffer->bytes != whole) {
    read_feed((uint32_t)&word, 4);
    compiler_barrier();
    memcpy((char *)buffer->address + whole, &word, buffer->bytes - whole);
  }
}

static void store(const struct buffer *buffer) {
  if (buffer->level == 3) {
    move_l3(buffer, 0, 1);
    return;
  }
  uint32_t whole = buffer->bytes & ~3u, word = 0;
  write_result(buffer->address, whole);
  if (buffer->bytes != whole) {
    memcpy(&word, (const char *)buffer->address + whole, buffer->bytes - whole);
    compiler_barrier();
    write_result((uint32_t)&word, 4);
  }
}

static void for_each(uint32_t roles, void (*action)(const struct buffer *)) {
  for (uint32_t i = 0; i < td_program.buffer_count; ++i)
    if (roles >> td_program.buffers[i].role & 1)
      action(&td_program.buffers[i]);
}

static void place_constant(const struct buffer *buffer) {
  if (buffer->level == 3)
    move_l3(buffer, buffer->content, 0);
  else
    memcpy((void *)buffer->address, buffer->content, buffer->bytes);
}

#define PERSISTENT (1u << TD_ROLE_PARAMETER | 1u << TD_ROLE_STATE)

// The first output is the loss, but for a program that only infers.
static const struct buffer *find_loss(void) {
#ifndef TD_WITHOUT_LOSS
  for (uint32_t i = 0; i < td_program.buffer_count; ++i)
    if (td_program.buffers[i].role == TD_ROLE_OUTPUT)
      return &td_program.buffers[i];
#endif
  return 0;
}

void host_main(void) {
  enable_instruction_caches();
  hyper_enable();
  td_mailbox.steps_done = 0;

  feed = open_file("feed.bin", 8, OPEN_READ);
  if (feed == ~0u)
    fail(EXIT_FEED, "the feed file cannot be opened");
  result = open_file("result.bin", 10, OPEN_WRITE);
  if (result == ~0u)
    fail(EXIT_RESULT, "the result file cannot be opened");

  uint32_t header[2]; // magic, steps
  read_feed((uint32_t)header, sizeof header);
  compiler_barrier();
  if (header[0] != FEED_MAGIC)
    fail(EXIT_FEED, "the feed file is of another version");
  uint32_t steps = header[1];
  header[0] = RESULT_MAGIC;
  compiler_barrier();
  write_result((uint32_t)header, 4);

  for_each(1u << TD_ROLE_CONSTANT, place_constant);
  for_each(PERSISTENT, load);
  start_cluster((uint32_t)cluster_start);

  const struct buffer *loss = find_loss();
  for (uint32_t step = 0; step < steps; ++step) {
    for_each(1u << TD_ROLE_INPUT, load);
    wake_cluster();
    while (td_mailbox.steps_done == step)
      pause();
    compiler_barrier();
    write_result((uint32_t)&td_mailbox.cycles, 4);
    for_each(1u << TD_ROLE_OUTPUT, store);
    write_result(L1_COUNTERS, 4 * TD_COUNTERS * td_program.operators);
    if (loss) {
      uint32_t bits = *(volatile uint32_t *)loss->address;
      print("loss ");
      print_hexadecimal(bits);
      print("\n");
      if ((bits & 0x7F800000u) == 0x7F800000u)
        exit_program(EXIT_LOSS);
    }
  }
  for_each(PERSISTENT, store);
  exit_program(0);
}
