// Batch normalization in inference from a bundle; no dependencies, for Node 20 and browsers.
//
//     const layers = load(text);                              // the content of bundle.json, a string or its bytes
//     layers.get("encoder/bn_1").apply(x, shape);             // x: Float32Array in row-major order, changed in place
//
// The format is described in docs/format.md of bn-export.

const DTYPES = ["float16", "bfloat16", "float32", "float64"];
const FORMULA = "gamma * (x - moving_mean) / sqrt(moving_variance + epsilon) + beta";
const MAX_DEPTH = 200; // arrays and objects inside each other
const MAX_AXES = 8;
const ANY_RANK = 32; // the largest rank that is assumed where the bundle has no ndim
const LARGEST_FLOAT32 = (2 - 2 ** -23) * 2 ** 127;

/** A bundle that breaks the format. */
export class BundleError extends Error {
  name = "BundleError";
}

/** The layers of a bundle, a Map from path to Layer in the model's order. Throws BundleError. */
export function load(text) {
  const bundle = parse(text);
  if (typeOf(bundle) !== "object" || bundle.format !== "bn-bundle") throw new BundleError('this is not a bundle: expected "format": "bn-bundle"');
  if (bundle.version !== 1) throw new BundleError(`expected version 1 of the format, got ${JSON.stringify(bundle.version)}`);
  expect(bundle, { producer: ["object"], source: ["object"], formula: ["string"], digest: ["string"], layers: ["array"] });
  if (bundle.formula !== FORMULA) throw new BundleError(`expected the formula ${FORMULA}`);
  const layers = new Map();
  for (const entry of bundle.layers) {
    const layer = new Layer(entry);
    if (layers.has(layer.path)) throw new BundleError(`${layer.path}: this path occurs twice`);
    layers.set(layer.path, layer);
  }
  return layers;
}

/** The value of a strict JSON document: UTF-8, no key twice in one object, every number finite, at most 200 levels. */
export function parse(text) {
  try {
    if (typeof text !== "string") text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(text);
    const value = JSON.parse(text);
    checkTokens(text);
    return value;
  } catch (error) {
    throw error instanceof BundleError ? error : new BundleError(`this is not JSON: ${error.message}`);
  }
}

const QUOTE = 34, COMMA = 44, COLON = 58, BACKSLASH = 92;

/** What JSON.parse lets pass: keys that occur twice, numbers that overflow, any depth. `text` is JSON. */
function checkTokens(text) {
  const open = []; // the keys of each object that is open, null for an array
  for (let i = 0; i < text.length; ) {
    const code = text.charCodeAt(i), start = i++;
    if (code === QUOTE) {
      for (let next; (next = text.charCodeAt(i)) !== QUOTE; ) i += next === BACKSLASH ? 2 : 1;
      i++;
      while (text.charCodeAt(i) <= 32) i++;
      if (text.charCodeAt(i) === COLON) checkKey(open.at(-1), JSON.parse(text.slice(start, i)));
    } else if (code === 91 || code === 123) {
      if (open.push(code === 123 ? new Set() : null) > MAX_DEPTH) throw new BundleError(`expected JSON of at most ${MAX_DEPTH} levels, got more`);
    } else if (code === 93 || code === 125) {
      open.pop();
    } else if (code === 45 || (code >= 48 && code <= 57)) {
      while ((text.charCodeAt(i) >= 43 && text.charCodeAt(i) <= 57 && text.charCodeAt(i) !== COMMA) || (text.charCodeAt(i) | 32) === 101) i++;
      if (!Number.isFinite(Number(text.slice(start, i)))) throw new BundleError(`expected numbers that fit a double, got ${text.slice(start, start + 40)}`);
    }
  }
}

function checkKey(keys, key) {
  if (keys.has(key)) throw new BundleError(`the key ${JSON.stringify(key)} occurs twice in one object`);
  keys.add(key);
}

function typeOf(value) {
  return value === null ? "null" : Array.isArray(value) ? "array" : typeof value;
}

function expect(entry, types) {
  if (typeOf(entry) !== "object") throw new BundleError(`expected an object, got ${typeOf(entry)}`);
  for (const [key, allowed] of Object.entries(types)) {
    const found = Object.hasOwn(entry, key) ? typeOf(entry[key]) : "nothing";
    if (!allowed.includes(found)) throw new BundleError(`${key}: expected ${allowed.join(" or ")}, got ${found}`);
  }
}

const LAYER = {
  path: ["string"], name: ["string"], class_name: ["string"], dtype: ["string"], axis: ["array"], shape: ["array"], ndim: ["number", "null"],
  epsilon: ["number"], momentum: ["number", "null"], gamma: ["array", "null"], beta: ["array", "null"], moving_mean: ["array"],
  moving_variance: ["array"],
};

/** One layer. Its constants are doubles, so that one rounding is left: the one to the array it writes. */
export class Layer {
  #axis;

  constructor(entry) {
    expect(entry, LAYER);
    const { path, dtype, axis, shape, ndim, epsilon } = entry;
    this.#axis = axis;
    Object.assign(this, { path, dtype, shape, ndim, epsilon });
    if (!DTYPES.includes(dtype) || !(epsilon >= 0 && epsilon <= LARGEST_FLOAT32)) {
      throw new BundleError(`${path}: expected a known dtype and an epsilon of 0 or more, got ${dtype} and ${epsilon}`);
    }
    this.#checkGeometry();
    // Nothing of this size is made before the lists of the file have it.
    this.channels = product(shape);
    for (const name of ["moving_mean", "moving_variance", "gamma", "beta"]) this[name] = this.#numbers(name, entry[name]);
    this.root = Float64Array.from(this.moving_variance, (variance) => Math.sqrt(variance + epsilon));
    if (!this.moving_variance.every((variance) => variance + epsilon > 0)) {
      throw new BundleError(`${path}: expected moving_variance + epsilon above 0 in each channel`);
    }
    if (Object.hasOwn(entry, "vectors")) this.#checkVectors(entry.vectors);
  }

  /** For each entry of `shape` the axis of the input it runs along. Setting it also sets `ndim`, the input's rank, to null: any. */
  get axis() {
    return this.#axis;
  }

  set axis(axis) {
    this.#axis = [...axis];
    this.ndim = null;
  }

  #checkGeometry() {
    const { axis, shape, ndim, path } = this, rank = ndim ?? ANY_RANK;
    const sizes = shape.every((size) => Number.isSafeInteger(size) && size > 0) && axis.every(Number.isSafeInteger);
    if (!sizes || axis.length !== shape.length || axis.length < 1 || axis.length > MAX_AXES) {
      throw new BundleError(`${path}: axis [${axis}] does not fit parameters of shape [${shape}]`);
    }
    if (!Number.isSafeInteger(rank) || axis.some((a) => a === 0 || a >= rank || a <= -rank)) {
      throw new BundleError(`${path}: axis [${axis}] does not fit an input of rank ${rank}; axis 0 is the batch`);
    }
    if (new Set(axis.map((a) => (ndim !== null && a < 0 ? a + ndim : a))).size < axis.length) {
      throw new BundleError(`${path}: axis [${axis}] names one axis twice`);
    }
  }

  #numbers(name, values) {
    if (values === null) return new Float64Array(this.channels).fill(name === "gamma" ? 1 : 0);
    const isNumber = (value) => Number.isFinite(value) && Number.isFinite(roundTo(value, this.dtype));
    if (!Array.isArray(values) || values.length !== this.channels || !values.every(isNumber)) {
      throw new BundleError(`${this.path}: ${name}: expected ${this.channels} numbers of ${this.dtype}`);
    }
    return Float64Array.from(values, (value) => roundTo(value, this.dtype));
  }

  #checkVectors(vectors) {
    expect(vectors, { input: ["array"], output: ["array"] });
    for (const key of ["input", "output"]) vectors[key].forEach((row) => this.#numbers(`vectors.${key}`, row ?? []));
    if (vectors.input.length !== vectors.output.length || vectors.input.length < 1) {
      throw new BundleError(`${this.path}: vectors: expected as many rows of output as of input`);
    }
  }

  /**
   * Normalizes x, numbers of an input of this shape in row-major order, in place; returns x. Throws TypeError where x is an array of
   * integers, RangeError where the shape does not fit.
   */
  apply(x, shape) {
    if (!/^Float(16|32|64)Array$/.test(x?.[Symbol.toStringTag]) && !(Array.isArray(x) && x.every((value) => typeof value === "number"))) {
      throw new TypeError(`${this.path}: expected a Float32Array, Float64Array or array of numbers, got ${x?.[Symbol.toStringTag] ?? typeOf(x)}: ` +
        "the results have fractions");
    }
    const axes = this.#axes(shape);
    if (x.length !== product(shape)) throw new RangeError(`${this.path}: expected ${product(shape)} numbers for the shape [${shape}], got ${x.length}`);
    if (axes.some((axis, d) => axis !== axes[0] + d)) return this.#applyScattered(x, shape);
    const inner = product(shape.slice(axes.at(-1) + 1));
    const { channels, gamma, beta, moving_mean: mean, root } = this;
    for (let at = 0; at < x.length; ) {
      for (let c = 0; c < channels; c++) {
        const g = gamma[c], m = mean[c], r = root[c], b = beta[c];
        for (const end = at + inner; at < end; at++) x[at] = (g * (x[at] - m)) / r + b;
      }
    }
    return x;
  }

  #axes(shape) {
    if (this.ndim !== null && shape.length !== this.ndim && this.axis.some((axis) => axis > 0)) {
      throw new RangeError(`${this.path}: axis [${this.axis}] is that of an input of rank ${this.ndim}, got the shape [${shape}]; ` +
        "set layer.axis to the axis of its channels, e.g. [-1]");
    }
    const axes = this.axis.map((axis) => (axis < 0 ? axis + shape.length : axis));
    if (!shape.every((size) => Number.isSafeInteger(size) && size >= 0) || new Set(axes).size < axes.length
        || axes.some((axis, d) => shape[axis] !== this.shape[d])) {
      throw new RangeError(`${this.path}: expected [${this.shape}] channels along axis [${this.axis}], got an input of shape [${shape}]`);
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
