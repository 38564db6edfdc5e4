"""Print-outs of arrays as people paste them, brought into the form that `samples.from_text` reads: numbers, separators, brackets.

NumPy (array([...], dtype=float32), np.float32(0.5)), PyTorch (tensor([...], device='cuda:0', grad_fn=<...>)), TensorFlow
(tf.Tensor([[...]], shape=(2, 2), dtype=float32), <tf.Tensor: shape=..., numpy=array(...)>), JAX (Array([...], dtype=float32)),
Keras 3 (<Variable path=bn/gamma, ..., value=[...]>), TensorFlow.js (Tensor [[...]], with or without its verbose head), JavaScript's
typed arrays (Float32Array(2) [1, 2]), C ({1.0f, 2.5f}) and R ([1] 1 2).
"""

from __future__ import annotations

import re

from exporter.errors import UsageError, printable

SCALAR = re.compile(r"\b(?:np|numpy|jnp|ml_dtypes)\.\w*(?:float|int)\d+\(([^()]*)\)")
# What stands beside the numbers, with its value; "numpy=" has the array itself as its value.
WORDS = re.compile(r",?\s*\b(?:dtype|device|shape|requires_grad|grad_fn|size|layout|weak_type|rank|path)\s*[=:]\s*"
                   r"(?:<[^<>]*>|'[^']*'|\([^()]*\)|\[[\d,\s]*\]|[\w.:/-]+)")
NAMES = re.compile(r"<?\b(?:Parameter containing:\s*|tf\.Tensor:?|tf\.Variable(?:\s+'[^']*')?|ListWrapper|EagerTensor|"
                   r"(?:Keras)?Variable|tensor|array|asarray|"
                   r"(?:np|numpy|jnp|torch|tf)\.(?:array|tensor|asarray|constant)|Array|DeviceArray|Tensor|Float(?:32|64)Array(?:\(\d+\))?|"
                   r"values:|(?:numpy|value)=)")
SUFFIX = re.compile(r"(?<![\w.])([+-]?(?:\d+\.\d*|\.\d+)(?:[eE][+-]?\d+)?)[fF](?![\w.])")  # of a float in C
FRAMES = re.compile(r"(?m)^[^\S\n]*\[\d+\]\s+(?=[-+\d.])|\[torch\.\w+ of size [\dx]+\]")  # what R counts, and PyTorch before 0.4 said
LEFT_OUT = re.compile(r"\.\.\.|…")
DECIMAL = r"[+-]?\d+,\d+"
BETWEEN = r"(?:[^\S\n]*;\s*|[^\S\n]+)"
ALL_DECIMAL = re.compile(rf"\s*{DECIMAL}(?:{BETWEEN}{DECIMAL})+\s*;?\s*")
FRACTION = re.compile(r"(?<![\d.,])[+-]?(?:\d+,0\d+|0,\d{2,})(?![\d.,])")
FILE = re.compile(r"\.(?:npy|npz|csv|json|txt)(?::\w+)?$")


def plain(text: str) -> str:
    """The numbers of a print-out, with their brackets. Raises: UsageError if it leaves some out, or has commas for decimal points."""
    text = re.sub(r" ?\n\s*", "\n", re.sub(r"[^\S\n]+", " ", text))  # the patterns would look at a long run from each of its places
    text = SUFFIX.sub(r"\1", FRAMES.sub(" ", text))
    if not re.search(r"[A-DF-Za-df-z<]|\.\.\.|…", text.replace("inf", "").replace("nan", "")):
        check_commas(text)
        return text
    if LEFT_OUT.search(text):
        raise UsageError("the printed array is abbreviated (...)", hint="print all numbers (numpy.set_printoptions(threshold=2**31), "
                         "torch.set_printoptions(threshold=2**31)), or save the array: numpy.save(file, array)")
    bare = SCALAR.sub(r"\1", text)
    bare = WORDS.sub("", bare)
    bare = NAMES.sub(" ", bare).replace(">", " ")
    return bare.replace("(", " ").replace(")", " ") if "[" in bare else bare


def is_pasted(word: str) -> bool:
    """Whether a word of the command line is a print-out and not the name of a file."""
    known = any(pattern.search(word) for pattern in (NAMES, SCALAR, FRAMES))
    return known and re.search(r"[\[(]", word) is not None and not FILE.search(word)


def check_commas(text: str) -> None:
    """Refuses numbers with a comma where the decimal point belongs: "3,5; 4,5" would otherwise be four numbers."""
    if "." in text:
        return
    found = ALL_DECIMAL.fullmatch(text) or FRACTION.search(text)
    rows = [row.count(",") for row in text.split(";") if row.strip()]
    if found is None and (max(rows, default=0) != 1 or len(set(rows)) == 1):  # "3,5; 4"
        return
    shown = (text if found is None else found[0]).strip()
    raise UsageError(f"{printable(shown, 60)!r}: a comma separates numbers and is not a decimal point",
                     hint="write 3.5, 4.5; rows are written [[3, 5], [4, 5]]")
