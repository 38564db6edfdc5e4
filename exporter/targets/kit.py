"""The kit: a bundle with everything that people without Keras need, as a .zip or a folder.

bundle.json with its vectors, evaluators in Python, JavaScript and C (the files of runtimes/), layers.h for the last, the schema, the
conformance file, and a README. The evaluators run without this package.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

from exporter.__about__ import __version__
from exporter.batchnorm import schema
from exporter.batchnorm.bundle import Bundle
from exporter.batchnorm.document import FORMULA
from exporter.errors import OutputError, counted, printable
from exporter.formats.zip_writer import stored_zip
from exporter.targets import bundle_json, c_header
from exporter.targets.shared.names import identifiers
from exporter.targets.shared.options import WriteOptions

NAME = "kit"
MARK = rb"PK\x03\x04.{26}README\.md# Batch normalization of "
OPTIONS = frozenset({"folded"})  # never without vectors, which its programs check

# The files of runtimes/ that are part of the kit.
FILES = ("python/batchnorm.py", "python/check.py", "python/README.md",
         "javascript/batchnorm.mjs", "javascript/batchnorm.d.mts", "javascript/batchnorm.test.mjs", "javascript/check.mjs",
         "javascript/package.json", "javascript/README.md",
         "c/batchnorm.h", "c/check.c", "c/README.md")


def write(bundle: Bundle, options: WriteOptions) -> bytes:
    """The zip archive; bundle.json at its top, so that the archive itself can be read back as a model.

    Raises: OutputError for a bundle with only skipped layers.
    """
    if not bundle.layers:
        raise OutputError("the bundle holds no layer to put into a kit")
    return stored_zip(_members(bundle, options))


def _members(bundle: Bundle, options: WriteOptions) -> Iterator[tuple[str, bytes]]:
    yield "README.md", _page(bundle).encode()
    yield "bundle.json", bundle_json.write(bundle, options)
    yield "bundle-1.schema.json", schema.path().read_bytes()
    yield "batchnorm-1.json", _shipped("conformance", "vectors").joinpath("batchnorm-1.json").read_bytes()
    for name in FILES:
        yield name, _shipped("runtimes", "runtimes").joinpath(name).read_bytes()
    yield "c/layers.h", c_header.write(bundle, options)


def _shipped(inside: str, beside: str) -> Path:
    """A folder of the package: `inside` an installed package, `beside` it in a checkout."""
    here = Path(__file__).resolve().parent.parent
    return here / inside if (here / inside).is_dir() else here.parent / beside


def _page(bundle: Bundle) -> str:
    layer = bundle.layers[0]
    rows = [f"| `{_code(each.path)}` | {'x'.join(map(str, each.shape))} | {', '.join(map(str, each.axis))} |" for each in bundle]
    return PAGE.format(name=_code(bundle.origin.file), count=counted(len(bundle), "layer"), formula=FORMULA,
                       python=_literal(ascii(layer.path)), javascript=_literal(json.dumps(layer.path)), stem=identifiers(bundle.paths())[0],
                       channels=layer.channels, rows="\n".join(rows), version=__version__)


def _literal(text: str) -> str:
    """A Python or JavaScript string for a Markdown code block, which a backquote could end."""
    return text.replace("`", "\\x60")


def _code(text: str) -> str:
    """Text for Markdown's backquotes inside a table."""
    return re.sub("[`|]", "?", printable(text))


PAGE = """# Batch normalization of `{name}`

The {count} of batch normalization of a trained model, to be computed anywhere. In inference each is

    {formula}

with a gamma, beta, moving_mean and moving_variance for each channel and one epsilon per layer. **The statistics of the input itself are
not used.**

| file | what it is |
|---|---|
| `bundle.json` | the layers with their numbers, exact to the last bit, and for each a few inputs with the right outputs |
| `python/`, `javascript/`, `c/` | evaluators without dependencies, each with a README and a program that checks it |
| `bundle-1.schema.json` | JSON Schema of `bundle.json` |
| `batchnorm-1.json` | synthetic layers that reveal mistakes, for testing your own evaluator; also a bundle |

Below, `x` contains the numbers of an input of shape `shape`, batch first, in row-major order.

## Python (3.8 or later)

```python
from batchnorm import load
layers = load(open("../bundle.json", encoding="utf-8").read())
y = layers[{python}](x, shape)
```

To check: `cd python && python check.py ../bundle.json`

## JavaScript (Node 20, browsers)

```js
import {{ load }} from "./batchnorm.mjs";
const layers = load(text);                      // text: the content of bundle.json
layers.get({javascript}).apply(x, shape);           // x: a Float32Array, changed in place
```

To check: `cd javascript && node check.mjs ../bundle.json`, or `npm test`

## C (C99; the layers are compiled in, no JSON is read)

```c
static float constants[3 * {stem}_channels];    /* #include "batchnorm.h" and then "layers.h" */
bn_prepare(&bn_layers[0], constants);           /* once */
bn_run(constants, outer, {stem}_channels, inner, x);   /* x: outer * {channels} * inner floats, changed in place */
```

To check: `cd c && cc -std=c99 -O2 check.c -lm -o check && ./check`

## The layers

| layer | channels | axis of the input |
|---|---|---|
{rows}

A result is right if its error is at most 16 * u * (|a * x| + |a * moving_mean| + |beta|) + the smallest normal number, with
a = gamma / sqrt(moving_variance + epsilon) and u = 2^-24 for float32.

Written by bn-export {version}.
"""
