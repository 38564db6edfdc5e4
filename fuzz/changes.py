"""Single changes to the files of a model that keep it a valid file of its kind: what a failing disk, a careless script or an editor does.

`flip` changes one bit or byte. `change` knows the file formats: it exchanges names, addresses, entries, values and zip members, and updates
lengths and checksums accordingly, so that only information that the file contains twice can reveal the change.
"""

from __future__ import annotations

import dataclasses
import io
import json
import random
import re
import struct
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # for the makers of the tests

from exporter.formats.protobuf import varint
from exporter.formats.sstable import MAGIC
from tests.make.tensor_files import encode, table

NAME = re.compile(rb"[A-Za-z_][A-Za-z0-9_:./-]{2,80}")
HDF5, ZIP, NODES, ENTRY = b"\x89HDF\r\n\x1a\n", b"PK\3\4", b"SNOD", 40
MAX_JSON = 4 << 20


@dataclasses.dataclass(frozen=True)
class Change:
    """data: the changed bytes. what: where and how, for people."""

    data: bytes
    what: str


def flip(data: bytes, chance: random.Random) -> Change | None:
    """One bit, or one byte."""
    if not data:
        return None
    at = chance.randrange(len(data))
    new = data[at] ^ (1 << chance.randrange(8) if chance.random() < 0.7 else chance.randrange(1, 256))
    return Change(data[:at] + bytes([new]) + data[at + 1:], f"byte {at} is {new:#04x} in place of {data[at]:#04x}")


def change(name: str, data: bytes, chance: random.Random) -> Change | None:
    """A change of the structure, None where this kind of change finds nothing to do in this file."""
    kinds: list[Callable[[bytes, random.Random], Change | None]] = []
    if data.startswith(HDF5):
        kinds = [names, addresses, addresses, symbols, symbols, json_inside, json_inside]
    elif data.startswith(ZIP):
        kinds = [members, inside_a_member, inside_a_member, inside_a_member]
    elif data.lstrip()[:1] in (b"{", b"["):
        kinds = [json_values]
    elif is_table(data):
        kinds = [table_entries]
    elif name.endswith((".pb", ".meta", ".onnx")):
        kinds = [message, message, message, json_inside]
    made = chance.choice(kinds or [names])(data, chance)
    return made if made is not None and made.data != data else None


def is_table(data: bytes) -> bool:
    """Whether a file is the index of a checkpoint."""
    return data[-8:] == struct.pack("<Q", MAGIC)


def replaced(data: bytes, *pieces: tuple[int, bytes]) -> bytes:
    """`data` with pieces of the same lengths in other places."""
    changed = bytearray(data)
    for at, piece in pieces:
        changed[at:at + len(piece)] = piece
    return bytes(changed)


def names(data: bytes, chance: random.Random) -> Change | None:
    """Two names of one length exchanged, or one written over the other."""
    found = list(NAME.finditer(data[:MAX_JSON]))
    chance.shuffle(found)
    for one in found[:50]:
        others = [other for other in found if len(other[0]) == len(one[0]) and other[0] != one[0]]
        if others:
            other = chance.choice(others)
            both = chance.random() < 0.6
            pieces = [(one.start(), other[0]), *([(other.start(), one[0])] if both else [])]
            how = "exchanged with" if both else "overwritten by"
            return Change(replaced(data, *pieces), f"name {one[0][:60]!r} at {one.start()} {how} {other[0][:60]!r} at {other.start()}")
    return None


def addresses(data: bytes, chance: random.Random) -> Change | None:
    """Two words that look like addresses or sizes in an HDF5 file exchanged, or one written over the other."""
    words = [at for at in range(0, len(data) - 8, 8) if 0 < int.from_bytes(data[at:at + 8], "little") < len(data)]
    if len(words) < 2:
        return None
    at, other = chance.sample(words, 2)
    one, two = data[at:at + 8], data[other:other + 8]
    both = chance.random() < 0.5
    return Change(replaced(data, (at, two), *([(other, one)] if both else [])),
                  f"word {int.from_bytes(one, 'little')} at {at} {'exchanged with' if both else 'overwritten by'} "
                  f"{int.from_bytes(two, 'little')} at {other}")


def entries(data: bytes) -> list[int]:
    """Where the entries of the symbol tables of an HDF5 file begin."""
    return [match.start() + 8 + ENTRY * number for match in re.finditer(NODES, data)
            for number in range(min(int.from_bytes(data[match.start() + 6:match.start() + 8], "little"), 64))]


def symbols(data: bytes, chance: random.Random) -> Change | None:
    """Two entries of symbol-table nodes exchanged, whole or in their addresses, names or caches alone."""
    found = entries(data)
    if len(found) < 2:
        return None
    one, two = chance.sample(found, 2)
    if chance.random() < 0.5:  # of one node, as a reader of one group sees them
        two = chance.choice([each for each in found if each != one and abs(each - one) < 9 * ENTRY] or [two])
    begin, end = chance.choice(((0, ENTRY), (0, 8), (8, 16), (16, 20), (24, 32), (32, 40), (24, 40), (8, 40)))
    pieces = [(one + begin, data[two + begin:two + end]), (two + begin, data[one + begin:one + end])]
    return Change(replaced(data, *pieces), f"bytes {begin} to {end} of the entries at {one} and {two} exchanged")


def json_spans(data: bytes) -> Iterator[tuple[int, int, Any]]:
    """The JSON objects in a file of whatever kind: begin, end, value."""
    text, at, decoder = data.decode("latin-1"), 0, json.JSONDecoder()
    while (at := text.find('{"', at)) >= 0:
        try:
            value, end = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            at += 1
            continue
        yield at, end, value
        at = end


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """The values of a document that hold no others, with their paths."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if not items:
        yield path, value
    for key, item in items or ():
        yield from leaves(item, (*path, key))


def json_inside(data: bytes, chance: random.Random) -> Change | None:
    """A value in a JSON text, its bytes replaced by as many others."""
    spans = [(begin, end) for begin, end, value in json_spans(data) if value]
    if not spans:
        return None
    begin, end = chance.choice(spans)
    words = list(re.finditer(rb'(?<=[:\[, ])(-?\d[\d.eE+-]*|true|false|null)(?=[,\]} ])|(?<=")[\w./:>-]{2,}(?=")', data[begin:end]))
    if not words:
        return None
    one = chance.choice(words)
    if chance.random() < 0.5 and one[0][:1].isdigit():
        at = chance.randrange(len(one[0]))
        new = one[0][:at] + (chance.choice(b"0123456789").to_bytes(1, "little") if one[0][at:at + 1].isdigit() else one[0][at:at + 1]) + \
            one[0][at + 1:]
    else:
        new = chance.choice([other[0] for other in words if len(other[0]) == len(one[0])])
    at = begin + one.start()
    return Change(replaced(data, (at, new)), f"JSON {one[0][:60]!r} at {at} is {new[:60]!r}") if new != one[0] else None


def json_values(data: bytes, chance: random.Random) -> Change | None:
    """In a JSON document a value is changed, two values or two keys of one object are exchanged, or one item is dropped or doubled."""
    value = json.loads(data)
    paths = [(path, leaf) for path, leaf in leaves(value) if path]
    if not paths:
        return None
    path, leaf = chance.choice(paths)
    match chance.randrange(6):
        case 0 | 1:
            other, new = chance.choice([each for each in paths if each[0][-1] == path[-1] or type(each[1]) is type(leaf)])
            _put(value, path, new)
            _put(value, other, leaf)
            what = f"{_said(path)} and {_said(other)} exchanged"
        case 2 if isinstance(leaf, (int, float)):
            new = (not leaf) if isinstance(leaf, bool) else leaf + chance.choice((1, -1)) if isinstance(leaf, int) else leaf * 2
            _put(value, path, new)
            what = f"{_said(path)} is {new!r} in place of {leaf!r}"
        case 2 | 3:
            new = chance.choice(paths)[1]
            _put(value, path, new)
            what = f"{_said(path)} is {new!r} in place of {leaf!r}"
        case _:
            depth = chance.randrange(1, len(path) + 1)
            parent, key = _at(value, path[:depth - 1]), path[depth - 1]
            if isinstance(parent, list) and chance.random() < 0.5:
                other = chance.randrange(len(parent))
                parent[key], parent[other] = parent[other], parent[key]
                what = f"items {key} and {other} of {_said(path[:depth - 1])} exchanged"
            else:
                del parent[key]
                what = f"{_said(path[:depth])} dropped"
    new_data = json.dumps(value).encode()
    return Change(new_data, f"JSON {what}") if json.loads(new_data) != json.loads(data) else None


def _at(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        value = value[key]
    return value


def _put(value: Any, path: tuple[Any, ...], new: Any) -> None:
    _at(value, path[:-1])[path[-1]] = new


def _said(path: tuple[Any, ...]) -> str:
    return "/".join(map(str, path[-6:])) or "the document"


def read_zip(data: bytes) -> dict[str, bytes]:
    """The members of an archive by name."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write_zip(content: list[tuple[str, bytes]]) -> bytes:
    """A sound archive of them."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in content:
            archive.writestr(zipfile.ZipInfo(name, (2020, 1, 1, 0, 0, 0)), data)
    return out.getvalue()


def members(data: bytes, chance: random.Random) -> Change | None:
    """Two members of an archive exchanged in content, one dropped, or one renamed."""
    content = list(read_zip(data).items())
    if len(content) < 2:
        return None
    i, j = chance.sample(range(len(content)), 2)
    (one, first), (two, second) = content[i], content[j]
    match chance.randrange(3):
        case 0:
            content[i], content[j], what = (one, second), (two, first), f"the contents of {one} and {two} exchanged"
        case 1:
            del content[i]
            what = f"{one} dropped"
        case _:
            content[i], what = (one[:-1] + "x", first), f"{one} renamed"
    return Change(write_zip(content), what)


def inside_a_member(data: bytes, chance: random.Random) -> Change | None:
    """A change or flip in one member, with its checksum made right again."""
    content = read_zip(data)
    name = chance.choice(list(content))
    made = flip(content[name], chance) if chance.random() < 0.3 else change(name, content[name], chance)
    return made and Change(write_zip(list({**content, name: made.data}.items())), f"{name}: {made.what}")


Field = tuple[int, int, Any]  # number, wire type, value: an int, bytes, or a list of fields


def parse(data: bytes, depth: int = 0) -> list[Field] | None:
    """The fields of a message, each that looks like one taken apart likewise; None for what is none."""
    fields: list[Field] = []
    at = 0
    try:
        while at < len(data):
            tag, at = varint(data, at, len(data))
            number, kind = tag >> 3, tag & 7
            if not 0 < number < 1 << 16:
                return None
            if kind == 0:
                value, at = varint(data, at, len(data))
                fields.append((number, kind, value))
                continue
            size = {1: 8, 5: 4}.get(kind)
            if size is None:
                if kind != 2:
                    return None
                size, at = varint(data, at, len(data))
            piece, at = data[at:at + size], at + size
            if at > len(data):
                return None
            inner = parse(piece, depth + 1) if kind == 2 and depth < 12 and piece and not _is_text(piece) else None
            fields.append((number, kind, piece if inner is None else inner))
    except Exception:  # of the reader of varints, on what is none
        return None
    return fields


def _is_text(piece: bytes) -> bool:
    return len(piece) > 2 and all(32 <= byte < 127 for byte in piece)


def dump(fields: list[Field]) -> bytes:
    """The bytes of a message."""
    out = []
    for number, kind, value in fields:
        data = dump(value) if isinstance(value, list) else value
        out.append(encode(number << 3 | kind) + (encode(value) if kind == 0 else encode(len(data)) + data if kind == 2 else data))
    return b"".join(out)


def message(data: bytes, chance: random.Random) -> Change | None:
    """In a protobuf message a number or text is changed, two fields of one message are exchanged, one is dropped or doubled."""
    fields = parse(data)
    if not fields or dump(fields) != data:
        return None
    level, path = fields, []
    while True:  # to a message somewhere inside
        inner = [number for number, field in enumerate(level) if isinstance(field[2], list) and field[2]]
        if not inner or (path and chance.random() < 0.25):
            break
        path.append(chance.choice(inner))
        level = level[path[-1]][2]
    i, j = chance.randrange(len(level)), chance.randrange(len(level))
    number, kind, value = level[i]
    where = f"field {number} (the {i}th) of the message {path}"
    match chance.randrange(4):
        case 0 if kind == 0:
            level[i] = number, kind, (value + chance.choice((1, -1))) % (1 << 64)
            what = f"{where} is {level[i][2]} in place of {value}"
        case 0 | 1:
            other = chance.choice(_of_kind(fields, kind) or [value])
            level[i] = number, kind, other
            what = f"{where} is {_short(other)} in place of {_short(value)}"
        case 2:
            level[i], level[j] = (number, *level[j][1:]), (level[j][0], kind, value)
            what = f"{where} exchanged with the {j}th: {_short(value)} and {_short(level[i][2])}"
        case _:
            del level[i]
            what = f"{where} dropped: {_short(value)}"
    changed = dump(fields)
    return Change(changed, what) if changed != data else None


def _of_kind(fields: list[Field], kind: int) -> list[Any]:
    found, stack = [], list(fields)
    while stack and len(found) < 3000:
        _, wire, value = stack.pop()
        if isinstance(value, list):
            stack += value
        elif wire == kind:
            found.append(value)
    return found


def _short(value: Any) -> str:
    return repr(dump(value) if isinstance(value, list) else value)[:90]


def table_entries(data: bytes, chance: random.Random) -> Change | None:
    """In the index of a checkpoint, with its checksums: two values exchanged, an entry dropped, or a message changed."""
    import tempfile

    from exporter.files.place import Place
    from exporter.formats.sstable import Table

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "table.index")
        path.write_bytes(data)
        with Table(Place(path)) as found:
            items = [(bytes(key), bytes(value)) for key, value in found.items()]
    i, j = chance.randrange(len(items)), chance.randrange(len(items))
    (one, first), (two, second) = items[i], items[j]
    match chance.randrange(4):
        case 0:
            items[i], items[j] = (one, second), (two, first)
            what = f"the entries of {one!r} and {two!r} exchanged"
        case 1:
            del items[i]
            what = f"the entry of {one!r} dropped"
        case _:
            made = message(first, chance)
            if made is None:
                return None
            items[i], what = (one, made.data), f"{one!r}: {made.what}"
    return Change(table(items), what)
