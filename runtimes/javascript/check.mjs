// Runs the tests in a bundle: `node check.mjs bundle.json`. Exit code 1 where a number is off by more than the bound.

import { readFileSync } from "node:fs";
import { BundleError, load, roundTo } from "./batchnorm.mjs";

const UNIT = { float16: 2 ** -11, bfloat16: 2 ** -8, float32: 2 ** -24, float64: 2 ** -53 };
const TINY = { float16: 2 ** -14, bfloat16: 2 ** -126, float32: 2 ** -126, float64: 2 ** -1022 };

let tests = 0, numbers = 0, wrong = 0, worst = 0;

const text = readFileSync(process.argv[2], "utf8");
const bundle = JSON.parse(text), layers = load(text);
for (const entry of bundle.layers) {
  for (const test of cases(entry)) run(layers.get(entry.path), test);
}
const accepted = (bundle.refuse ?? []).filter(({ text }) => accepts(text));
for (const { why } of accepted) console.log(`not refused: ${why}`);
console.log(`javascript: ${layers.size} layers, ${tests} tests, ${numbers} numbers, ${wrong} wrong, worst ${worst.toFixed(2)} ulp`);
process.exitCode = wrong || accepted.length || !numbers ? 1 : 0;

function* cases({ vectors, cases = [], shape, axis }) {
  if (vectors) {
    const axes = shape.map((_, d) => d + 1);
    yield { input: vectors.input.flat(), output: vectors.output.flat(), shape: [vectors.input.length, ...shape], axis: axes };
  }
  for (const test of cases) yield { ...test, axis };
}

function run(layer, { input, output, shape, axis }) {
  tests++;
  layer.axis = axis;
  const NumberArray = layer.dtype === "float64" ? Float64Array : Float32Array;
  const x = NumberArray.from(input, (value) => roundTo(value, layer.dtype));
  const got = layer.apply(NumberArray.from(x), shape);
  output.forEach((value, i) => compare(layer, layer.channelOf(i, shape), x[i], got[i], roundTo(value, layer.dtype)));
}

function compare(layer, c, x, got, want) {
  const u = UNIT[layer.dtype], tiny = TINY[layer.dtype], error = Math.abs(got - want);
  const a = Math.abs(layer.gamma[c]) / layer.root[c];
  const bound = 16 * u * (a * Math.abs(x) + a * Math.abs(layer.moving_mean[c]) + Math.abs(layer.beta[c])) + tiny;
  numbers++;
  if (!(error <= bound)) wrong++;
  const size = Math.max(Math.abs(want), tiny);
  if (layer.dtype === "float32") worst = Math.max(worst, error / (2 * u * 2 ** Math.floor(Math.log2(size))));
}

function accepts(text) {
  try {
    load(text);
    return true;
  } catch (error) {
    if (error instanceof BundleError) return false;
    throw error;
  }
}
