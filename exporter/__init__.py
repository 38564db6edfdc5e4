"""bn-export: BatchNormalization out of Keras models, exactly.

    import exporter
    bundle = exporter.read("model.h5")          # any Keras or TensorFlow file, or a bundle
    y = bundle["encoder/bn_1"](x)               # the layer's inference, on a NumPy array
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from exporter.__about__ import __version__ as __version__

_HOME = {
    "BatchNorm": "batchnorm.layer", "Bundle": "batchnorm.bundle", "Origin": "batchnorm.bundle", "diagnose": "diagnosis.search", "evaluate": "batchnorm.formula", "export_many": "many",
    "load": "resolve", "read": "resolve", "write": "files.output", "ExporterError": "errors", "UsageError": "errors",
    "FormatError": "errors", "UnsupportedError": "errors", "UnresolvedError": "errors", "LayerError": "errors",
    "BundleError": "errors", "OutputError": "errors", "MissingExtra": "errors",
}

__all__ = sorted(_HOME)

if TYPE_CHECKING:
    from exporter.batchnorm.bundle import Bundle as Bundle
    from exporter.batchnorm.bundle import Origin as Origin
    from exporter.batchnorm.formula import evaluate as evaluate
    from exporter.batchnorm.layer import BatchNorm as BatchNorm
    from exporter.diagnosis.search import diagnose as diagnose
    from exporter.errors import BundleError as BundleError
    from exporter.errors import ExporterError as ExporterError
    from exporter.errors import FormatError as FormatError
    from exporter.errors import LayerError as LayerError
    from exporter.errors import MissingExtra as MissingExtra
    from exporter.errors import OutputError as OutputError
    from exporter.errors import UnresolvedError as UnresolvedError
    from exporter.errors import UnsupportedError as UnsupportedError
    from exporter.errors import UsageError as UsageError
    from exporter.files.output import write as write
    from exporter.many import export_many as export_many
    from exporter.resolve import load as load
    from exporter.resolve import read as read


def __getattr__(name: str) -> Any:
    """The public names, imported when they are first used: `import exporter` costs a few milliseconds."""
    if name not in _HOME:
        raise AttributeError(f"module 'exporter' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"exporter.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *__all__]
