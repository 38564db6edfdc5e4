"""Which bytes of a file far away are fetched: windows around what is wanted, each byte at most once, and what a server may send instead."""

from __future__ import annotations

import io
import itertools
import random

import pytest

from exporter.errors import FormatError
from exporter.files import ranges
from exporter.files.ranges import Ranges, RangesFile

KiB, MiB = 1 << 10, 1 << 20


class Zeros:
    """A file of zeros of any size; asked: the ranges of each call, in which a list of its own for each."""

    def __init__(self, size, packs=False, answer=lambda start, end: bytes(end - start)):
        self.size, self.packs, self.answer, self.asked, self.questions = size, packs, answer, [], 0

    def fetch(self, wanted):
        self.asked.append(list(wanted))
        return [self.answer(start, end) for start, end in wanted]

    def fetch_whole(self):
        self.asked.append([(0, self.size)])
        return bytes(self.size)

    def packs_ranges(self):
        self.questions += 1
        return self.packs


def of(size, **more):
    far = Zeros(size, **more)
    return far, Ranges(far, size, "f")


@pytest.mark.parametrize(("size", "behind", "ahead", "narrow"), [
    (1 * MiB, 4096, 4096, 4096), (64 * MiB, 8192, 16384, 4096), (100 * MiB, 12800, 25600, 6400), (256 * MiB, 32768, 65536, 16384),
    (4096 * MiB, 65536, 65536, 65536)])
def test_windows_grow_with_the_file(size, behind, ahead, narrow):
    far, content = of(size)
    content.read(500_000, 500_001)
    assert far.asked == [[(500_000, 500_000 + ahead)]]
    far, content = of(size)
    content.fetch_ahead([(500_000, 500_001)])
    assert far.asked == [[(500_000 - behind, 500_000 + ahead)]]
    assert far.questions == 0, "few ranges are worth no question"
    far, content = of(size, packs=True)
    content.fetch_ahead([(500_000, 500_001)] * 9)
    assert (far.asked, far.questions) == ([[(500_000, 500_000 + narrow)]], 1)
    far, content = of(size)
    content.fetch_ahead([(500_000, 500_001)] * 8)
    assert far.questions == 0, "nor are eight"
    far, content = of(size)
    content.fetch_ahead([(500_000, 500_001)] * 9)
    assert (far.asked, far.questions) == ([[(500_000 - behind, 500_000 + ahead)]], 1)


def test_windows_end_with_the_file_and_hold_what_is_longer():
    far, content = of(MiB)
    content.fetch_ahead([(10, 20), (MiB - 5, MiB + 50), (300_000, 400_000)])
    assert far.asked == [[(0, 4106), (300_000 - 4096, 400_000), (MiB - 5 - 4096, MiB)]]
    assert len(content.read(MiB - 5, MiB + 50)) == 5
    assert content.read(MiB, MiB + 5) == content.read(50, 50) == content.read(50, 40) == b""
    far, content = of(MiB)
    content.read(300_000, 400_000)
    content.read(MiB - 10, MiB)
    assert far.asked == [[(300_000, 400_000)], [(MiB - 10, MiB)]]


@pytest.mark.parametrize(("gap", "count"), [(2048, 1), (2049, 2)])
def test_neighbors_are_fetched_in_one(gap, count):
    far, content = of(MiB)
    second = 100_000 + 4096 + gap + 4096
    content.fetch_ahead([(second, second + 1), (100_000, 100_001)])
    assert len(far.asked[0]) == count
    assert far.asked[0][0][0] == 100_000 - 4096
    assert far.asked[0][-1][1] == second + 4096
    far, content = of(MiB)
    content.fetch_ahead([(100_000, 200_000), (120_000, 120_001)])
    assert far.asked == [[(95_904, 200_000)]], "one inside of the other"


def test_only_what_is_missing_is_fetched():
    far, content = of(MiB)
    content.read(100_000, 100_001)  # to 104_096
    content.read(103_000, 105_000)
    assert far.asked[1:] == [[(104_096, 108_192)]]
    content.fetch_ahead([(100_000, 100_500), (108_000, 108_192)])
    assert len(far.asked) == 2, "nothing is missing of these"
    content.read(90_000, 120_000)
    assert far.asked[2:] == [[(90_000, 100_000), (108_192, 120_000)]]
    content.fetch_ahead([(85_000, 85_010), (100_000, 100_010)])
    assert far.asked[3:] == [[(80_904, 89_096)]]
    far, content = of(MiB)
    content.read(104_000, 104_001)
    content.read(100_000, 100_010)
    assert far.asked[1:] == [[(100_000, 104_000)]], "up to what is there"


@pytest.mark.parametrize(("size", "whole"), [(128 * KiB, True), (128 * KiB + 1, False)])
def test_a_small_file_is_fetched_whole(size, whole):
    for call in (lambda content: content.read(5, 9), lambda content: content.fetch_ahead([(5, 9)])):
        far, content = of(size)
        call(content)
        assert (far.asked == [[(0, size)]]) == whole


def test_any_reading_gives_the_files_bytes_and_none_twice():
    chance = random.Random(4)
    data = chance.randbytes(300_000)
    for _ in range(15):
        far = Zeros(len(data), packs=chance.random() < 0.5, answer=lambda start, end: data[start:end])
        content = Ranges(far, len(data), "f")
        for _ in range(30):
            start = chance.randrange(len(data) + 100)
            end = start + chance.choice([1, 10, 3000, 60_000])
            if chance.random() < 0.4:
                content.fetch_ahead([(start, end), (start + 70_000, end + 70_000)] * chance.choice([1, 5]))
            else:
                assert content.read(start, end) == data[start:end]
        pieces = sorted(piece for call in far.asked for piece in call)
        assert all(a[1] <= b[0] for a, b in itertools.pairwise(pieces))


def test_a_server_that_knows_no_ranges_sends_the_file_for_the_first():
    data = bytes(range(256)) * 4096
    far = Zeros(len(data), answer=lambda start, end: data)
    content = Ranges(far, len(data), "f")
    content._keep(7, data[7:9])
    assert content.read(500_000, 500_010) == data[500_000:500_010]
    assert content.read(0, len(data)) == data
    assert len(far.asked) == 1


@pytest.mark.parametrize("off", [-1, 1])
def test_an_answer_of_another_length_is_refused(off):
    _, content = of(MiB, answer=lambda start, end: bytes(end - start + off))
    with pytest.raises(FormatError, match=f"f: expected 4096 bytes from the server, got {4096 + off}"):
        content.read(500_000, 500_001)


def test_no_more_than_the_limit_is_kept(monkeypatch):
    monkeypatch.setattr(ranges, "MAX_KEPT", 8192)
    _, content = of(MiB)
    content.read(0, 8192)
    assert content.read(0, 8192) == bytes(8192)
    with pytest.raises(FormatError, match="expected to fetch at most 8192 bytes of it, needed more"):
        content.read(8192, 8193)
    _, content = of(200_000, answer=lambda start, end: bytes(200_000))
    with pytest.raises(FormatError, match="needed more"):
        content.read(5, 6)
    with pytest.raises(FormatError, match="needed more"):
        Ranges(Zeros(9000), None, "f")


def test_as_a_file():
    data = bytes(range(256)) * 1024
    with RangesFile(Ranges(Zeros(len(data), answer=lambda start, end: data[start:end]), len(data), "f")) as file:
        assert file.is_far
        assert (file.readable(), file.seekable(), file.writable()) == (True, True, False)
        assert (file.seek(100), file.tell(), file.read(5), file.tell()) == (100, 100, data[100:105], 105)
        assert (file.seek(-5, io.SEEK_CUR), file.read(2)) == (100, data[100:102])
        assert (file.seek(-3, io.SEEK_END), file.read(10), file.tell()) == (len(data) - 3, data[-3:], len(data))
        assert file.seek(-10) == 0
        assert file.read_at(300, 7) == data[300:307]
        assert (file.seek(len(data) - 700), file.read()) == (len(data) - 700, data[-700:])
        assert file.tell() == len(data)
        buffer = bytearray(b"x" * 8)
        file.seek(len(data) - 3)
        assert (file.readinto(buffer), bytes(buffer)) == (3, data[-3:] + b"x" * 5)
        file.fetch_ahead([(0, 10)])
        assert file._content.read(0, 10) == data[:10]
