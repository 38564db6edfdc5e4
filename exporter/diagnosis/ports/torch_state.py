"""A PyTorch checkpoint (.pt, .pth): a pickle, read by torch.load(weights_only=True) in a child process, with the extra `torch`.

Nothing in it is unpickled in this process: the child (torch_child.py) sends the arrays back as safetensors.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from exporter.diagnosis.ports.port import Port
from exporter.diagnosis.ports.state import port_of
from exporter.errors import FormatError, MissingExtra, UnsupportedError, printable

if TYPE_CHECKING:
    from exporter.files.place import Place

LEGACY = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # the magic number of torch.save before 1.6, pickled
MAX_HEAD_LENGTH = 1 << 12  # bytes
SECONDS = 120
REFUSED, DAMAGED = 3, 4  # exit statuses of the child


def claims(place: Place) -> bool:
    """A zip archive whose first member is NAME/data.pkl, or the magic number of the older form."""
    head = place.head(MAX_HEAD_LENGTH)
    name = head[30:30 + int.from_bytes(head[26:28], "little")]  # APPNOTE 4.3.7: the first member, which torch.save writes first
    return head.startswith(LEGACY) or (head.startswith(b"PK\3\4") and name.endswith(b"/data.pkl"))


def read(place: Place) -> Port:
    """The batch norms of a checkpoint. Raises: MissingExtra, UnsupportedError for one that contains more than tensors, FormatError."""
    from exporter.formats.safetensors import parse

    if importlib.util.find_spec("torch") is None:
        raise MissingExtra("torch", "torch", "reading a PyTorch checkpoint")
    command = [sys.executable, "-I", str(Path(__file__).with_name("torch_child.py")), str(place.local.absolute()), *sys.path]
    try:
        done = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise FormatError(f"reading it did not end within {SECONDS} seconds", where=place.name) from None
    if done.returncode == REFUSED:
        raise UnsupportedError("torch.load(weights_only=True) refuses it: it contains more than tensors, and loading that could run code",
                               where=place.name, hint="in PyTorch: torch.save(model.state_dict(), 'state.pt')")
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
        raise FormatError(f"torch.load cannot read it: {printable(said[0], 160)}", where=place.name)
    _, tensors = parse(done.stdout)
    return port_of({name: tensor.array(place.name) for name, tensor in tensors.items()}, place.name)
