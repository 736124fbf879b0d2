"""Op bindings of the redmule dialect."""

from ._redmule_ops_gen import *  # noqa: F403
