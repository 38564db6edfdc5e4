// Batch normalisation in inference from a bundle; no dependencies, for Node 20 and browsers.
//
//     const layers = load(text);                              // text: the content of bundle.json
//     layers.get("encoder/bn_1").apply(x, shape);             // x: Float32Array in row-major order, changed in place
//
// The format is described in docs/format.md of bn-export.

const PARAMETERS = ["gamma", "beta", "moving_mean", "moving_variance"];
const DTYPES = ["float16", "bfloat16", "float32", "float64"];

/** A bundle that breaks the format. */
export class BundleError extends Error {}

/** The layers of a bundle, a Map from path to Layer in the model's order. Throws BundleError. */
export function load(text) {
  let bundle;
  try {
    bundle = JSON.parse(text);
  } catch (error) {
    throw new BundleError(`this is not JSON: ${error.message}`);
  }
  if (bundle?.format !== "bn-bundle" || !Array.isArray(bundle.layers)) throw new BundleError("this is not a bundle");
  if (bundle.version !== 1) throw new BundleError(`version ${bundle.version} of the format is not known`);
  const layers = new Map();
  for (const entry of bundle.layers) {
    const layer = new Layer(entry);
    if (layers.has(layer.path)) throw new BundleError(`${layer.path}: this path occurs twice`);
    layers.set(layer.path, layer);
  }
  return layers;
}

/** One layer. Its constants are doubles, so that one rounding is left: the one to the array it writes. */
export class Layer {
  constructor(entry) {
    const { path, dtype, axis, shape, epsilon } = entry;
    const lists = Array.isArray(axis) && Array.isArray(shape) && [...axis, ...shape].every(Number.isInteger);
    if (typeof path !== "string" || !DTYPES.includes(dtype) || !lists || axis.length !== shape.length || axis.includes(0) || !(typeof epsilon === "number" && epsilon >= 0)) {
      throw new BundleError(`${path}: path, dtype, axis, shape or epsilon is missing or not possible`);
    }
    Object.assign(this, { path, dtype, axis, shape, epsilon, channels: shape.reduce((a, b) => a * b, 1) });
    for (const name of PARAMETERS) this[name] = this.#numbers(name, entry[name]);
    this.root = Float64Array.from(this.moving_variance, (variance) => Math.sqrt(variance + epsilon));
    if (!this.moving_variance.every((variance) => variance + epsilon > 0)) {
      throw new BundleError(`${path}: moving_variance + epsilon is not above 0`);
    }
  }

  #numbers(name, values) {
    if (values === null && name === "gamma") return new Float64Array(this.channels).fill(1);
    if (values === null && name === "beta") return new Float64Array(this.channels);
    const isNumber = (value) => Number.isFinite(value) && Number.isFinite(roundTo(value, this.dtype));
    if (!Array.isArray(values) || values.length !== this.channels || !values.every(isNumber)) {
      throw new BundleError(`${this.path}: ${name} is not ${this.channels} numbers of ${this.dtype}`);
    }
    return Float64Array.from(values, (value) => roundTo(value, this.dtype));
  }

  /** Normalises x, numbers of an input of this shape in row-major order, in place; returns x. */
  apply(x, shape) {
    const axes = this.#axes(x, shape);
    if (axes.some((axis, d) => axis !== axes[0] + d)) return this.#applyScattered(x, shape);
    const inner = product(shape.slice(axes[axes.length - 1] + 1));
    const { channels, gamma, beta, moving_mean: mean, root } = this;
    for (let at = 0; at < x.length; ) {
      for (let c = 0; c < channels; c++) {
        const g = gamma[c], m = mean[c], r = root[c], b = beta[c];
        for (const end = at + inner; at < end; at++) x[at] = (g * (x[at] - m)) / r + b;
      }
    }
    return x;
  }

  #axes(x, shape) {
    const axes = this.axis.map((axis) => (axis < 0 ? axis + shape.length : axis));
    if (axes.some((axis, d) => shape[axis] !== this.shape[d]) || x.length !== product(shape)) {
      throw new RangeError(`${this.path}: ${x.length} numbers of shape [${shape}] do not have [${this.shape}] channels along axis [${this.axis}]`);
    }
    return axes;
  }

  /** For axes that do not stand together in order, as in axis=[1, 3]. */
  #applyScattered(x, shape) {
    for (let i = 0; i < x.length; i++) {
      const c = this.channelOf(i, shape);
      x[i] = (this.gamma[c] * (x[i] - this.moving_mean[c])) / this.root[c] + this.beta[c];
    }
    return x;
  }

  /** The channel of number i of an input of this shape. */
  channelOf(i, shape) {
    return this.axis.reduce((channel, axis, d) => {
      const after = product(shape.slice(axis < 0 ? axis + shape.length + 1 : axis + 1));
      return channel * this.shape[d] + (Math.floor(i / after) % this.shape[d]);
    }, 0);
  }
}

/** The number of `dtype` nearest to a double, half to even; infinite where it overflows. */
export function roundTo(value, dtype) {
  if (dtype === "float32") return Math.fround(value);
  if (dtype === "float64" || value === 0) return value;
  const [bits, lowest, largest] = dtype === "float16" ? [11, -24, 65504] : [8, -133, (2 - 2 ** -7) * 2 ** 127];
  const exponent = Math.floor(Math.log2(Math.abs(value)));
  const quantum = 2 ** Math.max(exponent + 1 - bits, lowest);
  const scaled = value / quantum;
  const below = Math.floor(scaled), rest = scaled - below;
  const up = rest > 0.5 || (rest === 0.5 && below % 2 !== 0);
  const rounded = (up ? below + 1 : below) * quantum;
  return Math.abs(rounded) <= largest ? rounded : Math.sign(value) * Infinity;
}

function product(sizes) {
  return sizes.reduce((a, b) => a * b, 1);
}
