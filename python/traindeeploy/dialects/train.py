"""Op bindings of the train dialect."""

from ._train_ops_gen import *  # noqa: F403
