"""Folds whole networks of keras.applications and compares what they give with what Keras gives: the table of docs/folding.md.

    python docs/measure_folding.py                     all of them; writes the table
    python docs/measure_folding.py MobileNetV2         one of them; prints its row

The networks have random weights and statistics and no softmax at the end, which would hide differences. The folded network is the
model's own config with the folded batch norms replaced by nothing and use_bias set, and the folded arrays in it (tests/make/folding.py).
Two figures a network: the outputs of the whole against each other; and each folded layer alone, fed with what reaches it in the network,
against its layer and batch norm, as a part of the sum of the two error bounds.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "folding.md"
BEGIN, END = "<!-- begin networks: made by docs/measure_folding.py -->", "<!-- end networks -->"
NETWORKS = ("MobileNetV2", "DenseNet121", "ResNet50V2", "Xception")
SIZE, IMAGES = 96, 4
UNIT = 2.0**-24
sys.path.insert(0, str(ROOT))


def measured(name: str) -> dict[str, Any]:
    """The figures of one network."""
    import keras

    import exporter
    from tests.make.folding import arrays_of, layers_of, randomize, without_norms

    model = randomize(getattr(keras.applications, name)(weights=None, input_shape=(SIZE, SIZE, 3), classifier_activation=None))
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder) / "model.keras", Path(folder) / "folded.npz"
        model.save(source)
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "exporter", source, out, "--fold"], check=True, capture_output=True, cwd=ROOT)
        seconds = time.perf_counter() - began
        megabytes = source.stat().st_size / 2**20
        content = json.loads(np.load(out)["folding.json"])
        folded = exporter.fold_model(source)
    live = dict(layers_of(model))
    assert [each["layer"] for each in content["folded"]] == [each.path for each in folded.folded]
    for each in folded.folded:
        assert each.source.kernel.tobytes() == arrays_of(live[each.path], each.kernel_name).tobytes(), each.path
    x = np.random.default_rng(1).uniform(-1, 1, (IMAGES, SIZE, SIZE, 3)).astype(np.float32)
    want, got = (network.predict(x, verbose=0).astype(np.float64) for network in (model, without_norms(keras, model, folded)))
    reaching = inputs_of(keras, model, folded, x)
    parts = [part_of_bound(keras, live, each, inputs) for each, inputs in zip(folded.folded, reaching, strict=True)]
    return {"network": name, "norms": len(folded.folded) + len(folded.kept), "folded": len(folded.folded), "kept": len(folded.kept),
            "reasons": reasons(folded), "megabytes": megabytes, "seconds": seconds,
            "difference": float(np.abs(got - want).max() / np.abs(want).max()), "part": max(parts)}


def inputs_of(keras: Any, model: Any, folded: Any, x: Any) -> list[Any]:
    """What reaches each folded layer in the network."""
    live = {layer.name: layer for layer in model.layers}
    return keras.Model(model.input, [live[each.path].input for each in folded.folded]).predict(x, verbose=0, batch_size=1)


def part_of_bound(keras: Any, live: dict[str, Any], each: Any, x: Any) -> float:
    """The worst difference between a folded layer and its layer and batch norm, as a part of the sum of their error bounds."""
    from exporter.batchnorm import fold

    layer, norm = live[each.path], each.norm
    weights = layer.get_weights()
    twin = type(layer).from_config({**layer.get_config(), "use_bias": True})
    twin.build(x.shape)

    def run(kernel: Any, bias: Any, values: Any, sizes: bool = False) -> Any:
        first = [] if each.kernel_name == "kernel" else [np.abs(weights[0]) if sizes else weights[0]]
        twin.set_weights([*first, kernel, bias])
        return np.asarray(twin(values), np.float64)

    old, bias = each.source.kernel, np.zeros(norm.channels, np.float32) if each.source.bias is None else each.source.bias
    zeros = np.zeros(norm.channels, np.float32)
    between = run(old, bias, x)
    got, want = run(each.kernel, each.bias, x), np.asarray(live[norm.path](between.astype(np.float32)), np.float64)
    size, old_size = run(np.abs(each.kernel), zeros, np.abs(x), True), run(np.abs(old), zeros, np.abs(x), True)
    a = np.abs(norm.scale)
    n = each.products * (1 if each.kernel_name == "kernel" else int(np.prod(weights[0].shape[:-2])))
    folded_bound = fold.bound(fold.Folded(each.kernel, each.bias), each.source.kind, size) * (n / each.products)
    own = (n + 1) * UNIT * a * (old_size + np.abs(bias)) + 16 * UNIT * (a * np.abs(between) + a * np.abs(norm.moving_mean)
                                                                        + np.abs(0 if norm.beta is None else norm.beta))
    return float((np.abs(got - want) / (folded_bound + own)).max())


def reasons(folded: Any) -> str:
    """What feeds the batch norms that stay, counted by class."""
    import collections
    import re

    counted = collections.Counter(match[1] if (match := re.search(r"of class (\w+)", reason)) else reason for _, reason in folded.kept)
    return ", ".join(f"{count} fed by {name}" for name, count in counted.most_common())


def table(rows: list[dict[str, Any]]) -> str:
    head = ("| network | batch norms | folded | kept | `.keras` | `bn-export --fold` | outputs of the whole network, relative to the "
            "largest | worst folded layer, part of the bound |\n|---|---|---|---|---|---|---|---|\n")
    return head + "".join(
        f"| {row['network']} | {row['norms']} | {row['folded']} | {row['kept'] or '0'}{': ' + row['reasons'] if row['kept'] else ''} | "
        f"{row['megabytes']:.0f} MiB | {row['seconds']:.1f} s | {row['difference']:.1e} | {row['part']:.2f} |\n" for row in rows)


def main() -> None:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    names = sys.argv[1:] or NETWORKS
    rows = [measured(name) for name in names]
    print(table(rows))
    if not sys.argv[1:]:
        text = PAGE.read_text()
        start, end = text.index(BEGIN) + len(BEGIN), text.index(END)
        PAGE.write_text(f"{text[:start]}\n{table(rows)}{text[end:]}")


if __name__ == "__main__":
    main()
