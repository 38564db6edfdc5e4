"""The public names, for type checkers: __init__.py imports them when they are first used."""

from exporter.__about__ import __version__ as __version__
from exporter.batchnorm.bundle import Bundle as Bundle
from exporter.batchnorm.bundle import Origin as Origin
from exporter.batchnorm.fold import fold as fold
from exporter.batchnorm.layer import BatchNorm as BatchNorm
from exporter.batchnorm.layer import evaluate as evaluate
from exporter.commands.compare import compare as compare
from exporter.diagnosis.port_answer import Comparison as Comparison
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
from exporter.pipeline.many import export_many as export_many
from exporter.pipeline.read import load as load
from exporter.pipeline.read import read as read
from exporter.pipeline.write import write as write
from exporter.sources.shared.options import ReadOptions as ReadOptions
from exporter.targets.shared.options import WriteOptions as WriteOptions
