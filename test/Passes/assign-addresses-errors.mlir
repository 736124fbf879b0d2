// RUN: td-opt %s --split-input-file --verify-diagnostics --td-schedule-jobs
// RUN: td-opt %s --split-input-file --verify-diagnostics --td-assign-addresses

#l1 = #tile.memory<l1>
#l2 = #tile.memory<l2>
module attributes {tile.target = {cores = {count = 8, l2_access = 15}, icache = {banks = 2, sets = 32, ways = 4, refill = 2}, dma = {bytes_per_cycle = 8, start_cycles = 13, global_queue = 8, burst_bytes = 256, outstanding_bursts = 8, latency_cycles = 13, meets_cores_percent = 100, cores_meet_percent = 100},
           runtime = {core_stack = 16, l2_reserved = 256, issue_cycles = 30, command_cycles = 10, wait_cycles = 20, call_cycles = 20}, memory = {l1 = {base = 4096, size = 8192, banks = 16}, l2 = {base = 65536, size = 8192}}}} {
  tile.program @l1 target "t" {
    %x = tile.buffer input "x" : memref<32x60xf32, #l2>
    // expected-error @below {{operator 'fc' does not fit in l1: needs 7680 bytes, available}}
    tile.operator "fc" predicted [0, 0, 0, 0]
    %a = tile.alloc "a" : memref<32x60xf32, #l1>
    %0 = tile.copy %x [0, 0] [32, 60], %a load true operator 0 : memref<32x60xf32, #l2>, memref<32x60xf32, #l1>
    tile.wait %0 makes %a : memref<32x60xf32, #l1>
  }
}

// -----

#l1 = #tile.memory<l1>
#l2 = #tile.memory<l2>
module attributes {tile.target = {cores = {count = 8, l2_access = 15}, icache = {banks = 2, sets = 32, ways = 4, refill = 2}, dma = {bytes_per_cycle = 8, start_cycles = 13, global_queue = 8, burst_bytes = 256, outstanding_bursts = 8, latency_cycles = 13, meets_cores_percent = 100, cores_meet_percent = 100},
           runtime = {core_stack = 16, l2_reserved = 256, issue_cycles = 30, command_cycles = 10, wait_cycles = 20, call_cycles = 20}, memory = {l1 = {base = 4096, size = 8192, banks = 16}, l2 = {base = 65536, size = 8192}}}} {
  tile.program @l2 target "t" {
    %x = tile.buffer input "x" : memref<32x60xf32, #l2>
    %y = tile.buffer state "y" : memref<32x60xf32, #l2>
    // expected-error @below {{operator 'fc' does not fit in l2: needs 15360 bytes, available 7936 bytes; 7424 more would do (15360 bytes are parameters}}
    tile.operator "fc" predicted [0, 0, 0, 0]
    %a = tile.alloc "a" : memref<1x60xf32, #l1>
    %0 = tile.copy %x [0, 0] [1, 60], %a load true operator 0 : memref<32x60xf32, #l2>, memref<1x60xf32, #l1>
    tile.wait %0 makes %a : memref<1x60xf32, #l1>
  }
}

// -----

// expected-error @below {{the module has no target description}}
module {
  tile.program @untargeted target "t" {
  }
}
