"""Numbers as people have them: typed, printed by a framework, with commas for points; alone, or in a file of their own."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest

import exporter
from exporter.commands.diagnose import diagnose
from exporter.diagnosis.alone import of_numbers
from exporter.diagnosis.samples import Numbers, from_text, looks_like_numbers, read
from exporter.files.place import Place
from tests.make.layers import make_layer
from tests.make.ports import torch_state

WHOLE = np.array([[1, 2], [3, -4]])


@pytest.mark.parametrize("text", [
    "array([[ 1.,  2.],\n       [ 3., -4.]], dtype=float32)", "np.array([[1, 2], [3, -4]])", "array([[1., 2.], [3., -4.]])",
    "tensor([[ 1.,  2.],\n        [ 3., -4.]])", "tensor([[1., 2.], [3., -4.]], device='cuda:0', grad_fn=<NativeBatchNormBackward0>)",
    "tensor([[1., 2.], [3., -4.]], dtype=torch.float64, requires_grad=True)",
    "Parameter containing:\ntensor([[1., 2.],\n [3., -4.]], requires_grad=True)",
    "tf.Tensor(\n[[ 1.  2.]\n [ 3. -4.]], shape=(2, 2), dtype=float32)",
    "<tf.Tensor: shape=(2, 2), dtype=float32, numpy=\narray([[ 1.,  2.],\n       [ 3., -4.]], dtype=float32)>",
    "<tf.Variable 'bn/x:0' shape=(2, 2) dtype=float32, numpy=array([[ 1.,  2.],\n [ 3., -4.]], dtype=float32)>",
    "<Variable path=net/bn-1/x, shape=(2, 2), dtype=float32, value=[[ 1.  2.]\n [ 3. -4.]]>", "{{1.0f, 2.f}, {3.0F, -4.0f}}",
    "Array([[ 1.,  2.],\n       [ 3., -4.]], dtype=float32, weak_type=True)", "Tensor\n    [[1, 2 ],\n     [3, -4]]",
    "Tensor\n  dtype: float32\n  rank: 2\n  shape: [2,2]\n  values:\n    [[1, 2 ],\n     [3, -4]]",
    "[[np.float32(1.0), np.float32(2.0)], [np.float32(3.0), np.float32(-4.0)]]", "[[1, 2], [3, -4]]", "[[1. 2.]\n [3. -4.]]"])
def test_print_outs(text):
    assert looks_like_numbers(text)
    assert np.array_equal(from_text(text).values, WHOLE)


@pytest.mark.parametrize(("text", "values"), [
    ("tf.Tensor(0.5, shape=(), dtype=float32)", [0.5]), ("tensor(0.5)", [0.5]), ("np.float32(0.5)", 0.5),
    ("Float32Array(2) [ 1, 2.5 ]", [1, 2.5]),
    ("[1] 0.5 -1.25\n[3] 2.0", [0.5, -1.25, 2]), (" 1  2\n 3 -4\n[torch.FloatTensor of size 2x2]\n", [1, 2, 3, -4]), ("[1]", [1]),
    ("tensor([1.0000e-03, nan, inf])", [0.001, np.nan, np.inf]), ("Tensor [1, 2]", [1, 2]), ("1e-3, -inf", [0.001, -np.inf])])
def test_small_print_outs(text, values):
    assert np.array_equal(from_text(text).values, values, equal_nan=True)


@pytest.mark.parametrize("space", [" ", "\n", "\t\n "])
def test_long_runs_of_spaces_take_no_longer_than_other_text(space):
    began = time.process_time()
    for words in ("tensor([1.5,{}2.5])", "[1] 1.5{}2.5", "[1.5{}2.5{}]"):
        assert from_text(words.replace("{}", space * 100_000)).values.tolist() == [1.5, 2.5]
    if "\n" in space:
        assert from_text(f"1,5{space * 100_000}2,5").values.tolist() == [1, 5, 2, 5]
    else:
        with pytest.raises(exporter.UsageError, match="a comma separates numbers"):
            from_text(f"1,5{space * 100_000}2,5")
    assert time.process_time() - began < 5


def test_the_digits_of_a_print_out_count():
    assert from_text("tensor([0.6250, 2.9920])").half.tolist() == [5e-5, 5e-5]


def test_a_print_out_with_numbers_left_out_is_refused():
    with pytest.raises(exporter.UsageError, match="array is abbreviated"):
        from_text("tensor([0.1, 0.2, ..., 0.9])")


@pytest.mark.parametrize("text", ["3,5; 4,5", "3,5;4,5", "-3,5 4,5", "0,30664611", "-0,077417567", "2,05", "0,25; 0,75", "1,25 2,5 3,75",
                                  "3,5; 4", "3; 4,5; 6"])
def test_decimal_commas_are_refused(text):
    with pytest.raises(exporter.UsageError, match="not a decimal point"):
        from_text(text)


@pytest.mark.parametrize(("text", "count"), [
    ("1, 5", 2), ("1,5", 2), ("-1,1", 2), ("1,2,3", 3), ("0.25,0.5", 2), ("[[1,5],[2,6]]", 4), ("0,255,128", 3), ("1, 2; 3, 4", 4),
    ("1 2\n3 4", 4), ("1,2\n3,4", 4), ("1,2;", 2), ("1, 2; 3, 4;\n", 4)])
def test_commas_that_separate(text, count):
    assert from_text(text).values.size == count


def test_tables_with_decimal_commas_are_refused(run, tmp_path):
    (tmp_path / "x.csv").write_text("3,5;4,5\n2,5;1,5\n")
    code, _, err = run(diagnose, "--mean", "0", "--variance", "1", "--input", tmp_path / "x.csv", "--output", "1")
    assert (code, "not a decimal point" in err) == (2, True)


# numbers alone

FIVE = {"--gamma": "1.5, 0.75, 2", "--beta": "0.25, -1, 0.5", "--mean": "0.5, -2, 1", "--variance": "4, 0.25, 9", "--epsilon": "0.001"}


def words(**more):
    return [word for pair in {**FIVE, **more}.items() if pair[1] is not None for word in pair]


def test_five_numbers_make_a_layer(run):
    code, out, err = run(diagnose, *words(), "--input", "1, 2, -3", "--output", "0.624953, 4.98804, -2.16652")
    assert (code, err) == (0, "")
    assert out.startswith("numbers: same. 3 numbers")
    code, out, _ = run(diagnose, *words(), "--input", "1, 2, -3", "--output", "0.437453, 10.9522, -0.38879")
    assert code == 1
    assert "BN111  divided by the variance" in out


def test_negative_numbers_may_follow_an_option(run):
    code, out, _ = run(diagnose, "--gamma", "1", "--mean", "-2", "--beta", "-1", "--variance", "4", "--input", "-1", "--output", "-0.5")
    assert code == 0, out
    assert "note: epsilon was not given: Keras's default, 0.001, is assumed" in out


def test_any_may_be_missing(run):
    code, out, _ = run(diagnose, "--mean", "0.5", "--input", "1", "--output", "0.49975")
    assert code == 0
    assert "moving_variance was not given: 1 is assumed" in out


def test_printed_parameters_are_known_to_their_digits(run, tmp_path):
    """PyTorch prints 4 digits: the output is right within what they leave open, and beyond that it is not."""
    layer = make_layer("bn", seed=3).replace(moving_variance=np.array([0.81237, 0.000436493, 1.5, 3.25], np.float32))
    x = np.array([[0.5, 1, -2, 3], [1, 2, 0, 1]], np.float32)
    printed = {f"--{name}": "tensor([" + ", ".join(f"{value:.4f}" for value in values.tolist()) + "])"
               for name, values in zip(("gamma", "beta", "mean", "variance"), layer.parameters().values())}
    shown = [word for pair in printed.items() for word in pair]
    code, out, _ = run(diagnose, *shown, "--epsilon", "0.001", "--input", str(x.tolist()), "--output", str(layer(x).tolist()))
    assert code == 0, out
    assert "the parameters and the input are also rounded to the typed digits" in out
    np.save(tmp_path / "x.npy", x)  # an input that is exact
    code, out, _ = run(diagnose, *shown, "--epsilon", "0.001", "--input", tmp_path / "x.npy", "--output", str(layer(x).tolist()))
    assert code == 0, out
    wrong = str(layer.replace(gamma=layer.beta, beta=layer.gamma)(x).tolist())
    code, out, _ = run(diagnose, *shown, "--epsilon", "0.001", "--input", str(x.tolist()), "--output", wrong)
    assert (code, "BN133" in out) == (1, True)
    assert "note: these explanations are right if the parameters and the input are also rounded to the typed digits" in out


def test_an_input_that_was_typed_with_few_digits():
    """1/3 as 0.3333, multiplied by a scale of 100."""
    numbers = {"gamma": 200, "beta": 0, "moving_mean": 0, "moving_variance": 4}
    layer = make_layer("bn", shape=(1,), epsilon=0.0).replace(**{name: np.float32([value]) for name, value in numbers.items()})
    found = exporter.diagnose(layer, "0.3333", [[100 / 3]])
    assert found.verdict == "same"
    assert "right if the input is also rounded to the typed digits" in found.notes


@pytest.mark.parametrize(("given", "message"), [
    (["out.json", "--gamma", "1"], "describes a layer without a file, but a file was given"),
    (["--gamma", "1, 2", "--mean", "1, 2, 3"], "expected 3 numbers, one a channel, got 2"),
    (["--gamma", "", "--mean", "1"], "--gamma: no numbers are given"),
    (["--mean", "1, 2", "--channel", "2"], "there is no channel 2"), (["--mean", "1", "--channel", "-1"], "there is no channel -1"),
    (["--mean", "<KerasVariable shape=(2,), dtype=float32, path=bn/mean>"], "no numbers are given"),
    (["--gamma", "x.npy"], "x.npy: no such file"), (["--gamma", "x"], "neither a file nor numbers")])
def test_what_cannot_be_a_layer(run, given, message):
    code, out, err = run(diagnose, *given, "--input", "1", "--output", "1")
    assert (code, out) == (2, "")
    assert message in err


@pytest.mark.parametrize("form", ["keras.json", "short.json", "nested.json", "four.npz", "five.npz", "own.csv", "state.npz"])
def test_files_of_ones_own(run, tmp_path, form):
    layer = make_layer("bn", seed=8, epsilon=0.002)
    arrays = layer.parameters()
    short = {name.removeprefix("moving_"): values for name, values in arrays.items()}
    path, more = tmp_path / form, []
    if form.endswith(".json"):
        numbers = {name: values.tolist() for name, values in (arrays if form == "keras.json" else short).items()} | {"epsilon": 0.002}
        path.write_text(json.dumps({"head": numbers} if form == "nested.json" else numbers))
    elif form == "own.csv":
        exporter.write(exporter.Bundle(layers=(layer,), origin=exporter.Origin(file="m", kind="k")), path)
    else:
        more = [] if form == "five.npz" else ["--epsilon", "0.002"]
        names = {"four.npz": arrays, "five.npz": short | {"epsilon": np.float64(0.002)},
                 "state.npz": {"bn.weight": layer.gamma, "bn.bias": layer.beta, "bn.running_mean": layer.moving_mean,
                               "bn.running_var": layer.moving_variance}}
        np.savez(path, **names[form])
    x = np.random.default_rng(0).normal(size=(7, 4)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", layer(x))
    np.save(tmp_path / "wrong.npy", layer.replace(gamma=layer.beta, beta=layer.gamma)(x))
    code, out, err = run(diagnose, path, *more, "--input", tmp_path / "x.npy", "--output", tmp_path / "y.npy")
    assert (code, err) == (0, ""), out
    assert "assumed" not in out
    code, out, _ = run(diagnose, path, *more, "--input", tmp_path / "x.npy", "--output", tmp_path / "wrong.npy")
    assert (code, "BN133" in out) == (1, True)


def test_a_file_without_a_layer(run, tmp_path):
    np.savez(tmp_path / "s.npz", **{"fc.weight": np.ones((3, 3), np.float32), "fc.bias": np.ones(3, np.float32)})
    code, out, err = run(diagnose, tmp_path / "s.npz", "--input", "1", "--output", "1")
    assert (code, out) in ((1, ""), (2, ""))
    assert "batch norm" in err
    assert "foresaw" not in err


def test_layers_of_a_file_keep_their_names(run, tmp_path):
    first, second = make_layer("stem.bn", seed=8, epsilon=1e-5), make_layer("head.bn", seed=9, epsilon=1e-5)
    np.savez(tmp_path / "s.npz", **torch_state(first, second))
    np.save(tmp_path / "x.npy", np.ones((2, 4), np.float32))
    np.save(tmp_path / "y.npy", second(np.ones((2, 4), np.float32)))
    code, out, _ = run(diagnose, tmp_path / "s.npz", "--layer", "head.bn", "--input", tmp_path / "x.npy", "--output", tmp_path / "y.npy")
    assert (code, out.startswith("head.bn: same")) == (0, True), out


@pytest.mark.parametrize(("text", "what"), [
    ("[" * 100 + "1" + "]" * 100, "brackets nested too deeply"), ("[1, 2", "a bracket is not closed"),
    ("1]", "a bracket is closed that was not opened")])
def test_brackets_that_give_no_shape(text, what):
    with pytest.raises(exporter.ExporterError, match=what):
        from_text(text)


@pytest.mark.parametrize(("dtype", "expected"), [("float64", "float64"), ("float32", "float32")])
def test_exact_arrays_are_taken_in_their_own_precision(dtype, expected):
    given = of_numbers({"gamma": Numbers(np.array([1.5, 2], dtype), None), "mean": Numbers(np.array([0.1, 0.2], dtype), None)}, 1e-3)
    assert given.bundle.layers[0].dtype == expected
    typed = of_numbers({"gamma": from_text("1.5, 2"), "mean": Numbers(np.array([0.1, 0.2], dtype), None)}, 1e-3)
    assert typed.bundle.layers[0].dtype == "float32"


def test_the_last_digit_of_a_parameter_is_half_open(run):
    """0.2500 stands for 0.24995 to 0.25005, and so on: within what that leaves open the output is right."""
    words = ["--gamma", "1.5000", "--beta", "0.2500", "--mean", "1.0000", "--variance", "4.0000", "--epsilon", "0", "--input", "3.000000"]
    for output, code in (("1.750000", 0), ("1.750100", 0), ("1.749900", 0), ("1.750400", 1), ("1.749600", 1)):
        assert run(diagnose, *words, f"--output={output}")[0] == code, output


def test_a_state_without_epsilon_takes_its_frameworks_default(run, tmp_path):
    layer = make_layer("bn", seed=8, epsilon=1e-5)
    np.savez(tmp_path / "s.npz", **{"bn.weight": layer.gamma, "bn.bias": layer.beta, "bn.running_mean": layer.moving_mean,
                                    "bn.running_var": layer.moving_variance})
    x = np.random.default_rng(0).normal(size=(7, 4)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", layer(x))
    code, out, _ = run(diagnose, tmp_path / "s.npz", "--input", tmp_path / "x.npy", "--output", tmp_path / "y.npy")
    assert code == 0
    assert "PyTorch's default, 1e-05, is assumed" in out


def test_arrays_in_standard_input(tmp_path):
    np.savez(tmp_path / "x.npz", a=np.ones(2), b=np.zeros(3))
    np.save(tmp_path / "x.npy", np.ones(4))
    for word, file, size in (("-:a", "x.npz", 2), ("-:b", "x.npz", 3), ("-", "x.npy", 4)):
        assert read(word, "input", Place(tmp_path / file)).values.size == size
    with pytest.raises(exporter.UsageError, match="neither a file nor numbers"):
        read("-:a", "input")
    assert read(str(tmp_path / "x.npy"), "input", Place(tmp_path / "x.npz")).values.size == 4
    for word, said in (("-", "it contains the arrays a, b"), ("-:c", "it contains the arrays a, b, not 'c'")):
        with pytest.raises(exporter.UsageError) as error:
            read(word, "input", Place(tmp_path / "x.npz"))
        assert error.value.what == said


def test_empty_lines_of_a_table_are_no_rows(tmp_path):
    (tmp_path / "x.csv").write_text("1,2\n\n3,4\n")
    assert read(str(tmp_path / "x.csv"), "input").values.tolist() == [[1, 2], [3, 4]]
