"""Pieces of a local file, read a window at a time."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exporter.files.input_file import AHEAD, MAX_WINDOWS, LocalFile, Windows

FIRST = 64  # bytes of a piece
WINDOW = FIRST + AHEAD  # bytes that are read with it
SIZE = 5 * WINDOW + 100
DATA = bytes(range(251)) * (SIZE // 251 + 1)
PIECES = st.lists(st.tuples(st.integers(0, SIZE + 10), st.sampled_from((0, 1, 24, 272, WINDOW - 1, WINDOW, WINDOW + 1, 2 * WINDOW))))


class Counted(LocalFile):
    """Counts the pieces that it is asked for."""

    asked = 0

    def read_at(self, at, size):
        self.asked += 1
        return super().read_at(at, size)


def opened(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(DATA[:SIZE])
    return Counted(os.open(path, os.O_RDONLY))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(PIECES)
def test_every_piece_is_what_the_file_contains_there(tmp_path, pieces):
    with opened(tmp_path) as file:
        windows = Windows(file)
        assert [windows.read_at(at, size) for at, size in pieces] == [DATA[:SIZE][at: at + size] for at, size in pieces]


def test_what_follows_a_piece_is_not_read_again(tmp_path):
    assert WINDOW % FIRST == FIRST // 2
    with opened(tmp_path) as file:
        windows = Windows(file)
        for start in range(0, MAX_WINDOWS * WINDOW, WINDOW):
            for at in range(start, start + WINDOW, FIRST // 2):
                windows.read_at(at, FIRST if at == start else FIRST // 2)
        assert file.asked == MAX_WINDOWS
        windows.read_at(0, WINDOW)
        assert file.asked == MAX_WINDOWS  # the latest ones are kept
        windows.read_at(4 * WINDOW, 8)
        windows.read_at(0, 8)
        assert file.asked == MAX_WINDOWS + 2  # the oldest one was given up
