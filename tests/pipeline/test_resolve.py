"""From what a source found to a checked bundle: paths of their own, at a cost that grows with the layers and not with their square."""

from __future__ import annotations

import numpy as np
import pytest

from exporter.errors import FormatError, LayerError
from exporter.pipeline import message
from exporter.pipeline.resolve import Completion, resolve, unique_paths
from exporter.sources.shared.options import ReadOptions
from exporter.targets import bundle_json
from exporter.targets.shared.identifiers import identifiers
from exporter.targets.shared.options import WriteOptions
from tests.make.counting import lines_run
from tests.make.layers import make_found, make_layer, make_stored


@pytest.mark.parametrize(("paths", "wanted"), [
    (["a", "a", "a"], ["a", "a#2", "a#3"]),
    (["a", "a#2", "a", "a"], ["a", "a#2", "a#3", "a#4"]),
    (["a", "a", "a#2", "a#2"], ["a", "a#3", "a#2", "a#2#2"]),
    (["b", "a", "b"], ["b", "a", "b#2"]),
])
def test_paths_of_their_own(paths, wanted):
    assert [layer.path for layer in unique_paths(make_layer(path) for path in paths)] == wanted


def test_identifiers_of_their_own():
    """The next number that is free, whatever is taken."""
    assert identifiers(["bn_2", "bn", "bn", "bn", "b/n", "b-n"]) == ["bn_2", "bn", "bn_3", "bn_4", "b_n", "b_n_2"]


FAMILIES = {
    "one name": lambda count: ["bn"] * count,
    "names that are there already": lambda count: [f"bn#{number}" for number in range(2, count // 2 + 2)] + ["bn"] * (count // 2),
    "one long name": lambda count: ["x" * 60] * count,
    "long names that differ at their end": lambda count: [f"{'x' * 60}{number}" for number in range(count)],
    "numbers that are there already": lambda count: [f"bn_{number}" for number in range(2, count // 2 + 2)] + ["bn"] * (count // 2),
    "nothing but punctuation": lambda count: ["-" * (number % 7 + 1) for number in range(count)],
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", [unique_paths, identifiers])
def test_names_take_linear_work(family, name):
    """Twice the layers, twice the lines; 16 000 layers took 24 seconds once."""
    def cost(count):
        paths = FAMILIES[family](count)
        given = [make_layer(path) for path in paths] if name is unique_paths else paths
        return lines_run(lambda: name(given))

    assert cost(500) < 2.3 * cost(250)
    assert len(set(identifiers(FAMILIES[family](1000)))) == 1000


def test_layers_of_one_path_take_linear_work():
    """From the child's answer to the text of the output: what is remembered of a layer is not looked for among all of one path."""
    def run(found):
        options, data = ReadOptions(), []
        sender = message.Writer(data.append)
        for stored in found:
            sender.layer(stored)
        sender.answer(found)
        completion, output = Completion(options), bundle_json.writer(WriteOptions(vectors=False))
        reader = message.Reader(FormatError("damaged"), lambda stored: completion.begin(stored, output.layer))
        reader.feed(b"".join(data))
        b"".join(output.end(resolve(reader.answer(), options, completion)))

    def cost(count):
        found = make_found(*(make_stored("bn", shape=(1,), seed=number) for number in range(count)))
        return lines_run(lambda: run(found))

    assert cost(200) < 2.2 * cost(100)


def test_a_layer_that_cannot_be_used_is_refused_or_skipped_with_its_reason():
    bad = make_stored("bad", moving_variance=np.float32([1, -1, 1, 1]))
    found = make_found(make_stored("good"), bad, skipped=[("other", "no reason")])
    with pytest.raises(LayerError, match=r"bad: moving_variance\[1\] is -1"):
        resolve(make_found(make_stored("good"), bad), ReadOptions())
    bundle = resolve(found, ReadOptions(skip_unresolved=True))
    assert bundle.paths() == ["good"]
    assert [(path, reason.partition(" and")[0]) for path, reason in bundle.skipped] == [
        ("other", "no reason"), ("bad", "moving_variance[1] is -1")]
