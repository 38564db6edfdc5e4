"""Random small changes of an input: of bytes, and of JSON with its structure preserved."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

ODD_BYTES = (b"\0", b"\xff", b"\x7f", b"\x80", b"\xff" * 8, b"\0" * 8, b"\xff" * 9 + b"\x7f", b"PK\3\4", b"PK\5\6", b"TREE", b"{",
             b"[" * 300)
ODD_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**53 + 1, 2**63, 2**64, 10**400, 0.5, 1.0, -0.0, 1e-45, 3.5e38, 1e308, "", "x", "\x1b[2J",
    "\u202e", "../x", "a/b", "\ud800", "x" * 5000, [], {}, [[]], [1], ["x"], {"class_name": "x", "config": {}}, [0.1] * 3)


def damage(data: bytes, chance: random.Random) -> bytes:
    """A few bits, a piece cut out, zeroed, doubled or moved, or an odd number in place of four bytes."""
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 4, 8))):
        at = chance.randrange(len(changed) + 1)
        size = chance.choice((1, 2, 4, 8, 40, 500))
        match chance.randrange(8):
            case 0 | 1 | 2 if changed:
                changed[at % len(changed)] ^= 1 << chance.randrange(8)
            case 3:
                del changed[at:at + size]
            case 4:
                changed[at:at + size] = bytes(len(changed[at:at + size]))
            case 5:
                start = chance.randrange(len(changed) + 1)
                changed[at:at + size] = changed[start:start + size]
            case 6:
                odd = chance.choice(ODD_BYTES)
                changed[at:at + chance.choice((0, len(odd)))] = odd
            case _:
                changed[at:at + 4] = chance.choice((0, 1, 255, 2**31, 2**32 - 1, chance.randrange(1 << 16))).to_bytes(4, "little")
    return bytes(changed) if chance.random() < 0.9 else bytes(changed[:chance.randrange(len(changed) + 1)])


def damage_json(data: bytes, chance: random.Random) -> bytes:
    """Half the time the bytes; else a value is replaced, a key renamed, dropped or doubled, a subtree copied elsewhere."""
    if chance.random() < 0.4:
        return damage(data, chance)
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return damage(data, chance)
    for _ in range(chance.choice((1, 1, 2, 4))):
        containers = _containers(value)
        if not containers:
            break
        _change(chance.choice(containers), containers, chance)
    text = json.dumps(value)
    if chance.random() < 0.1 and '"epsilon"' in text:
        text = text.replace('"epsilon"', '"epsilon": 1, "epsilon"', 1)
    return text.encode()


def _change(place: Any, containers: list[Any], chance: random.Random) -> None:
    keys = list(place) if isinstance(place, dict) else list(range(len(place)))
    if not keys:
        if isinstance(place, list):
            place.append(copy.deepcopy(chance.choice(ODD_VALUES)))
        return
    key = chance.choice(keys)
    match chance.randrange(5):
        case 0:
            del place[key]
        case 1 if isinstance(place, dict):
            place[chance.choice(("name", "layers", "config", "class_name", "epsilon", "axis", f"{key}x"))] = place.pop(key)
        case 2:
            place[key] = copy.deepcopy(chance.choice(containers))
        case 3 if isinstance(place, list):
            place.append(copy.deepcopy(place[key]))
        case _:
            place[key] = copy.deepcopy(chance.choice(ODD_VALUES))


def _containers(value: Any) -> list[Any]:
    found, level = [], [value]
    while level and len(found) < 5000:
        item = level.pop()
        if isinstance(item, (dict, list)):
            found.append(item)
            level += item.values() if isinstance(item, dict) else item
    return found
