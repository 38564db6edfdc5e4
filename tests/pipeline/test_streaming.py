"""Inference a block at a time: the blocks are the whole array in its order, and each has the numbers that the whole would have."""

from __future__ import annotations

import io

import numpy as np
import pytest

import exporter
from exporter.pipeline import streaming
from exporter.pipeline.streaming import _part_of, blocks, evaluate_file
from tests.make.layers import make_layer


@pytest.mark.parametrize("shape", [(), (5,), (3, 4), (2, 3, 4), (7, 1, 2, 3), (1, 1), (4, 6)])
@pytest.mark.parametrize("most", [1, 2, 3, 5, 12, 24, 1000])
def test_blocks_are_the_array_in_its_order(shape, most):
    array = np.arange(int(np.prod(shape))).reshape(shape)
    parts = [array[part] for part in blocks(shape, most)]
    assert np.array_equal(np.concatenate([part.ravel() for part in parts]), array.ravel())
    assert all(part.size <= most for part in parts)
    if array.size <= most:
        assert len(parts) == 1


@pytest.mark.parametrize(("shape", "most", "count"), [((10,), 4, 3), ((10,), 5, 2), ((4, 6), 12, 2), ((4, 6), 13, 2), ((4, 6), 11, 4),
                                                      ((4, 6), 5, 8), ((2, 4, 6), 24, 2), ((2, 4, 6), 12, 4), ((0, 3), 5, 0),
                                                      ((3, 0), 5, 0)])
def test_blocks_are_as_large_as_they_may_be(shape, most, count):
    assert len(list(blocks(shape, most))) == count


@pytest.mark.parametrize(("shape", "axis"), [((6, 4), (-1,)), ((5, 4, 3), (1,)), ((5, 2, 3, 2), (1, 3)), ((2, 4, 1), (1,))])
@pytest.mark.parametrize("most", [1, 3, 4, 7, 100])
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "int32", ">f4"])
def test_a_file_in_blocks_is_what_the_layer_gives(monkeypatch, shape, axis, most, dtype):
    monkeypatch.setattr(streaming.blocks, "__defaults__", (most,))
    layer = make_layer(shape=tuple(shape[a] for a in axis), axis=axis)
    x = (np.random.default_rng(1).normal(size=shape) * 3).astype(dtype)
    out = io.BytesIO()
    evaluate_file(layer, x, out)
    got = np.load(io.BytesIO(out.getvalue()))
    want = exporter.evaluate(layer, x.astype(x.dtype.newbyteorder("=")))
    assert got.dtype == want.dtype
    assert np.array_equal(got, want)


def test_what_is_no_input_for_a_file():
    layer = make_layer(shape=(4,))
    with pytest.raises(exporter.UsageError, match="expected an array of numbers as input, got <U1"):
        evaluate_file(layer, np.array([["a"] * 4]), io.BytesIO())
    with pytest.raises(exporter.UsageError, match="expected a float32 input with --fast, got float64"):
        evaluate_file(layer, np.zeros((2, 4)), io.BytesIO(), fast=True)
    out = io.BytesIO()
    evaluate_file(layer, np.zeros((2, 4), np.float32), out, fast=True)
    assert np.allclose(np.load(io.BytesIO(out.getvalue())), layer(np.zeros((2, 4), np.float32)), rtol=1e-5)
    with pytest.raises(exporter.UsageError):
        evaluate_file(layer, np.zeros((2, 5), np.float32), io.BytesIO())


def test_a_block_has_the_channels_that_it_holds():
    layer = make_layer(shape=(4, 3), axis=(1, 2))
    part = _part_of(layer, (1, 2), (slice(0, 1), slice(1, 3), slice(0, 3)))
    assert part.shape == (2, 3)
    assert np.array_equal(part.gamma, layer.gamma[1:3])
    assert _part_of(layer, (1, 2), (slice(0, 1), slice(0, 4), slice(0, 3))) is layer
