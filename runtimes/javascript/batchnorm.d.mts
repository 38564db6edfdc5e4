/** A bundle that breaks the format. */
export class BundleError extends Error {
  name: "BundleError";
}

export type DType = "float16" | "bfloat16" | "float32" | "float64";

/** One layer. The arrays have `channels` numbers; an absent gamma is all 1, an absent beta all 0. */
export class Layer {
  readonly path: string;
  readonly dtype: DType;
  /** For each entry of `shape` the axis of the input it runs along. Setting it also sets `ndim` to null. */
  axis: readonly number[];
  /** Rank of the input with its batch axis, or null: any. */
  ndim: number | null;
  readonly shape: readonly number[];
  readonly channels: number;
  readonly epsilon: number;
  readonly gamma: Float64Array;
  readonly beta: Float64Array;
  readonly moving_mean: Float64Array;
  readonly moving_variance: Float64Array;
  readonly root: Float64Array;

  /**
   * Normalizes `x`, the numbers of an input of this shape in row-major order, in place; returns `x`.
   * Computes in double and rounds once, to the type of the array. Throws TypeError where `x` is an array
   * of integers, RangeError where the shape does not fit.
   */
  apply<T extends Float32Array | Float64Array | number[]>(x: T, shape: readonly number[]): T;

  /** The channel of number `i` of an input of this shape. */
  channelOf(i: number, shape: readonly number[]): number;
}

/** The layers of a bundle by path, in the model's order; the bundle as a string or as its bytes. Throws BundleError. */
export function load(text: string | Uint8Array | ArrayBuffer): Map<string, Layer>;

/** The value of a strict JSON document, as a bundle has to be. Throws BundleError. */
export function parse(text: string | Uint8Array | ArrayBuffer): unknown;

/** The number of `dtype` nearest to a double, half to even; infinite where it overflows. */
export function roundTo(value: number, dtype: DType): number;
