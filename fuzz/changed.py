"""Changes a model in one place and reads it: python fuzz/changed.py [MODEL ...] [--changes N] [--seed S] [--keep DIR]

The reader may refuse a changed model or return the same result as before. If the result differs, the changed bytes must be the only
copy of that information in the file: a number in a parameter's array, or an epsilon that is stored nowhere else. Results for which this
can be verified are counted as explained. All others are printed and kept in DIR, and the exit status is 1. Without MODEL, the sample
models of this project are used.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import importlib
import itertools
import json
import os
import random
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(Path(__file__).resolve().parent), str(ROOT)]

import changes  # noqa: E402

from exporter.batchnorm.bundle import Bundle  # noqa: E402
from exporter.batchnorm.layer import BatchNorm  # noqa: E402
from exporter.errors import ExporterError  # noqa: E402
from exporter.files.place import Place  # noqa: E402
from exporter.pipeline import read, readers  # noqa: E402
from exporter.sources import SOURCES  # noqa: E402
from exporter.sources.shared.options import ReadOptions  # noqa: E402

SAMPLES = ("encoder_keras3/model.h5", "encoder_keras3/model.keras", "encoder_keras3/model.weights.h5", "no_beta_keras208/model.h5",
           "hand_made_tf115/model.ckpt.index", "hand_made_tf115/frozen.pb", "saved_model_tfkeras/saved_model", "tfjs_layers/model.json",
           "orbax_keras3/run", "named_arrays_tfkeras/weights.npz", "bundles_010/encoder.json", "bundles_010/encoder.npz",
           "bundles_010/encoder.safetensors")
OUTCOMES = ("refused", "same", "explained", "unexplained")
ORDER = "the order of the layers"
KINDS = ("<f4", ">f4", "<f2", "<f8", "bfloat16")  # of stored numbers
VERSIONS = ("keras_version", "backend", "tensorflow_version")
Files = dict[str, bytes]  # by name, relative to the folder of the model


def main() -> int:
    """Runs what the arguments ask for; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL")
    parser.add_argument("--changes", type=int, default=200, help="of each model (default: 200)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, metavar="DIR", help="for the changed models that nothing explains")
    args = parser.parse_args()
    for name in SOURCES:  # once for all children that are forked
        importlib.import_module(f"exporter.sources.{name}")
    readers.prepare(library=True)
    total: collections.Counter[str] = collections.Counter()
    print("  ".join([*(f"{word:>11}" for word in OUTCOMES), "model"]), flush=True)
    for path in [Path(word) for word in args.models] or [ROOT / "sample_models" / name for name in SAMPLES]:
        counts = run(path, args.changes, args.seed, args.keep)
        total += counts
        print("  ".join([*(f"{counts[word]:11}" for word in OUTCOMES), str(path)]), flush=True)
    print("  ".join([*(f"{total[word]:11}" for word in OUTCOMES), f"in all, seed {args.seed}"]))
    return 1 if total["unexplained"] else 0


def run(path: Path, count: int, seed: int, keep: Path | None) -> collections.Counter[str]:
    """How many of `count` changes of a model came out how."""
    chance = random.Random(f"{seed} {path.name}")
    files = files_of(path)
    counts: collections.Counter[str] = collections.Counter()
    with tempfile.TemporaryDirectory() as folder:
        copy = Copy(Path(folder), path, files)
        options, original = copy.original()
        while sum(counts.values()) < count:
            name = chance.choices(list(files), [min(len(data), 20_000) + 200 for data in files.values()])[0]
            made = changes.flip(files[name], chance) if chance.random() < 0.3 else changes.change(name, files[name], chance)
            if made is None or made.data == files[name]:
                continue
            found = copy.read({name: made.data}, options)
            word, said = "refused", ""
            if isinstance(found, Bundle):
                differing = differences(original, found)
                said = explanation(files[name], made.data, files, original, found, differing) if differing else ""
                word = "same" if not differing else "explained" if said else "unexplained"
                if word == "unexplained":
                    print(f"  {name}: {made.what}")
                    for field, (here, there) in list(differing.items())[:4]:
                        here, there = _where_they_part(repr(here), repr(there))
                        print(f"      {field}: {here} -> {there}")
                    if keep is not None:
                        copy.keep(keep / f"{path.parent.name}-{seed}-{sum(counts.values())}", {name: made.data})
            counts[word] += 1
    return counts


def files_of(path: Path) -> Files:
    """The files of a model: of a checkpoint those of its prefix, of a folder all, of a .json the shards beside it."""
    if path.is_dir():
        return {os.path.relpath(each, path.parent): each.read_bytes() for each in sorted(path.rglob("*")) if each.is_file()}
    stem = path.name.removesuffix(".index")
    beside = [each for each in sorted(path.parent.iterdir()) if each.is_file() and each != path and (
        each.name.startswith(f"{stem}.") or
        (path.suffix == ".json" and each.suffix in (".bin", ".h5")))]
    return {each.name: each.read_bytes() for each in [path, *beside]}


class Copy:
    """A copy of a model, of which one file at a time is another one."""

    def __init__(self, folder: Path, path: Path, files: Files) -> None:
        self._folder, self._files, self._model = folder, files, folder / path.name
        for name in files:
            self._restore(name)

    def original(self) -> tuple[ReadOptions, Bundle]:
        """The options that the model needs, and what it holds."""
        for said in itertools.product(({}, {"skip_unresolved": True}), ({}, {"epsilon": (("*", 1e-3),)}),
                                      ({}, {"keras_version": "1.0.5", "backend": "tensorflow"})):
            options = ReadOptions(**said[0], **said[1], **said[2])
            found = self.read({}, options)
            if isinstance(found, Bundle):
                return options, found
            reason = found
        raise reason

    def read(self, changed: Files, options: ReadOptions) -> Bundle | ExporterError:
        """What the model gives with other contents of some files."""
        self._write(self._folder, changed)
        try:
            return read.read_in_child(Place(self._model), options, fork=True)
        except ExporterError as error:
            if type(error) is ExporterError and error.what.startswith("unexpected "):
                raise AssertionError(str(error)) from error
            return error
        finally:
            for name in changed:
                self._restore(name)

    def keep(self, folder: Path, changed: Files) -> None:
        """Writes the model with these changes to a folder."""
        self._write(folder, {**self._files, **changed})

    def _restore(self, name: str) -> None:
        self._write(self._folder, {name: self._files[name]})

    @staticmethod
    def _write(folder: Path, files: Files) -> None:
        for name, data in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)


def differences(one: Bundle, two: Bundle) -> dict[str, tuple[Any, Any]]:
    """What two bundles say differently: {"path: field": (here, there)}."""
    found: dict[str, tuple[Any, Any]] = {}
    for path in [*one.paths(), *(path for path in two.paths() if path not in one)]:
        a, b = one.get(path), two.get(path)
        if a is None or b is None:
            found[f"{path}: layer"] = (a, b)
        elif a != b:
            for field in dataclasses.fields(a):
                here, there = getattr(a, field.name), getattr(b, field.name)
                same = here is there or (here.tobytes() == there.tobytes() if isinstance(here, np.ndarray) and isinstance(there, np.ndarray)
                                         else type(here) is type(there) and not isinstance(here, np.ndarray) and here == there)
                if not same:
                    found[f"{path}: {field.name}"] = (here, there)
    if one.paths() != two.paths() and not found:
        found[ORDER] = (one.paths(), two.paths())
    for name in ("origin", "skipped"):
        if getattr(one, name) != getattr(two, name):
            found[name] = (getattr(one, name), getattr(two, name))
    return found


def explanation(before: bytes, after: bytes, files: Files, one: Bundle, two: Bundle, differing: dict[str, tuple[Any, Any]]) -> str:
    """Why what was changed is the only copy in the file of what it says; "" where that cannot be shown."""
    if _less(differing):
        return "what is optional is not said any more"
    if differing.keys() == {ORDER}:
        return "the order of the layers"
    if differing.keys() == {"skipped"} and [path for path, _ in one.skipped] == [path for path, _ in two.skipped]:
        return "why a layer cannot be read, which is refused in any case"
    if _is_nameless(before, after, one, two):
        return "a layer's name is not said any more"
    if _is_renamed(before, after, files, one, two):
        return "the only place of the name of a layer or nested model in a config"
    if before[:4] == changes.ZIP and after[:4] == changes.ZIP:
        old, new = changes.read_zip(before), changes.read_zip(after)
        changed = [name for name in old if old[name] != new.get(name)]
        if old.keys() != new.keys() or len(changed) != 1:
            return ""
        others = {name: data for name, data in files.items() if data is not before}
        return explanation(old[changed[0]], new[changed[0]], {**others, **old}, one, two, differing)
    return (_in_arrays(before, after, differing) or _in_table(before, files, differing) or _in_links(before, after, two, differing)
            or _in_calls(before, after, differing) or _in_json(before, after, files, differing) or _of_the_writer(files, differing))


def _less(differing: dict[str, tuple[Any, Any]]) -> bool:
    """Whether the model says less than before, and nothing else: what feeds and follows a layer, its momentum, who wrote the file, or what
    the Keras that wrote it takes where a config does not say it, which the bundle lists as assumed."""
    assumed = {said for name, (here, there) in differing.items() if name.endswith(": assumed") for said in set(there) - set(here)}
    if "epsilon" in assumed:  # on which the variance of an era that stored deviations depends
        assumed |= {"effective_epsilon", "converted", "moving_variance"}
    for name, (here, there) in differing.items():
        match name.rpartition(": ")[2]:
            case "calls" | "momentum" | "ndim" if not there:
                pass
            case "assumed" if set(here) < set(there):
                pass
            case field if field in assumed:
                pass
            case "origin" if dataclasses.replace(here, **{field: None for field in VERSIONS if getattr(there, field) is None}) == there:
                pass
            case _:
                return False
    return True


def _in_arrays(before: bytes, after: bytes, differing: dict[str, tuple[Any, Any]]) -> str:
    """Whether only parameters differ, and what each is now stands at the place of what it was."""
    if len(before) != len(after):
        return ""
    for here, there in differing.values():
        if not isinstance(here, np.ndarray) or not isinstance(there, np.ndarray) or here.dtype != there.dtype:
            return ""
        for kind in KINDS:
            old, new = _stored(here, kind), _stored(there, kind)
            if old != new and any(after[at:at + len(old)] == new for at in _occurrences(before, old)):
                break
        else:
            return ""
    return "the numbers of a parameter"


def _where_they_part(one: str, two: str) -> tuple[str, str]:
    begin = max(0, next((at for at, (a, b) in enumerate(zip(one, two)) if a != b), 0) - 30)
    return one[begin:begin + 150].replace("\n", " "), two[begin:begin + 150].replace("\n", " ")


def _stored(values: Any, kind: str) -> bytes:
    if kind != "bfloat16":
        return values.astype(kind).tobytes()
    return (values.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes()


def _occurrences(data: bytes, piece: bytes) -> Iterator[int]:
    at = data.find(piece)
    while at >= 0:
        yield at
        at = data.find(piece, at + 1)


def _is_nameless(before: bytes, after: bytes, one: Bundle, two: Bundle) -> bool:
    """Whether an attribute that says a layer's name was renamed itself, and the layer is called like its group instead."""
    at = next((at for at, (a, b) in enumerate(zip(before, after)) if a != b), 0)
    is_name = len(before) == len(after) and any(before[begin:begin + 5] == b"name\0" and before[begin + 4:] == after[begin + 4:]
                                                for begin in range(max(0, at - 3), at + 1))
    contents = [[layer.replace(path="", name="") for layer in bundle] for bundle in (one, two)]
    return is_name and contents[0] == contents[1] and one.origin == two.origin


def _is_renamed(before: bytes, after: bytes, files: Files, one: Bundle, two: Bundle) -> bool:
    """Whether a name in a config was changed that stands there once, and nothing but paths differs."""
    if len(before) != len(after):
        return False
    at = next((at for at, (a, b) in enumerate(zip(before, after)) if a != b), 0)
    begin = before.rfind(b'"', 0, at) + 1
    end = before.find(b'"', at)
    if before[end:] != after[end:] or not before[:begin].endswith(b'"name": "'):
        return False
    contents = [[layer.replace(path="", name="", calls=()) for layer in bundle] for bundle in (one, two)]
    return sum(data.count(before[begin - 1:end + 1]) for data in files.values()) == 1 and contents[0] == contents[1]


def _is_converted(name: str, bundle: Bundle) -> bool:
    path, _, field = name.rpartition(": ")
    return path in bundle and field in bundle[path].converted


def _in_links(before: bytes, after: bytes, two: Bundle, differing: dict[str, tuple[Any, Any]]) -> str:
    """Whether names of a group of an HDF5 file lead to other objects, to which its table alone says; the numbers are another array's."""
    entries = changes.entries(before) if before[:8] == changes.HDF5 else []
    inside = {at for entry in entries for at in range(entry, entry + changes.ENTRY)}
    if len(before) != len(after) or any(one != two and at not in inside for at, (one, two) in enumerate(zip(before, after))):
        return ""
    fields = {name.rpartition(": ")[2] for name in differing}
    arrays = [there for name, (_, there) in differing.items() if isinstance(there, np.ndarray) and not _is_converted(name, two)]
    arrays += [values for _, there in differing.values() if isinstance(there, BatchNorm) for values in there.parameters().values()]
    taken = {"gamma", "beta", "moving_mean", "moving_variance", "shape", "layer", "skipped", ORDER}
    if fields - taken - ({"epsilon", "converted"} if "converted" in fields else set()):
        return ""
    is_stored = all(any(_stored(values, kind) in before for kind in KINDS) for values in arrays) or "converted" in fields
    return "to which object a name leads" if is_stored else ""


def _in_table(before: bytes, files: Files, differing: dict[str, tuple[Any, Any]]) -> str:
    """Whether keys of a checkpoint's index, which was made right again with its checksums, lead to other tensors of the checkpoint."""
    arrays = [there for _, there in differing.values() if isinstance(there, np.ndarray)]
    is_stored = all(any(_stored(values, kind) in data for kind in KINDS for data in files.values()) for values in arrays)
    is_all = all(name.rpartition(": ")[2] in ("gamma", "beta", "moving_mean", "moving_variance", "shape") for name in differing)
    return "to which tensor a key leads" if changes.is_table(before) and is_all and is_stored else ""


def _in_calls(before: bytes, after: bytes, differing: dict[str, tuple[Any, Any]]) -> str:
    """Whether a JSON text was changed, and what differs is what feeds and follows layers, which a config says and nothing else."""
    fields = {name.rpartition(": ")[2] for name in differing}
    return "how layers are called" if fields <= {"calls", "ndim"} and _changed_values(before, after) is not None else ""


def _of_the_writer(files: Files, differing: dict[str, tuple[Any, Any]]) -> str:
    """Whether a version or backend differs that stands once in the files."""
    if differing.keys() != {"origin"}:
        return ""
    here, there = differing["origin"]
    said = [getattr(here, field) for field in VERSIONS if getattr(here, field) != getattr(there, field)]
    parts = [part for data in files.values() for part in (changes.read_zip(data).values() if data[:4] == changes.ZIP else [data])]
    return "who wrote the file" if all(sum(part.count(text.encode()) for part in parts) == 1 for text in said if text) else ""


# What a bundle takes from a value of a config that stands there alone, by the last key of its path.
SAYS = {"epsilon": {"epsilon", "effective_epsilon"}, "momentum": {"momentum"}, "axis": {"axis"}, "keras_version": {"origin"},
        "backend": {"origin"}, "class_name": {"class_name", "calls", "ndim"}}


def _in_json(before: bytes, after: bytes, files: Files, differing: dict[str, tuple[Any, Any]]) -> str:
    """Whether values of JSON texts were changed whose keys say what differs, and which no other text of the model says."""
    changed = {each for each in _changed_values(before, after) or () if each[1] in SAYS}
    fields = {name.rpartition(": ")[2] for name in differing}
    if not changed or not fields <= set[str]().union(*(SAYS[key] for _, key in changed)):
        return ""
    said = collections.Counter(each for data in files.values() for text in _texts(data) for each in {key for key, _ in _values(text)})
    return "the only place of a value in a config" if all(said[each] <= 1 for each in changed) else ""


Said = tuple[str, str]  # the layer whose config has it, and the key


def _changed_values(before: bytes, after: bytes) -> set[Said] | None:
    """What JSON texts said and say otherwise now; None where anything else was changed. A text that is none any more was not read."""
    spans, longer = _spans(before), len(after) - len(before)
    if longer and len(spans) != 1:
        return None
    found: set[Said] = set()
    at = 0
    for begin, end, value in spans:
        if before[at:begin] != after[at:begin]:
            return None
        at = end
        try:
            new = json.loads(after[begin:end + longer].decode("latin-1"))
        except ValueError:
            continue
        one, two = collections.Counter(_values(value)), collections.Counter(_values(new))
        found |= {each for each, _ in (one - two) + (two - one)}
    return found if before[at:] == after[at + longer:] else None


def _spans(data: bytes) -> list[tuple[int, int, Any]]:
    return list(changes.json_spans(data)) if len(data) < changes.MAX_JSON else []


def _texts(data: bytes) -> Iterator[Any]:
    for part in changes.read_zip(data).values() if data[:4] == changes.ZIP else [data]:
        yield from (value for _, _, value in _spans(part))


def _values(text: Any, owner: str = "") -> Iterator[tuple[Said, str]]:
    """The values of a document with who has them: the innermost object with a class_name, by its name."""
    stack: list[tuple[Any, str, str]] = [(text, owner, "")]
    while stack:
        value, owner, key = stack.pop()
        if isinstance(value, dict):
            config = value.get("config")
            name = config.get("name") if isinstance(config, dict) else None
            if "class_name" in value and isinstance(name or value.get("name"), str):
                owner = name or value["name"]
            stack += [(item, owner, inner) for inner, item in value.items()]
        elif isinstance(value, list):
            stack += [(item, owner, key) for item in value]
        else:
            yield (owner, key), repr(value)


if __name__ == "__main__":
    sys.exit(main())
