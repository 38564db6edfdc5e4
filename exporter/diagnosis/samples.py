"""The user's numbers: typed on the command line, or in a .npy, .npz, .csv or .json file.

A number that was typed or printed is known to half a unit in its last digit; `Numbers` stores that with the value.
"""

from __future__ import annotations

import dataclasses
import re
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from exporter.diagnosis.pasted import FILE, SUFFIX, check_commas, is_pasted, plain
from exporter.errors import FormatError, MissingFileError, UsageError, printable
from exporter.files.place import Place

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_TEXT = 64 << 20  # bytes of a text file
MAX_DEPTH = 32
_TOKEN = re.compile(r"[\[\](){}]|[^\s,;\[\](){}]+")
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|[+-]?(?:nan|inf|infinity)", re.IGNORECASE)
OPENING, CLOSING = "[({", "])}"
WHAT_FITS = "e.g. 0.5 or '1, 5' or '[[1, 5], [2, 6]]' or a .npy, .npz, .csv or .json file"


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Numbers:
    """values: float array of any shape. half: of the same shape, half a unit of the last printed digit; 0 where a number is exact."""

    values: NDArray[Any]
    half: NDArray[np.float64] | None = None

    def reshape(self, shape: tuple[int, ...]) -> Numbers:
        """The same numbers in another shape."""
        return Numbers(self.values.reshape(shape), None if self.half is None else self.half.reshape(shape))

    def transpose(self, order: tuple[int, ...]) -> Numbers:
        """The same numbers with their axes in another order."""
        return Numbers(self.values.transpose(order), None if self.half is None else self.half.transpose(order))


def numbers(given: Any) -> Numbers:
    """Numbers from an argument of `exporter.diagnose`.

    NumPy arrays are exact. Text is read as typed. Python's lists and numbers count as typed: 0.3066 is known to 0.00005.

    Raises: UsageError if it contains no numbers.
    """
    if isinstance(given, Numbers):
        return given
    if isinstance(given, str):
        return from_text(given)
    if isinstance(given, (int, float, list, tuple)):
        return from_text(repr(given))
    array = np.asarray(given)
    if array.dtype.kind not in "fiub" and array.dtype.name != "bfloat16":
        raise UsageError(f"an array of type {array.dtype} contains no numbers")
    return Numbers(array)


def half_unit(word: str) -> float:
    """Half a unit in the last digit of a decimal: 0.005 for "0.25", 0.5 for "3", 0 for "nan"."""
    mantissa, _, exponent = word.lower().lstrip("+-").partition("e")
    if not mantissa or mantissa[0] not in ".0123456789":
        return 0.0
    places = len(mantissa.partition(".")[2])
    return 0.5 * 10.0 ** (int(exponent or 0) - places)


def from_text(text: str, where: str = "") -> Numbers:
    """Numbers as Python, NumPy, JSON or a person writes them: "1, 5", "[[1. 5.]\\n [2. 6.]]". Brackets give the shape."""
    stack: list[list[Any]] = [[]]
    for token in _TOKEN.findall(plain(text)):
        if token in OPENING:
            stack.append([])
            if len(stack) > MAX_DEPTH:
                raise FormatError("brackets nested too deeply", where=where)
        elif token in CLOSING:
            if len(stack) == 1:
                raise UsageError("a bracket is closed that was not opened")
            inner = stack.pop()
            stack[-1].append(inner)
        elif _NUMBER.fullmatch(token):
            stack[-1].append(token)
        else:
            raise UsageError(f"{printable(token, 60)!r} is not a number", where=where, hint=WHAT_FITS)
    if len(stack) != 1:
        raise UsageError("a bracket is not closed")
    top = stack[0]
    return _of_words(top[0] if len(top) == 1 else top, where)


def _of_words(words: Any, where: str) -> Numbers:
    try:
        array = np.array(words, dtype="U")
        values = array.astype(np.float64)
    except ValueError:
        raise UsageError("the numbers form no array: rows of different lengths", where=where) from None
    if not array.size:
        raise UsageError("no numbers are given", where=where)
    half = np.array([half_unit(word) for word in array.ravel().tolist()]).reshape(array.shape)
    return Numbers(values, half)


def looks_like_numbers(word: str) -> bool:
    """Whether a command-line argument is numbers, not the name of a file or an option."""
    if is_pasted(word):
        return True
    tokens = _TOKEN.findall(SUFFIX.sub(r"\1", word))
    return bool(tokens) and all(token in OPENING + CLOSING or _NUMBER.fullmatch(token) for token in tokens)


STANDARD = "-"  # as FILE: standard input


def is_standard_input(word: str) -> bool:
    """Whether a command-line argument refers to standard input, or to an array in it."""
    return word == STANDARD or word.startswith(f"{STANDARD}:")


def read(word: str, role: str, standard_input: Place | None = None) -> Numbers:
    """Numbers from a command-line argument: numbers, FILE, or FILE:NAME for one array of an .npz or a key of a .json.

    role: "input" or "output", the array that is used if a file contains several and no name is given.
    standard_input: a copy of it, which "-" refers to.

    Raises: UsageError, FormatError.
    """
    if looks_like_numbers(word):
        return from_text(word)
    if not word.strip():
        raise UsageError("no numbers are given", where=f"--{role}", hint=WHAT_FITS)
    path, name = word, ""
    if standard_input is not None and is_standard_input(word):
        path, name = STANDARD, word[len(STANDARD) + 1:]
    elif not Path(path).exists() and ":" in word:
        path, _, name = word.rpartition(":")
    place = Place(path) if standard_input is None or path != STANDARD else standard_input
    if not place.exists():
        raise UsageError("no such file" if FILE.search(word) else "this is neither a file nor numbers", where=word, hint=WHAT_FITS)
    head = place.head(8)
    if head.startswith(b"\x93NUMPY"):
        return numbers(load_npy(place))
    if head.startswith(b"PK\x03\x04"):
        return numbers(_npz(place, path, name, role))
    try:
        text = place.read(MAX_TEXT).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise FormatError("this is not a .npy, .npz, .csv or .json file", where=place.name) from None
    if text.lstrip().startswith("{"):
        return _from_object(text, place.name, path, name, role)
    return from_text(text, place.name) if "[" in text else _from_csv(text, place.name)


def load_npy(place: Place) -> NDArray[Any]:
    """A .npy file, memory-mapped; never unpickled."""
    try:
        array: NDArray[Any] = np.load(place.local, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise MissingFileError("no such file", where=place.name) from None
    except (ValueError, OSError, EOFError) as error:
        raise FormatError(f"this .npy file cannot be read: {printable(str(error), 120)}", where=place.name) from None
    return array


def _npz(place: Place, path: str, name: str, role: str) -> NDArray[Any]:
    try:
        with place.open() as file, np.load(file, allow_pickle=False) as archive:
            array: NDArray[Any] = archive[_choose(list(archive.files), name, role, place.name, path)]
            return array
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise FormatError(f"this .npz file cannot be read: {printable(str(error), 120)}", where=place.name) from None


def _choose(names: list[str], name: str, role: str, where: str, path: str) -> str:
    wanted = name or (role if role in names else names[0] if len(names) == 1 else "")
    if wanted not in names:
        what = f"it contains the arrays {', '.join(map(printable, names[:8]))}" + (f", not {printable(name)!r}" if name else "")
        raise UsageError(what, where=where, hint=f"choose the {role}: {path}:NAME")
    return wanted


def _from_object(text: str, where: str, path: str, name: str, role: str) -> Numbers:
    import json

    from exporter.formats.strict_json import parse_json

    parse_json(text, where)
    content = json.loads(text, parse_float=str, parse_int=str)  # as strings, because the last digits of the decimals matter
    return _of_words(content[_choose(list(content), name, role, where, path)], where)


def _from_csv(text: str, where: str) -> Numbers:
    if ";" in text:
        check_commas(text.replace("\n", "; "))
    rows = [_TOKEN.findall(line) for line in text.splitlines()]
    rows = [row for row in rows if row]
    if rows and not any(_NUMBER.fullmatch(word) for word in rows[0]):
        rows = rows[1:]  # a header line
    bad = next((word for row in rows for word in row if not _NUMBER.fullmatch(word)), None)
    if bad is not None:
        raise FormatError(f"{printable(bad, 60)!r} is not a number", where=where)
    found = _of_words(rows, where)
    return found.reshape((-1,)) if found.values.ndim == 2 and found.values.shape[1] == 1 else found
