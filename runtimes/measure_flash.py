"""Measures what a layer of 64 channels costs on a microcontroller and writes the table of runtimes/c/README.md.

    python runtimes/measure_flash.py [--write]        needs arm-none-eabi-gcc with newlib
"""

from __future__ import annotations

import argparse
import re
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from exporter.batchnorm.bundle import Bundle, Origin
from exporter.batchnorm.layer import BatchNorm
from exporter.targets import c_header
from exporter.targets.shared.options import WriteOptions

HERE = Path(__file__).resolve().parent
PAGE = HERE / "c" / "README.md"
BEGIN, END = "<!-- made by runtimes/measure_flash.py: begin -->", "<!-- end -->"
COMPILER = "arm-none-eabi-gcc"
CHANNELS = 64

CHIPS = {"Cortex-M4F": ("-mcpu=cortex-m4", "-mfpu=fpv4-sp-d16", "-mfloat-abi=hard"),
         "Cortex-M0+": ("-mcpu=cortex-m0plus", "-mfloat-abi=soft")}
FLAGS = ("-std=c99", "-Os", "-mthumb", "-ffunction-sections", "-fdata-sections", "-Wall", "-Wextra", "-Werror")
LINK = ("-nostartfiles", "--specs=nosys.specs", "-Wl,--gc-sections", "-Wl,-e,run", "-Wl,-u,run")

FOLDED = """#include "layers.h"
void run(float *x) {
    for (int c = 0; c < bn_channels; c++) x[c] = bn_scale[c] * x[c] + bn_offset[c];
}
"""
RUNTIME = """#include "batchnorm.h"
#include "layers.h"
static float constants[3 * bn_channels];
int run(float *x) {
    static int ready;
    if (!ready) ready = bn_prepare(&bn_layers[0], constants);
    if (ready) bn_run(constants, 1, bn_channels, 1, x);
    return ready;
}
"""
EXACT = """#include "batchnorm.h"
#include "layers.h"
void run(float *x) {
    for (size_t c = 0; c < bn_channels; c++) x[c] = (float)bn_one(&bn_layers[0], c, x[c]);
}
"""
PROGRAMS = {"`--folded`: `scale` and `offset` alone": FOLDED, "`batchnorm.h`: `bn_prepare` once, `bn_run`": RUNTIME,
            "`batchnorm.h`: `bn_one`, in double": EXACT}


def layers() -> Bundle:
    """One layer of 64 channels."""
    spread = np.linspace(0.5, 1.5, CHANNELS, dtype=np.float32)
    layer = BatchNorm(path="bn", name="bn", class_name="BatchNormalization", axis=(-1,), shape=(CHANNELS,), ndim=4, dtype="float32",
                      epsilon=1e-3, momentum=0.99, gamma=spread, beta=spread - 1, moving_mean=spread * 2, moving_variance=spread / 4)
    return Bundle(layers=(layer,), origin=Origin(file="flash.h5", kind="keras-h5"))


def version() -> str:
    """The compiler's version."""
    return subprocess.run([COMPILER, "-dumpversion"], capture_output=True, text=True, check=True).stdout.strip()


def size(program: str, chip: str, folder: Path) -> tuple[int, int]:
    """(bytes of flash, bytes of RAM) of a program with all that it needs of the C library; the input is not counted."""
    (folder / "main.c").write_text(program)
    (folder / "layers.h").write_bytes(c_header.write(layers(), WriteOptions(folded="bn_scale" in program, vectors=False)))
    command = [COMPILER, *FLAGS, *CHIPS[chip], f"-I{HERE / 'c'}", "main.c", *LINK, "-lm", "-o", "main.elf"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    done = subprocess.run(["arm-none-eabi-size", "main.elf"], cwd=folder, check=True, capture_output=True, text=True)
    text, data, bss = (int(number) for number in re.findall(r"\d+", done.stdout.splitlines()[1])[:3])
    return text + data, data + bss


def table() -> list[str]:
    """The table's lines."""
    lines = [f"A layer of {CHANNELS} channels, {COMPILER} {version()} `-Os`, with everything needed from the C library:", "",
             "| program | " + " | ".join(f"{chip}: flash | RAM" for chip in CHIPS) + " |", "|---|" + "---:|" * (2 * len(CHIPS))]
    for name, program in PROGRAMS.items():
        with tempfile.TemporaryDirectory() as folder:
            sizes = [str(number) for chip in CHIPS for number in size(program, chip, Path(folder))]
        lines.append(f"| {name} | {' | '.join(sizes)} |")
    return lines


def main() -> None:
    """Prints the table; with --write puts it into the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--write", action="store_true", help="put the table into runtimes/c/README.md")
    args = parser.parse_args()
    lines = table()
    print("\n".join(lines))
    if args.write:
        before, _, rest = PAGE.read_text("utf-8").partition(BEGIN)
        _, _, after = rest.partition(END)
        PAGE.write_text("\n".join([before + BEGIN, "", *lines, "", END + after]), "utf-8")


if __name__ == "__main__":
    main()
