import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { dirname, join } from "node:path";
import test from "node:test";
import { fileURLToPath } from "node:url";
import { BundleError, load, roundTo } from "./batchnorm.mjs";

const here = dirname(fileURLToPath(import.meta.url));

// A layer whose variance is below epsilon. TensorFlow gives 0.30664611; epsilon outside the root would give 0.543.
const text = JSON.stringify({
  format: "bn-bundle", version: 1, producer: { name: "by hand", version: "1" },
  source: { file: "none", kind: "none", keras_version: null, backend: null },
  formula: "gamma * (x - moving_mean) / sqrt(moving_variance + epsilon) + beta", digest: `sha256:${"0".repeat(64)}`,
  layers: [{
    name: "bn", path: "bn", class_name: "BatchNormalization", dtype: "float32", axis: [1], shape: [1], ndim: 2, epsilon: 0.001,
    momentum: null, gamma: [1.0055743], beta: [-0.016652612], moving_mean: [-0.089603029], moving_variance: [0.000436493],
  }],
});

test("one layer, in place", () => {
  const x = Float32Array.of(-0.077417567);
  assert.equal(load(text).get("bn").apply(x, [1, 1]), x);
  assert.ok(Math.abs(x[0] - 0.30664611) < 16 * 2 ** -24 * 5);
});

test("a shape that does not fit is refused and nothing is changed", () => {
  const x = Float32Array.of(1, 2);
  assert.throws(() => load(text).get("bn").apply(x, [1, 2]), RangeError);
  assert.deepEqual([...x], [1, 2]);
});

test("an input of another rank, sizes that are none, too few numbers and arrays of integers are refused", () => {
  const layer = load(text).get("bn");
  for (const shape of [[2, 1, 1], [1], [-2, 1], [2.5, 1], [3, 1]]) assert.throws(() => layer.apply(Float32Array.of(1, 2), shape), RangeError);
  for (const x of [Uint8ClampedArray.of(1), Int32Array.of(1), BigInt64Array.of(1n), [1n], ["1"], "1", null]) assert.throws(() => layer.apply(x, [1, 1]), TypeError);
  assert.equal(layer.apply([1], [1, 1])[0], layer.apply(Float64Array.of(1), [1, 1])[0]);
  layer.axis = [-1];
  assert.equal(layer.apply(Float64Array.of(0, 0), [1, 2, 1])[0], layer.apply(Float64Array.of(0), [1, 1])[0]);
});

test("bytes are read as UTF-8, strictly", () => {
  const bytes = new TextEncoder().encode(text);
  assert.equal(load(bytes).size, 1);
  bytes[bytes.indexOf(98, 100)] = 0xff;
  assert.throws(() => load(bytes), BundleError);
  assert.throws(() => load(`\ufeff${text}`), BundleError);
});

test("what is no bundle is refused", () => {
  for (const bad of ["", "[]", "null", text.replace("bn-bundle", "x"), text.replace('"version":1', '"version":2')]) {
    assert.throws(() => load(bad), BundleError);
  }
});

test("rounding to half precision", () => {
  assert.deepEqual([2049, 2051, 65519, 65520, 2 ** -25, -(2 ** -24)].map((x) => roundTo(x, "float16")),
    [2048, 2052, 65504, Infinity, 0, -(2 ** -24)]);
  assert.deepEqual([1 + 2 ** -8, 1 + 3 * 2 ** -8].map((x) => roundTo(x, "bfloat16")), [1, 1 + 2 ** -6]);
});

for (const bundle of ["../../vectors/batchnorm-1.json", "../batchnorm-1.json", "../bundle.json"].map((name) => join(here, name))) {
  test(`the vectors of ${bundle}`, { skip: existsSync(bundle) ? false : "not here" }, () => {
    const done = spawnSync(process.execPath, [join(here, "check.mjs"), bundle], { encoding: "utf8" });
    assert.equal(done.status, 0, done.stdout + done.stderr);
  });
}
