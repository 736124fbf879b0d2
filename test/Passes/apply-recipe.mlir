// RUN: td-opt %s --td-apply-recipe=trainable=b,c.weight | FileCheck %s
// RUN: td-opt %s --td-apply-recipe | FileCheck %s --check-prefix=MARKED
// RUN: echo 'train.parameter @a : tensor<3xf32>' | not td-opt --td-apply-recipe 2>&1 | FileCheck %s --check-prefix=NOTHING
// RUN: not td-opt %s --td-apply-recipe=trainable=a,d 2>&1 | FileCheck %s --check-prefix=UNKNOWN

// NOTHING: error: the recipe trains nothing
// UNKNOWN: error: the recipe trains 'd', which is no parameter of the model
// MARKED: train.parameter @a trainable : tensor<3xf32>
// MARKED: train.parameter @b : tensor<3xf32>
// CHECK: train.parameter @a : tensor<3xf32>
// CHECK: train.parameter @b trainable : tensor<3xf32>
// CHECK: train.parameter @c.weight trainable : tensor<3xf32>
train.parameter @a trainable : tensor<3xf32>
train.parameter @b : tensor<3xf32>
train.parameter @c.weight : tensor<3xf32>
