"""Checks for all 2**32 float32 bit patterns that the decimal number in a bundle restores the same bits.

    python benchmarks/all_float32.py                        all of them
    python benchmarks/all_float32.py --from 0x15000000 --count 0x1000000 --jobs 4

For each finite value, the shortest decimal (by orjson) is read in both ways that docs/format.md allows:

* parsed as a double, then rounded to float32, with orjson's parser and NumPy's conversion;
* parsed directly as float32: the result of a correct parser can be derived without having one. Let d be the double nearest to the
  decimal s. Every midpoint between two float32 is a double, so s and d lie on the same side of it unless d *is* a midpoint. If d is
  no midpoint, rounding s and rounding d give the same; otherwise s is rounded in exact rational arithmetic.

Exit status 0 if exactly 0x15ae43fd and 0x95ae43fd (if they are in the given range) fail the first way and none fails the second;
exporter/targets/bundle_json.py writes these two with 17 digits.
"""

from __future__ import annotations

import argparse
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from fractions import Fraction
from typing import NamedTuple

import numpy as np
import orjson

CHUNK = 1 << 20
ALL = 1 << 32
KNOWN = (0x15AE43FD, 0x95AE43FD)


class Found(NamedTuple):
    """Of one chunk: how many were finite, and the bits of those that did not come back."""

    finite: int
    through_double: list[int]
    directly: list[int]


def check(start: int, count: int) -> Found:
    """Looks at the bit patterns start .. start + count - 1."""
    bits = np.arange(start, start + count, dtype=np.uint64).astype(np.uint32)
    bits = bits[(bits & 0x7F800000) != 0x7F800000]
    if not bits.size:
        return Found(0, [], [])
    values = bits.view(np.float32)
    text = orjson.dumps(values, option=orjson.OPT_SERIALIZE_NUMPY)
    doubles = np.array(orjson.loads(text), np.float64)
    if doubles.size != bits.size:
        raise SystemExit(f"{bits.size} numbers were written, {doubles.size} read")
    rounded = doubles.astype(np.float32)
    back = rounded.view(np.uint32)
    middle = np.flatnonzero(_is_midpoint(doubles, rounded))
    words = text[1:-1].split(b",") if middle.size else []
    directly = back.copy()
    for i in middle:
        directly[i] = _nearest(Fraction(words[i].decode()), values[i])
    return Found(int(bits.size), bits[back != bits].tolist(), bits[directly != bits].tolist())


def _is_midpoint(doubles: np.ndarray, rounded: np.ndarray) -> np.ndarray:
    """Whether a double lies exactly half way between two neighboring float32."""
    error = doubles - rounded  # exact
    with np.errstate(over="ignore"):  # above the largest number comes infinity
        toward = np.nextafter(rounded, np.where(error > 0, np.float32(np.inf), np.float32(-np.inf)))
    return (error != 0) & (2 * error == toward.astype(np.float64) - rounded)


def _nearest(exact: Fraction, value: np.float32) -> int:
    """Bits of the float32 nearest to `exact`, to the even one of two: it is `value` or one of its neighbors."""
    near = (value, np.nextafter(value, np.float32(np.inf)), np.nextafter(value, np.float32(-np.inf)))
    best = min(near, key=lambda v: (abs(Fraction(float(v)) - exact), int(v.view(np.uint32)) & 1))
    return int(best.view(np.uint32))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--from", dest="start", type=lambda word: int(word, 0), default=0, metavar="BITS", help="first bit pattern")
    parser.add_argument("--count", type=lambda word: int(word, 0), default=None, help="how many; default: all that follow")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    args = parser.parse_args()
    end = ALL if args.count is None else min(ALL, args.start + args.count)
    starts = range(args.start, end, CHUNK)
    counts = [min(CHUNK, end - start) for start in starts]
    began = time.monotonic()
    finite, through_double, directly = 0, [], []
    with ProcessPoolExecutor(args.jobs) as pool:
        for number, found in enumerate(pool.map(check, starts, counts), 1):
            finite += found.finite
            through_double += found.through_double
            directly += found.directly
            if number % 64 == 0 or number == len(counts):
                done, rate = starts[number - 1] + counts[number - 1], finite / (time.monotonic() - began) / 1e6
                print(f"{done:#011x}: {finite} finite, {rate:.1f} million/s", file=sys.stderr, flush=True)
    print(f"bit patterns {args.start:#x} to {end - 1:#x}: {finite} finite float32 values")
    print(f"through a double, not given back: {len(through_double)} {' '.join(map(hex, through_double[:20]))}")
    print(f"directly, not given back: {len(directly)} {' '.join(map(hex, directly[:20]))}")
    expected = [bits for bits in KNOWN if args.start <= bits < end]
    return 0 if through_double == expected and not directly else 1


if __name__ == "__main__":
    raise SystemExit(main())
