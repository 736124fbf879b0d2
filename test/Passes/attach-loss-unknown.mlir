// RUN: td-opt %s --td-attach-loss=loss=hinge --verify-diagnostics

// expected-error@+1 {{unknown loss 'hinge'; there are mse, l1, bce-with-logits, cross-entropy and model}}
module {
}
