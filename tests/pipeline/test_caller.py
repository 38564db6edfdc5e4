"""The process of a program that uses the library stays as it was, whichever way a file is read."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.make.layers import ROOT

MODELS = [ROOT / "sample_models" / name for name in (
    "no_beta_keras208", "encoder_keras3", "saved_model_tfkeras", "hand_made_tf115", "tfjs_layers")]
PROGRAM = """\
import os, signal, sys, warnings
import h5py, numpy as np
import exporter

def state():
    return {"environment": dict(os.environ), "folder": os.getcwd(), "streams": (sys.stdin, sys.stdout, sys.stderr),
            "filters": list(warnings.filters), "floats": np.geterr(), "path": list(sys.path),
            "signals": [signal.getsignal(number) for number in sorted(signal.valid_signals())], "files": os.listdir("/proc/self/fd"),
            "h5py": [getattr(h5py.get_config(), name) for name in ("complex_names", "bool_names", "track_order")],
            "limits": LIMITS(), "children": children()}

def LIMITS():
    import resource
    return [resource.getrlimit(kind) for kind in (resource.RLIMIT_AS, resource.RLIMIT_CPU, resource.RLIMIT_CORE)]

def children():
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        return file.read()

exporter.read(sys.argv[1], isolated=True)  # what is imported once for all
exporter.read(sys.argv[1])
before = state()
for isolated in (False, True):
    for path in sys.argv[1::EACH if isolated else 1]:
        exporter.read(path, isolated=isolated, epsilon=0.001, skip_unresolved=True)
    for path in ("/nosuch.h5", __file__):
        try:
            exporter.read(path, isolated=isolated)
        except exporter.ExporterError:
            pass
    after = state()
    changed = {name: (before[name], after[name]) for name in before if before[name] != after[name]}
    assert not changed, changed
print("as before")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("first", [
    pytest.param("import h5py", id="h5py first"),
    pytest.param("exporter.read(sys.argv[1])", id="exporter first", marks=pytest.mark.thorough("much time"))])
def test_the_process_is_as_it_was(first, tmp_path):
    """What is read in a child does not depend on the file: always a few of them, and with --thorough all."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.replace("import h5py, numpy as np\n", f"import exporter\n{first}\nimport h5py, numpy as np\n")
                       .replace("EACH", "4" if "h5py" in first else "1"))
    files = [str(path) for folder in MODELS for path in sorted(folder.iterdir()) if path.suffix in (".h5", ".keras", ".index")
             or path.name in ("saved_model", "model.json")]
    environment = {"PATH": "/usr/bin:/bin", "HDF5_PLUGIN_PATH": str(tmp_path), "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, str(program), *files], capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "as before\n", "")
