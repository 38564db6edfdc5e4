// Runs the tests in a bundle: `node check.mjs bundle.json`; without a name, those of the kit that this file lies in. Exit code 1 where a number is off by more than the bound.

import { readFileSync } from "node:fs";
import { BundleError, load, parse, roundTo } from "./batchnorm.mjs";

const UNIT = { float16: 2 ** -11, bfloat16: 2 ** -8, float32: 2 ** -24, float64: 2 ** -53 };
const TINY = { float16: 2 ** -14, bfloat16: 2 ** -126, float32: 2 ** -126, float64: 2 ** -1022 };

let tests = 0, numbers = 0, wrong = 0, worst = 0;

const text = readFileSync(process.argv[2] ?? new URL("../bundle.json", import.meta.url));
const bundle = parse(text), layers = load(text), byRows = load(text);
for (const entry of bundle.layers) {
  if (entry.vectors) runRows(byRows.get(entry.path), entry.vectors);
  for (const test of entry.cases ?? []) run(layers.get(entry.path), test);
}
const faults = [];
for (const { why, text } of bundle.refuse ?? []) if (accepts(BundleError, () => load(text))) faults.push(`not refused: ${why}`);
for (const { why, text } of bundle.accept ?? []) if (!accepts(BundleError, () => load(text))) faults.push(`not accepted: ${why}`);
for (const { why, layer, shape, count } of bundle.refuse_inputs ?? []) {
  if (accepts(RangeError, () => layers.get(layer).apply(new Float64Array(count), shape))) faults.push(`not refused: ${why}`);
}
for (const fault of faults) console.log(fault);
console.log(`javascript: ${layers.size} layers, ${tests} tests, ${numbers} numbers, ${wrong} wrong, worst ${worst.toFixed(2)} ulp`);
process.exitCode = wrong || faults.length || !numbers ? 1 : 0;

/** The vectors are rows: as if the parameters ran along all axes but the first. */
function runRows(layer, { input, output }) {
  layer.axis = layer.shape.map((_, d) => d + 1);
  run(layer, { input: input.flat(), output: output.flat(), shape: [input.length, ...layer.shape] });
}

function run(layer, { input, output, shape }) {
  tests++;
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

function accepts(Refusal, action) {
  try {
    action();
    return true;
  } catch (error) {
    if (error instanceof Refusal) return false;
    throw error;
  }
}
