"""From what a source found to a checked bundle: paths of their own, at a cost that grows with the layers and not with their square."""

from __future__ import annotations

import numpy as np
import pytest

from exporter.batchnorm.bundle import ReadBack
from exporter.batchnorm.stored import Skipped, Statistic, Unusable
from exporter.errors import ExporterError, FormatError, LayerError, UnresolvedError, UnsupportedError, UsageError
from exporter.pipeline import message
from exporter.pipeline.resolve import Completion, _cannot_be_used, resolve, unique_paths
from exporter.sources.shared.found import Remedy
from exporter.sources.shared.options import ReadOptions
from exporter.targets import bundle_json
from exporter.targets.shared.names import identifiers
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

    assert cost(200) < 2.3 * cost(100)
    assert len(set(identifiers(FAMILIES[family](200)))) == 200


def test_layers_of_one_path_take_linear_work():
    """From the child's answer to the text of the output: what is remembered of a layer is not looked for among all of one path."""
    def run(found):
        options, data = ReadOptions(), []
        sender = message.Writer(data.append)
        for stored in found:
            sender.layer(stored)
        sender.answer(found)
        completion, output = Completion(options), bundle_json.writer(WriteOptions(vectors=False))
        reader = message.Reader(FormatError("damaged"), lambda stored: completion.begin(stored, output.layers))
        reader.feed(b"".join(data))
        b"".join(output.end(resolve(reader.answer(), options, completion)))

    def cost(count):
        found = make_found(*(make_stored("bn", shape=(1,), seed=number) for number in range(count)))
        return lines_run(lambda: run(found))

    assert cost(200) < 2.2 * cost(100)


@pytest.mark.parametrize(("options", "paths"), [
    ({}, ["a", "b", "old"]), ({"epsilon": (("given", 0.5),)}, ["a", "given", "b", "old"]), ({"layers": ("b", "x")}, ["b"]),
    ({"layers": ("none",)}, []), ({"stored_statistics": True}, ["a", "b", "doubt", "old"])])
def test_layers_that_are_wanted_and_complete_are_worked_on_ahead(options, paths):
    """One that cannot be used does not keep those from it that are like it."""
    found = [make_stored("a"), make_stored("none", epsilon=None), make_stored("given", epsilon=None), make_stored("bad", **BAD),
             make_stored("b"), make_stored("doubt", doubt="why"), make_stored("old", statistic=Statistic.DEVIATION)]
    completion, came = Completion(ReadOptions(**options)), []
    completion.begin(found, came.append)
    assert [[layer.path for layer in layers] for layers in came] == ([paths] if paths else [])
    by_path = {layer.path: layer for layer in found}
    assert all(completion.layer(by_path[layer.path]) is layer for layers in came for layer in layers)


def test_a_layer_that_cannot_be_used_is_refused_or_skipped_with_its_reason():
    bad = make_stored("bad", moving_variance=np.float32([1, -1, 1, 1]))
    found = make_found(make_stored("good"), bad, skipped=[("other", "no reason")])
    with pytest.raises(LayerError, match=r"bad: moving_variance\[1\] is -1"):
        resolve(make_found(make_stored("good"), bad), ReadOptions())
    bundle = resolve(found, ReadOptions(skip_unresolved=True))
    assert bundle.paths() == ["good"]
    assert [(path, reason.partition(" and")[0]) for path, reason in bundle.skipped] == [
        ("other", "no reason"), ("bad", "moving_variance[1] is -1")]


BAD = {"moving_variance": np.float32([1, -1, 1, 1])}
FIVE = make_stored("five", shape=(2, 3), axis=None)


@pytest.mark.parametrize(("layers", "options", "paths", "skipped"), [
    ([make_stored("a"), make_stored("b")], {}, ["a", "b"], []), ([make_stored("a"), make_stored("b")], {"layers": ("b",)}, ["b"], []),
    ([make_stored("a"), make_stored("bad", **BAD)], {"skip_unresolved": True}, ["a"], ["bad"]),
    ([make_stored("a"), make_stored("bad", **BAD)], {"keep_unusable": True}, ["a"], ["bad"]),
    ([make_stored("bad", **BAD)], {"keep_unusable": True}, [], ["bad"]),
    ([make_stored("bad", **BAD), make_stored("none", epsilon=None)], {"keep_unusable": True, "skip_unresolved": True}, [], ["none", "bad"]),
    ([make_stored("a"), make_stored("none", epsilon=None)], {"skip_unresolved": True}, ["a"], ["none"]),
    ([make_stored("a"), make_stored("none", epsilon=None)], {"epsilon": (("n*", 0.5),)}, ["a", "none"], []),
    ([make_stored("a"), make_stored("doubt", doubt="why")], {"skip_unresolved": True}, ["a"], ["doubt"]),
    ([make_stored("a"), make_stored("doubt", doubt="why", shape=(2, 3), axis=(1, 2))], {"skip_unresolved": True}, ["a"], ["doubt"]),
    ([make_stored("a"), make_stored("doubt", doubt="why")], {"stored_statistics": True}, ["a", "doubt"], []),
    ([make_stored("a"), FIVE], {"skip_unresolved": True}, ["a"], ["five"]), ([make_stored("a", axis=None)], {}, ["a"], [])])
def test_what_becomes_of_each_layer(layers, options, paths, skipped):
    keep = options.get("keep_unusable", False)
    given = ReadOptions(**{name: value for name, value in options.items() if name != "keep_unusable"})
    bundle = resolve(make_found(*layers), given, keep_unusable=keep)
    assert (bundle.paths(), [path for path, _ in bundle.skipped]) == (paths, skipped)
    assert [each.layer.path for each in bundle.unusable] == [path for path in skipped if path == "bad"]


@pytest.mark.parametrize(("layers", "options", "said", "hint"), [
    ([make_stored("bad", **BAD)], {}, "bad: moving_variance[1] is -1", "export an earlier checkpoint"),
    ([make_stored("bad", **BAD)], {"skip_unresolved": True}, "bad: moving_variance[1] is -1", "export an earlier checkpoint"),
    ([make_stored("a"), make_stored("bad", **BAD)], {}, "bad: moving_variance[1] is -1", "; --skip-unresolved writes the rest"),
    ([make_stored("bad", **BAD), make_stored("worse", **BAD)], {}, "2 batch norms cannot be used: bad, worse: moving_variance[1]", ""),
    ([make_stored("none", epsilon=None), make_stored("bad", **BAD)], {}, "2 batch norms cannot be resolved: none: the file does not "
     "contain its epsilon; bad: moving_variance[1] is -1", "give it with --epsilon VALUE"),
    ([make_stored("none", epsilon=None)], {"skip_unresolved": True}, "1 batch norm cannot be resolved: none", "give it with --epsilon"),
    ([make_stored("none", epsilon=None)], {"keep_unusable": True, "skip_unresolved": True}, "1 batch norm cannot be resolved: none", ""),
    ([make_stored("a"), make_stored("doubt", doubt="why")], {}, "doubt: why", "--stored-statistics writes their stored statistics anyway"),
    ([make_stored("a"), make_stored("doubt", doubt="why", axis=None)], {}, "doubt: why", "--stored-statistics writes"),
    ([FIVE.replace(doubt="why")], {}, "five: its parameters have shape [2, 3]", "--architecture FILE"),
    ([FIVE], {}, "five: its parameters have shape [2, 3], and the file does not specify along which axes", "--architecture FILE, which"),
    ([FIVE.replace(epsilon=None)], {"epsilon": (("*", 0.5),)}, "five: its parameters have shape [2, 3]", "--architecture FILE, which"),
    ([make_stored("a", epsilon=None)], {"epsilon": (("b*", 1.0),)}, "--epsilon 'b*' matches none of the batch norms a", ""),
    ([make_stored("a/b")], {"layers": ("x", "a")}, "--layers x, a matches none of the batch norms a/b", "the whole path: give 'a/*'"),
    ([make_stored("c/a/b")], {"layers": ("a/b",)}, "--layers a/b matches none of the batch norms c/a/b", "give '*/a/b'"),
    ([make_stored("a/b")], {"epsilon": (("b", 1.0),)}, "--epsilon 'b' matches none of the batch norms a/b", "give '*/b'"),
    ([make_stored("a")], {"layers": ("b*",)}, "--layers b* matches none of the batch norms a", "")])
def test_what_is_refused(layers, options, said, hint):
    keep = options.get("keep_unusable", False)
    given = ReadOptions(**{name: value for name, value in options.items() if name != "keep_unusable"})
    with pytest.raises(ExporterError) as caught:
        resolve(make_found(*layers), given, keep_unusable=keep)
    assert said in str(caught.value)
    assert hint in caught.value.hint
    assert "matches none" not in said or bool(hint) is bool(caught.value.hint)
    assert ("--skip-unresolved" in caught.value.hint) is (len(layers) > 1 and layers[0].path == "a")


def test_what_would_help_other_layers_is_not_said():
    """Of what --layers leaves out."""
    found = make_found(make_stored("a"), skipped=[("b", "why"), ("c", "because")])
    found.remedies.update(b=Remedy.VERSION, c=Remedy.ARCHITECTURE)
    for layers, hint in ((("b",), "--keras-version"), (("c",), "--architecture")):
        with pytest.raises(UnresolvedError) as caught:
            resolve(found, ReadOptions(layers=layers))
        assert ("--keras-version" in caught.value.hint) is (hint == "--keras-version")
        assert "--architecture" in caught.value.hint
    assert resolve(found, ReadOptions(layers=("a",))).skipped == ()


def test_what_the_user_gave_is_noted():
    found = make_found(make_stored("a", epsilon=None, axis=None), make_stored("b", axis=None),
                       make_stored("c", epsilon=1e-6, effective_epsilon=1.001e-5))
    bundle = resolve(found, ReadOptions(epsilon=(("*", 0.5), ("a", 0.25)), effective_epsilon=True))
    assert [(layer.epsilon, layer.effective_epsilon, layer.assumed) for layer in bundle] == [
        (0.25, None, ("epsilon", "axis")), (1e-3, None, ("axis",)), (1.001e-5, None, ())]
    assert [warning for warning in bundle.warnings if "which axis" in warning] == [
        "b: the file does not say for certain which axis it normalizes; [-1] is assumed"]


@pytest.mark.parametrize("is_read_back", [False, True])
def test_a_given_epsilon_that_is_not_used(is_read_back):
    """Only where the file contains another one: a graph contains 0.001 rounded to float32."""
    own = {"a": 0.001, "b": 1e-5, "c": float(np.float32(0.001)), "d": 1e-5, "e": 1e-6}
    if is_read_back:
        found = ReadBack(layers=(*(make_layer(path, epsilon=value) for path, value in own.items()),
                                 make_layer("f", epsilon=0.01, assumed=("epsilon",))), origin=make_found().origin)
    else:
        found = make_found(*(make_stored(path, epsilon=value) for path, value in own.items()), make_stored("f", epsilon=None))

    def said(*epsilon):
        return [warning for warning in resolve(found, ReadOptions(epsilon=epsilon)).warnings if "--epsilon" in warning]

    assert said(("*", 0.001)) == [
        "b, d, e: the file contains another epsilon than the one given with --epsilon, which is not used: 1e-05, 1e-06"]
    assert said(("[acf]", 0.001), ("d", 1e-5)) == []
    assert said(("*", 0.001), ("[bd]", 1e-5), ("e", 1e-5)) == [
        "e: the file contains another epsilon than the one given with --epsilon, which is not used: 1e-06"]


def test_possible_batch_norms_alone_are_an_error():
    found = make_found()
    found.left_out.append(Skipped("x", "it may be another layer"))
    with pytest.raises(UnsupportedError, match="none of the layers is certain to be a BatchNormalization: x: it may be another layer"):
        resolve(found, ReadOptions())
    found.add(make_stored("a"))
    assert resolve(found, ReadOptions()).paths() == ["a"]


@pytest.mark.parametrize(("obeyed", "words"), [("why", "the model's own predict() normalizes by the statistics"),
    ("", "predict() of Keras 3")])
def test_calls_in_training_are_said_once_for_all_of_a_kind(obeyed, words):
    called = [make_stored(path, called_in_training=path != "c", doubt=obeyed if path != "c" else "") for path in "abc"]
    bundle = resolve(make_found(*called), ReadOptions(stored_statistics=True))
    (said,) = [warning for warning in bundle.warnings if "called with training=True" in warning]
    assert said.startswith(f"a, b: called with training=True: {words}")


def test_options_for_a_bundle_that_is_read_back():
    bundle = ReadBack(layers=(make_layer("a", epsilon=1e-6, effective_epsilon=1.001e-5), make_layer("b")),
                      origin=make_found().origin, skipped=(("c", "x"), ("d", "y")), warnings=("first",))
    read = resolve(bundle, ReadOptions(layers=("a", "d"), effective_epsilon=True))
    assert (read.paths(), read.skipped, read.warnings) == (["a"], (("d", "y"),), ("first",))
    assert (read["a"].epsilon, read["a"].effective_epsilon) == (1.001e-5, None)
    assert resolve(bundle, ReadOptions()) == bundle
    for options in ({"layers": ("x",)}, {"epsilon": (("x", 1.0),)}):
        with pytest.raises(UsageError, match="matches none of the batch norms a, b"):
            resolve(bundle, ReadOptions(**options))
    assert resolve(bundle, ReadOptions(layers=("c",))).paths() == []


def test_a_note_is_said_once_with_its_layers():
    found = make_found(make_stored("a", notes=("first", "second")), make_stored("b"), make_stored("c", notes=("second",)))
    assert resolve(found, ReadOptions()).warnings == ("a: first", "a, c: second")


def test_a_model_without_batch_norms():
    with pytest.raises(UnsupportedError, match="the model contains no BatchNormalization layer"):
        resolve(make_found(), ReadOptions())


def test_layers_that_were_never_updated_are_named():
    new = {"moving_mean": np.zeros(4, np.float32), "moving_variance": np.ones(4, np.float32)}
    (said,) = resolve(make_found(make_stored("a", **new), make_stored("b"), make_stored("c", **new)), ReadOptions()).warnings
    assert said.startswith("a, c: the moving statistics are still 0 and 1, as in a new layer, although gamma or beta were trained: ")


def test_what_cannot_be_folded_is_said_where_kernels_were_read(monkeypatch):
    found = make_found(make_stored("a"), make_stored("b"))
    monkeypatch.setattr("exporter.batchnorm.folded.remark_on", lambda layers, kernels: [f"{layers[1].path}: {kernels['b']}"])
    assert resolve(found, ReadOptions()).warnings == ()
    found.kernels = {"b": "it is shared"}
    assert resolve(found, ReadOptions()).warnings == ("b: it is shared",)


@pytest.mark.parametrize(("hint", "rest", "wanted"), [
    ("do this", True, "do this; --skip-unresolved writes the rest"), ("", True, "--skip-unresolved writes the rest"), ("", False, "")])
def test_the_hint_of_a_layer_that_cannot_be_used(hint, rest, wanted):
    unusable = Unusable(make_stored("a"), "why"), LayerError("why", where="a", hint=hint)
    for count in (1, 2):
        assert _cannot_be_used([unusable] * count, rest=rest).hint == wanted


def test_an_old_statistic_is_converted():
    """Keras 0.2 kept the deviation, in which there is no epsilon to be added."""
    given = make_stored("a", statistic=Statistic.DEVIATION, epsilon=1e-6)
    (layer,) = resolve(make_found(given), ReadOptions())
    assert layer.moving_variance.tolist() != given.moving_variance.tolist()
    assert "moving_variance" in layer.converted
