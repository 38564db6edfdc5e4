"""The pieces that a batch is cut into for the workers of an executor, and how they are sent there and back.

The scheduler of a Dask cluster unpickles what it passes on, and a worker can start only then. Therefore a piece is one string, and the
functions that a worker runs import the rest of the package themselves.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from exporter.pipeline.each import Task
    from exporter.pipeline.outcome import Outcome
    from exporter.sources.shared.options import ReadOptions
    from exporter.targets.shared.options import WriteOptions

# Models in one piece: at most so many, so that little is lost with a worker, and at most this part of all, so that every worker gets some.
MAX_LENGTH, MIN_PIECES = 16, 16
# The last pieces become smaller, so that all workers end at about the same time: a part of what is left, but at least so many.
PART_OF_THE_REST, MIN_LENGTH = 4, 3


def cut(tasks: Sequence[Task]) -> Iterator[Sequence[Task]]:
    """The pieces, in order. Each costs a Dask cluster as much processor time as exporting a small model."""
    most = max(1, min(MAX_LENGTH, len(tasks) // MIN_PIECES))
    start = 0
    while start < len(tasks):
        size = min(most, max(MIN_LENGTH, (len(tasks) - start) // PART_OF_THE_REST))
        yield tasks[start: start + size]
        start += size


def text_of(tasks: Sequence[Task], options: ReadOptions, write_options: WriteOptions) -> str:
    """A piece to be sent."""
    import dataclasses

    from exporter.pipeline import child

    return json.dumps([[dataclasses.asdict(task) for task in tasks], child.fields_of(options), dataclasses.asdict(write_options)])


def export_piece(text: str) -> str:
    """In a worker: exports the models of a piece, and returns the outcomes to be sent back."""
    import dataclasses

    from exporter.pipeline import child, each
    from exporter.targets.shared.options import WriteOptions

    tasks, options, write_options = json.loads(text)
    outcomes = each.export_each([each.Task(**task) for task in tasks], child.options_of(options), WriteOptions(**write_options))
    return json.dumps([dataclasses.asdict(outcome) for outcome in outcomes])


def outcomes_in(text: str) -> list[Outcome]:
    """The outcomes that a worker sent."""
    from exporter.pipeline.outcome import Outcome

    return [Outcome(**{**fields, "warnings": tuple(fields["warnings"])}) for fields in json.loads(text)]


def begin(first: str) -> None:
    """In a worker: does what takes time before the first piece arrives. first: a model, which says whether they are local files."""
    from exporter.files.remote import place_for
    from exporter.pipeline.readers import READERS

    READERS.begin(place_for(first))
    import exporter.pipeline.each
    import exporter.pipeline.message
    import exporter.pipeline.read
    import exporter.pipeline.write
    import exporter.targets.bundle_json  # noqa: F401
    from exporter.batchnorm import schema

    schema.prepare()
