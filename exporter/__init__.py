"""bn-export: BatchNormalization out of Keras models, exactly.

    import exporter
    bundle = exporter.read("model.h5")          # any Keras or TensorFlow file, or a bundle
    y = bundle["encoder/bn_1"](x)               # the layer's inference, on a NumPy array
"""

from __future__ import annotations

import importlib
from typing import Any

from exporter.__about__ import __version__ as __version__

_HOME = {
    "batchnorm.bundle": ("Bundle", "Origin"),
    "batchnorm.findings": ("Finding", "findings"),
    "batchnorm.fold": ("fold",),
    "batchnorm.folded": ("FoldedModel",),
    "batchnorm.layer": ("BatchNorm", "evaluate"),
    "commands.compare": ("compare",),
    "diagnosis.port_answer": ("Comparison",),
    "diagnosis.search": ("diagnose",),
    "errors": ("BundleError", "ExporterError", "FormatError", "LayerError", "MissingExtra", "OutputError", "UnresolvedError",
               "UnsupportedError", "UsageError"),
    "pipeline.many": ("export_many",),
    "pipeline.outcome": ("Outcome", "Summary"),
    "pipeline.read": ("fold_model", "load", "read"),
    "pipeline.write": ("write",),
    "sources.shared.options": ("ReadOptions",),
    "targets.shared.options": ("WriteOptions",),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = sorted(_MODULE_OF)  # __init__.pyi spells it out for type checkers


def __getattr__(name: str) -> Any:
    """The public names, imported when they are first used: `import exporter` costs a few milliseconds."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'exporter' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"exporter.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *__all__]
