"""Op bindings of the pulp dialect."""

from ._pulp_ops_gen import *  # noqa: F403
