"""fold_model: from a path to a model whose batch norms are folded into the layers that feed them."""

from __future__ import annotations

import os
from typing import Any

from exporter.batchnorm.folded import FoldedModel, fold_bundle
from exporter.files.spool import Content
from exporter.pipeline.read import read


def fold_model(path: str | os.PathLike[str] | Content, **options: Any) -> FoldedModel:
    """Folds the batch norms of a model into the layers that feed them; lists the batch norms that are kept, with
    the reason. `bn-export MODEL folded.npz --fold` writes the same.

    path:    an .h5, .keras or .weights.h5 file, or a SavedModel of Keras, as in `read`.
    options: those of `read`, e.g. architecture, epsilon, layers, isolated.

    Computed in float64 and rounded once. Raises: as `read`; UnsupportedError if nothing can be folded.
    """
    return fold_bundle(read(path, kernels=True, **options))
