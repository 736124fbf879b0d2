"""Python op bindings of the compiler's dialects."""

from mlir.dialects._ods_common import _cext

_cext.globals.append_dialect_search_prefix("traindeeploy.dialects")
