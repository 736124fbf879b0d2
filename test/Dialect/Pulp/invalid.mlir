// RUN: td-opt %s --split-input-file --verify-diagnostics

// expected-error @below {{slot 15 is not one of 0 to 14}}
pulp.dma_start slot 15 load true l1 268451840 l2 469827584 bytes 64 operator 0

// -----
// expected-error @below {{moves 1 to 131071 bytes, not 131072}}
pulp.dma_start slot 0 load true l1 268451840 l2 469827584 bytes 131072 operator 0

// -----
// expected-error @below {{moves 1 to 131071 bytes, not 0}}
pulp.dma_start slot 0 load true l1 268451840 l2 469827584 bytes 0 operator 0

// -----
// expected-error @below {{100 bytes are no whole number of lines of 64}}
pulp.dma_start slot 0 load true l1 268451840 l2 469827584 bytes 100 line 64 stride 128 operator 0

// -----
// expected-error @below {{lines of 64 bytes overlap with a stride of 32}}
pulp.dma_start slot 0 load true l1 268451840 l2 469827584 bytes 128 line 64 stride 32 operator 0

// -----
// expected-error @below {{l1 address 4294967295 does not fit 32 bits}}
pulp.dma_start slot 0 load true l1 4294967295 l2 469827584 bytes 4 operator 0

// -----
// expected-error @below {{l2 address 4294963200 does not fit 32 bits}}
pulp.dma_start slot 0 load true l1 268451840 l2 4294963200 bytes 128 line 64 stride 8192 operator 0

// -----
// expected-error @below {{continues no command of slot 2}}
pulp.dma_start slot 2 continued load true l1 268451840 l2 469827584 bytes 4 operator 0

// -----
// expected-error @below {{slot 16 is not one of 0 to 14}}
pulp.dma_wait slot 16 operator 0

// -----
// expected-error @below {{slot 8 is not one of 0 to 7}}
pulp.hyper_start slot 8 load true l3 0 l2 469827584 bytes 64 operator 0

// -----
// expected-error @below {{moves 4 to 1048572 bytes, not 1048576}}
pulp.hyper_start slot 0 load true l3 0 l2 469827584 bytes 1048576 operator 0

// -----
// expected-error @below {{moves whole 32-bit words: 66 is no multiple of 4}}
pulp.hyper_start slot 0 load true l3 0 l2 469827584 bytes 66 operator 0

// -----
// expected-error @below {{lines of 16 bytes overlap with a stride of 8}}
pulp.hyper_start slot 0 load true l3 0 l2 469827584 bytes 64 line 16 stride 8 operator 0

// -----
// expected-error @below {{slot 9 is not one of 0 to 7}}
pulp.hyper_wait slot 9 operator 0

// -----
// expected-error @below {{calls @nobody, which is no function of the module}}
pulp.call @nobody [1] operator 0

// -----
llvm.func @kernel(!llvm.ptr, i32)
// expected-error @below {{argument 4294967296 does not fit 32 bits}}
pulp.call @kernel [4294967296] operator 0

// -----
// expected-error @below {{l3 address 9223372036854775804 does not fit 32 bits}}
pulp.hyper_start slot 0 load true l3 9223372036854775804 l2 469827584 bytes 64 operator 0
