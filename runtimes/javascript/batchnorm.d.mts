/** A bundle that breaks the format. */
export class BundleError extends Error {}

export type DType = "float16" | "bfloat16" | "float32" | "float64";

/** One layer. The arrays have `channels` numbers; an absent gamma is all 1, an absent beta all 0. */
export class Layer {
  readonly path: string;
  readonly dtype: DType;
  readonly axis: readonly number[];
  readonly shape: readonly number[];
  readonly channels: number;
  readonly epsilon: number;
  readonly gamma: Float64Array;
  readonly beta: Float64Array;
  readonly moving_mean: Float64Array;
  readonly moving_variance: Float64Array;
  readonly root: Float64Array;

  /**
   * Normalises `x`, the numbers of an input of this shape in row-major order, in place; returns `x`.
   * Computes in double and rounds once, to the type of the array. Throws RangeError where the shape does not fit.
   */
  apply<T extends Float32Array | Float64Array>(x: T, shape: readonly number[]): T;

  /** The channel of number `i` of an input of this shape. */
  channelOf(i: number, shape: readonly number[]): number;
}

/** The layers of a bundle by path, in the model's order. Throws BundleError. */
export function load(text: string): Map<string, Layer>;

/** The number of `dtype` nearest to a double, half to even; infinite where it overflows. */
export function roundTo(value: number, dtype: DType): number;
