"""Random models in all formats of Keras: python fuzz/writers.py --seconds N [--seed S] [--api NAME] [--python PATH] [--keep FOLDER]

fuzz/write_models.py saves random models (fuzz/random_models.py) in every format of a Keras version; --python selects the interpreter of an
older Keras. What `exporter.read` returns for each file is compared with the live layers: numbers bit for bit, epsilon, axis, output,
path, training mode of the call, and the neighboring layers. All files of one model are also compared with each other. Refusals are
counted by reason. The seed is printed; the same seed produces the same models. Exit status 1 if anything is wrong; the files of a
model that is read incorrectly are kept in fuzz/failures.
"""

from __future__ import annotations

import argparse
import collections
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
FAILURES = HERE / "failures"
MANY = 20  # models of one process that writes


def main() -> int:
    """Runs what the arguments ask for; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--api", action="append", default=[], help="keras (default), tf_keras, tf.keras; may be given more than once")
    parser.add_argument("--python", default=sys.executable, help="the interpreter that has this Keras")
    parser.add_argument("--models", type=int, default=MANY, help="how many models one process writes")
    parser.add_argument("--only", nargs="*", default=[], help="forms to save in; all by default")
    parser.add_argument("--read", type=pathlib.Path, help="read the models of a folder that was written before")
    parser.add_argument("-v", action="store_true", help="name the files of each refusal")
    args = parser.parse_args()
    sys.path[:0] = [str(HERE), str(HERE.parent)]
    tally = Tally(args.v)
    if args.read:
        for folder in sorted((path.parent for path in args.read.rglob("truth.json")), key=str):
            tally.model(folder)
        return tally.report()
    seed = int.from_bytes(os.urandom(3), "little") * 1000 if args.seed is None else args.seed
    end, batch = time.monotonic() + args.seconds, 0
    print(f"seed {seed}", flush=True)
    while time.monotonic() < end:
        apis = args.api or ["keras"]
        for place, api in enumerate(apis):
            with tempfile.TemporaryDirectory() as folder:
                left = (end - time.monotonic()) / (len(apis) - place)  # reading takes its part of it
                tally.refused_models += write(args, api, seed + batch * args.models, pathlib.Path(folder), max(left * 0.7, 15))
                for truth in sorted(pathlib.Path(folder).glob("*/truth.json")):
                    tally.model(truth.parent)
        batch += 1
    return tally.report()


def write(args: argparse.Namespace, api: str, seed: int, folder: pathlib.Path, seconds: float) -> int:
    """Lets a process write models; returns how many Keras itself did not make."""
    command = [args.python, str(HERE / "write_models.py"), str(folder), "--api", api, "--seed", str(seed), "--count", str(args.models),
               "--seconds", str(seconds), *(["--only", *args.only] if args.only else [])]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        print(done.stderr[-2000:], flush=True)
        raise SystemExit(f"the writer ended with {done.returncode}")
    return done.stdout.count("not made:")


class Tally:
    """What came of all files."""

    def __init__(self, verbose: bool = False) -> None:
        self.verbose, self.models, self.refused_models, self.wrong = verbose, 0, 0, 0
        self.rows: dict[tuple[str, str], collections.Counter[str]] = collections.defaultdict(collections.Counter)
        self.reasons: dict[tuple[str, str], list[str]] = collections.defaultdict(list)

    def model(self, folder: pathlib.Path) -> None:
        """One model's files."""
        from read_models import Reading

        self.models += 1
        reading = Reading(folder)
        complaints = reading.run()
        truth = reading.truth
        writer = f"{truth['api']} {'.'.join(map(str, truth['version']))}"
        for form, counts in reading.counts.items():
            self.rows[writer, form].update(counts)
        for form, reason, label in reading.refusals:
            self.reasons[form, reason].append(label)
        if complaints:
            self.wrong += len(complaints)
            kept = FAILURES / f"{truth['api']}-{'.'.join(map(str, truth['version']))}-{truth['seed']}"
            FAILURES.mkdir(exist_ok=True)
            shutil.rmtree(kept, ignore_errors=True)
            shutil.copytree(folder, kept)
            for line in complaints:
                print(f"WRONG {writer} seed {truth['seed']}: {line}", flush=True)
            print(f"again with: python fuzz/writers.py --read {kept}", flush=True)

    def report(self) -> int:
        """Prints the figures; returns the exit status."""
        columns = ("files", "layers", "right", "refused", "wrong")
        print(f"{'writer':18} {'form':28}" + "".join(f"{name:>9}" for name in columns))
        for (writer, form), counts in sorted(self.rows.items()):
            print(f"{writer:18} {form:28}" + "".join(f"{counts[name]:9}" for name in columns))
        for (form, reason), labels in sorted(self.reasons.items(), key=lambda item: (item[0][1], item[0][0])):
            print(f"refused {len(labels):5}  {form}: {reason}" + (f"  [{' '.join(labels[:6])}]" if self.verbose else ""))
        files, right = (sum(counts[name] for counts in self.rows.values()) for name in ("files", "right"))
        print(f"{self.models} models, {files} files, {right} layers right, {self.wrong} wrong; {self.refused_models} models that Keras "
              "itself refuses")
        return 1 if self.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
