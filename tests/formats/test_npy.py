"""NumPy's .npy: what is written is what NumPy reads, and what is not of that form is refused."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest

from exporter.errors import FormatError
from exporter.formats import npy


@pytest.mark.parametrize("kind", npy.TYPES)
@pytest.mark.parametrize("shape", [(), (1,), (5,), (0,), (2, 3), (1, 2, 3, 4), (1000,)])
def test_what_is_written_is_what_numpy_reads(kind, shape):
    array = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(kind)
    data = npy.dump(array)
    assert (len(data) - array.nbytes) % 64 == 0
    for found in (np.load(io.BytesIO(data)), npy.parse(data, "x")):
        assert (found.dtype, found.shape, found.tobytes()) == (array.dtype, shape, array.tobytes())


def made(header="{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }    \n", data=bytes(8), magic=b"\x93NUMPY\1\0", length=None):
    return magic + struct.pack("<H", len(header) if length is None else length) + header.encode() + data


@pytest.mark.parametrize(("data", "said"), [
    (made(), None), (made("{'descr': '<f4', 'fortran_order': False, 'shape': (1,2), }\n"), None),
    (made("{'descr': '|u1', 'fortran_order': False, 'shape': (2, 4), }\n"), None), (made(magic=b"\x93NUMPY\2\0"), "version 1.0"),
    (made(magic=b"\x93NUMPZ\1\0"), "version 1.0"), (made(length=10), "version 1.0"), (made(length=9999), "version 1.0"),
    (b"", "version 1.0"),
    (made("{'descr': '<f4', 'fortran_order': True, 'shape': (2,), }\n"), "row-major"),
    (made("{'descr': '>f4', 'fortran_order': False, 'shape': (2,), }\n"), "expected an array of one of <f2, <f4, <f8, |u1, got >f4"),
    (made("{'descr': '<i4', 'fortran_order': False, 'shape': (2,), }\n"), "expected an array of one of <f2, <f4, <f8, |u1, got <i4"),
    (made("{'descr': '|O8', 'fortran_order': False, 'shape': (1,), }\n"), "got |O8"),
    (made(f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({'1, ' * 65}), }}\n", bytes(4)), "shape that an array can have, got [1,"),
    (made("{'descr': '<f4', 'fortran_order': False, 'shape': (0, 9999999999, 9999999999), }\n", b""), "got [0, 9999999999, 9999999999]"),
    (made(data=bytes(7)), "expected 8 bytes for shape [2], got 7"),
    (made(data=bytes(9)), "expected 8 bytes for shape [2], got 9"), (made(data=b""), "expected 8 bytes for shape [2], got 0")])
def test_what_is_read_and_what_is_refused(data, said):
    if said is None:
        assert npy.parse(data, "x").nbytes == 8
        return
    with pytest.raises(FormatError) as caught:
        npy.parse(data, "x")
    assert said in str(caught.value)
    assert caught.value.where == "x"
