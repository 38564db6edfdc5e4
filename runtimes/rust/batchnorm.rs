//! Batch normalisation in inference from a bundle, on serde_json.
//!
//! ```ignore
//! let layers = bn_bundle::load(&text)?;                       // text: the content of bundle.json
//! layers["encoder/bn_1"].apply(&mut x, &[1, 28, 28, 64])?;    // x: [f32] or [f64], row-major, changed in place
//! ```
//!
//! The format is described in docs/format.md of bn-export.

use serde_json::Value;
use std::collections::BTreeMap;

/// A bundle that breaks the format, or an input that does not fit a layer.
#[derive(Debug)]
pub struct Error(pub String);

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Error {}

fn fail<T>(what: impl Into<String>) -> Result<T, Error> {
    Err(Error(what.into()))
}

/// A number of an input: f32 or f64.
pub trait Number: Copy {
    fn wide(self) -> f64;
    fn rounded(value: f64) -> Self;
}

impl Number for f32 {
    fn wide(self) -> f64 {
        f64::from(self)
    }
    fn rounded(value: f64) -> f32 {
        value as f32
    }
}

impl Number for f64 {
    fn wide(self) -> f64 {
        self
    }
    fn rounded(value: f64) -> f64 {
        value
    }
}

/// One layer. The vectors have `channels` numbers; an absent gamma is all 1, an absent beta all 0.
#[derive(Clone, Debug)]
pub struct Layer {
    pub path: String,
    pub dtype: String,
    pub axis: Vec<i64>,
    pub shape: Vec<usize>,
    pub channels: usize,
    pub epsilon: f64,
    pub gamma: Vec<f64>,
    pub beta: Vec<f64>,
    pub moving_mean: Vec<f64>,
    pub root: Vec<f64>,
}

/// The layers of a bundle by path.
pub fn load(text: &str) -> Result<BTreeMap<String, Layer>, Error> {
    let bundle: Value = serde_json::from_str(text).map_err(|error| Error(format!("this is not JSON: {error}")))?;
    if bundle["format"] != "bn-bundle" {
        return fail("this is not a bundle");
    }
    if bundle["version"] != 1 {
        return fail(format!("version {} of the format is not known", bundle["version"]));
    }
    let mut layers = BTreeMap::new();
    for entry in bundle["layers"].as_array().ok_or_else(|| Error("a bundle without layers".into()))? {
        let layer = Layer::new(entry)?;
        if let Some(twice) = layers.insert(layer.path.clone(), layer) {
            return fail(format!("{}: this path occurs twice", twice.path));
        }
    }
    Ok(layers)
}

impl Layer {
    fn new(entry: &Value) -> Result<Layer, Error> {
        let text = |key: &str| entry[key].as_str().map(String::from).ok_or_else(|| Error(format!("a layer without {key}")));
        let integers = |key: &str| -> Option<Vec<i64>> { entry[key].as_array()?.iter().map(Value::as_i64).collect() };
        let (path, dtype) = (text("path")?, text("dtype")?);
        let (axis, sizes) = match (integers("axis"), integers("shape")) {
            (Some(axis), Some(shape)) if axis.len() == shape.len() && !axis.is_empty() => (axis, shape),
            _ => return fail(format!("{path}: axis and shape do not fit each other")),
        };
        if axis.contains(&0) || sizes.iter().any(|&size| size < 1) {
            return fail(format!("{path}: axis 0 is the batch, and no size is below 1"));
        }
        let shape: Vec<usize> = sizes.iter().map(|&size| size as usize).collect();
        let channels = shape.iter().product();
        let epsilon = match entry["epsilon"].as_f64() {
            Some(epsilon) if epsilon >= 0.0 => epsilon,
            _ => return fail(format!("{path}: no epsilon of 0 or more")),
        };
        if round_to(1.0, &dtype).is_none() {
            return fail(format!("{path}: dtype {dtype} is not known"));
        }
        let numbers = |key: &str, otherwise: Option<f64>| -> Result<Vec<f64>, Error> {
            match (&entry[key], otherwise) {
                (Value::Null, Some(value)) if entry.get(key).is_some() => Ok(vec![value; channels]),
                (Value::Array(found), _) if found.len() == channels => {
                    let rounded = |value: &Value| value.as_f64().and_then(|value| round_to(value, &dtype)).filter(|value| value.is_finite());
                    let values: Option<Vec<f64>> = found.iter().map(rounded).collect();
                    values.ok_or_else(|| Error(format!("{path}: {key} holds something that is not a number of {dtype}")))
                }
                _ => fail(format!("{path}: {key} is not {channels} numbers")),
            }
        };
        let (gamma, beta) = (numbers("gamma", Some(1.0))?, numbers("beta", Some(0.0))?);
        let (moving_mean, variance) = (numbers("moving_mean", None)?, numbers("moving_variance", None)?);
        if variance.iter().any(|&variance| variance + epsilon <= 0.0) {
            return fail(format!("{path}: moving_variance + epsilon is not above 0"));
        }
        let root = variance.iter().map(|variance| (variance + epsilon).sqrt()).collect();
        Ok(Layer { path, dtype, axis, shape, channels, epsilon, gamma, beta, moving_mean, root })
    }

    /// Normalises x, the numbers of an input of this shape in row-major order, in place: in f64, rounded once.
    pub fn apply<T: Number>(&self, x: &mut [T], shape: &[usize]) -> Result<(), Error> {
        let axes = self.axes(shape)?;
        if x.len() != shape.iter().product::<usize>() {
            return fail(format!("{}: {} numbers are not of shape {:?}", self.path, x.len(), shape));
        }
        if axes.iter().enumerate().any(|(d, &axis)| axis != axes[0] + d) {
            for (i, value) in x.iter_mut().enumerate() {
                *value = T::rounded(self.one(self.channel_of(i, shape, &axes), value.wide()));
            }
            return Ok(());
        }
        let inner: usize = shape[axes[0] + axes.len()..].iter().product();
        for (i, run) in x.chunks_exact_mut(inner.max(1)).enumerate() {
            let c = i % self.channels;
            run.iter_mut().for_each(|value| *value = T::rounded(self.one(c, value.wide())));
        }
        Ok(())
    }

    /// The formula for one number of one channel.
    pub fn one(&self, c: usize, x: f64) -> f64 {
        self.gamma[c] * (x - self.moving_mean[c]) / self.root[c] + self.beta[c]
    }

    /// The axes of an input of this shape that the parameters run along, counted from 0.
    pub fn axes(&self, shape: &[usize]) -> Result<Vec<usize>, Error> {
        let rank = shape.len() as i64;
        let axes = self.axis.iter().map(|&axis| if axis < 0 { axis + rank } else { axis });
        let fits = |(&size, axis): (&usize, i64)| axis >= 0 && axis < rank && shape[axis as usize] == size;
        if !self.shape.iter().zip(axes.clone()).all(fits) {
            return fail(format!("{}: shape {:?} does not have {:?} channels along axis {:?}", self.path, shape, self.shape, self.axis));
        }
        Ok(axes.map(|axis| axis as usize).collect())
    }

    /// The channel of number i of an input of this shape.
    pub fn channel_of(&self, i: usize, shape: &[usize], axes: &[usize]) -> usize {
        axes.iter().fold(0, |channel, &axis| {
            let after: usize = shape[axis + 1..].iter().product();
            channel * shape[axis] + i / after % shape[axis]
        })
    }
}

/// The number of `dtype` nearest to a double, half to even; infinite where it overflows; None for a dtype that is not known.
pub fn round_to(value: f64, dtype: &str) -> Option<f64> {
    match dtype {
        "float64" => Some(value),
        "float32" => Some(f64::from(value as f32)),
        "float16" => Some(round_to_bits(value, 10, -24, 65504.0)),
        "bfloat16" => Some(round_to_bits(value, 7, -133, 2f64.powi(128) - 2f64.powi(120))),
        _ => None,
    }
}

/// Adding and taking away 1.5 * 2^52 quanta leaves a whole number of them, rounded half to even.
fn round_to_bits(value: f64, bits: i32, lowest: i32, largest: f64) -> f64 {
    let exponent = ((value.to_bits() >> 52) & 0x7ff) as i32 - 1023;
    let shift = 1.5 * 2f64.powi(52 + (exponent - bits).max(lowest).min(127));
    let rounded = ((value.abs() + shift) - shift).copysign(value);
    if rounded.abs() <= largest { rounded } else { f64::INFINITY.copysign(value) }
}
