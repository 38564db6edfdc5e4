"""A program for a separate process: writes the small tensors of a PyTorch checkpoint to standard output as safetensors.

usage: torch_child.py FILE [entry of sys.path]...   exit status 3: it contains more than tensors; 4: it cannot be read
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any

MEMORY = 4 << 30  # bytes of address space, in addition to what torch itself takes and four times the file
CPU_SECONDS = 100
MAX_CHANNELS = 1 << 20
REFUSED, DAMAGED = 3, 4


def main(path: str) -> int:
    """Loads the checkpoint, and writes what may belong to a batch norm: tensors of one long dimension, and single numbers."""
    import pickle  # only for the name of the error; torch's own restricted unpickler reads the file

    import torch

    _limit(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        return REFUSED
    except Exception as error:
        print(f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}", file=sys.stderr)
        return DAMAGED
    small = {name: tensor for name, tensor in _tensors(content, "") if sum(size != 1 for size in tensor.shape) <= 1}
    sys.stdout.buffer.write(_dump(small, torch))
    return 0


def _tensors(content: Any, path: str) -> Iterator[tuple[str, Any]]:
    """The tensors of nested dictionaries, by their paths joined with "."."""
    if isinstance(content, dict):
        for key, value in content.items():
            yield from _tensors(value, f"{path}.{key}" if path else str(key))
    elif hasattr(content, "detach") and content.numel() <= MAX_CHANNELS:
        yield path, content.detach()


def _dump(tensors: dict[str, Any], torch: Any) -> bytes:
    from exporter.formats.safetensors import Tensor, dump

    kinds = {torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "F32", torch.float64: "F64", torch.int64: "I64"}
    found = {}
    for name, tensor in tensors.items():
        if tensor.dtype in kinds:
            plain = tensor.contiguous().view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor.contiguous()
            found[name] = Tensor(kinds[tensor.dtype], tuple(tensor.shape), plain.numpy().tobytes())
    return dump(found, {})


def _limit(path: str) -> None:
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 1))
        with open("/proc/self/statm", "rb") as file:
            taken = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        wanted = taken + MEMORY + 4 * os.path.getsize(path)
        resource.setrlimit(resource.RLIMIT_AS, (wanted, resource.getrlimit(resource.RLIMIT_AS)[1]))


if __name__ == "__main__":
    sys.path[:] = dict.fromkeys(filter(os.path.isabs, sys.argv[2:]))
    sys.exit(main(sys.argv[1]))
