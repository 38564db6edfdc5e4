"""How many bytes are read: in proportion to the batch norms, not to the model. Counted by the kernel, in a process of its own."""

from __future__ import annotations

import os
import pathlib

import numpy as np
import pytest

from tests.make import processes
from tests.make.layers import script
from tests.make.tensor_files import DTYPES, field, fixed32, masked_crc, shape_proto, table

pytestmark = pytest.mark.skipif(not pathlib.Path("/proc/self/io").exists(), reason="the system does not count the bytes a process reads")

# The first reading imports what is needed and is not counted.
COUNT = """
import sys, exporter
def count():
    with open("/proc/self/io", "rb", buffering=0) as file:
        return int(file.read().split()[1])
options = {"epsilon": 1e-3} if sys.argv[3] == "checkpoint" else {}
exporter.read(sys.argv[1], **options)
before = count()
bundle = exporter.read(sys.argv[2], **options)
print(count() - before, sum(values.nbytes for layer in bundle for values in layer.parameters().values()), len(bundle))
"""


def count(small, large, kind="model"):
    """(bytes read for `large`, bytes of its batch norms, how many there are)."""
    done = processes.run(COUNT, small, large, kind, text=True)
    assert done.returncode == 0, done.stderr
    return tuple(map(int, done.stdout.split()))


@pytest.mark.parametrize("suffix", ["h5", pytest.param("keras", marks=pytest.mark.thorough("much time"))])
def test_of_a_densenet_hardly_more_than_the_batch_norms_is_read(tmp_path, suffix):
    made = script("benchmarks/models.py")
    write = made.write_h5 if suffix == "h5" else made.write_keras
    layers = made.densenet201()
    write(tmp_path / f"small.{suffix}", made.row(1, 4))
    write(tmp_path / f"large.{suffix}", layers)
    read, own, number = count(tmp_path / f"small.{suffix}", tmp_path / f"large.{suffix}")
    assert number == 201
    metadata = (tmp_path / f"large.{suffix}").stat().st_size - sum(value.nbytes for layer in layers for value in layer.weights.values())
    assert read <= 2 * own + metadata, f"{read} bytes for {own} of batch norms; the file holds {metadata} of metadata"


@pytest.mark.parametrize("suffix", ["h5", pytest.param("keras", marks=pytest.mark.thorough("much time"))])
def test_a_layer_of_a_million_channels_is_read_once(tmp_path, suffix):
    made = script("benchmarks/models.py")
    write = made.write_h5 if suffix == "h5" else made.write_keras
    write(tmp_path / f"small.{suffix}", made.row(1, 4))
    write(tmp_path / f"large.{suffix}", made.row(1, 1 << 20))
    read, own, _ = count(tmp_path / f"small.{suffix}", tmp_path / f"large.{suffix}")
    assert own == 16 << 20
    assert read < 1.05 * own


def write_checkpoint(folder, layers, kernel):
    """model.index and its data, in which each of `layers` batch norms of 512 channels follows a kernel of `kernel` bytes that is a hole."""
    entries = [(b"", field(1, 1) + field(3, field(1, 1)))]
    folder.mkdir()
    with open(folder / "model.data-00000-of-00001", "wb") as data:
        for layer in range(layers):
            entries.append((b"net/%d/conv/kernel" % layer, field(1, DTYPES["float32"]) + field(2, shape_proto((kernel // 4,)))
                            + field(4, data.tell()) + field(5, kernel) + fixed32(6, 0)))
            data.seek(kernel, os.SEEK_CUR)
            for name in ("beta", "gamma", "moving_mean", "moving_variance"):
                payload = np.random.default_rng(layer).random(512, np.float32).tobytes()
                entries.append((f"net/{layer}/bn/{name}".encode(), field(1, DTYPES["float32"]) + field(2, shape_proto((512,)))
                                + field(4, data.tell()) + field(5, len(payload)) + fixed32(6, masked_crc(payload))))
                data.write(payload)
    (folder / "model.index").write_bytes(table(sorted(entries), per_block=16))
    return folder / "model"


def test_of_a_checkpoint_of_10_gb_its_batch_norms_are_read(tmp_path):
    small, large = write_checkpoint(tmp_path / "small", 1, 100), write_checkpoint(tmp_path / "large", 100, 100 << 20)
    data, index = (large.with_name(name).stat().st_size for name in ("model.data-00000-of-00001", "model.index"))
    assert data > 10**10
    read, own, number = count(small, large, "checkpoint")
    assert number == 100
    assert read <= own + 2 * index + 65536
