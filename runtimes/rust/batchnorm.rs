//! Batch normalization in inference from a bundle, on serde_json.
//!
//! ```ignore
//! let layers = bn_bundle::load(&text)?;                       // text: the content of bundle.json
//! layers["encoder/bn_1"].apply(&mut x, &[1, 28, 28, 64])?;    // x: [f32] or [f64], row-major, changed in place
//! ```
//!
//! The format is described in docs/format.md of bn-export.

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

const FORMULA: &str = "gamma * (x - moving_mean) / sqrt(moving_variance + epsilon) + beta";
const MAX_DEPTH: usize = 200; // arrays and objects inside each other
const MAX_AXES: usize = 8;
const ANY_RANK: i64 = 32; // the largest rank that is assumed where the bundle has no ndim

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

/// One layer. The vectors have `channels` numbers; an absent gamma is all 1, an absent beta all 0. For each entry of `shape`, `axis` has the
/// axis of the input it runs along; `ndim` is the input's rank with its batch, if it is known.
#[derive(Clone, Debug)]
pub struct Layer {
    pub path: String,
    pub dtype: String,
    pub axis: Vec<i64>,
    pub shape: Vec<usize>,
    pub ndim: Option<usize>,
    pub channels: usize,
    pub epsilon: f64,
    pub gamma: Vec<f64>,
    pub beta: Vec<f64>,
    pub moving_mean: Vec<f64>,
    pub root: Vec<f64>,
}

/// The layers of a bundle by path.
pub fn load(text: &str) -> Result<BTreeMap<String, Layer>, Error> {
    let bundle = parse(text)?;
    if bundle["format"] != "bn-bundle" {
        return fail("this is not a bundle: expected \"format\": \"bn-bundle\"");
    }
    if bundle["version"] != 1 {
        return fail(format!("expected version 1 of the format, got {}", bundle["version"]));
    }
    if bundle["formula"] != FORMULA {
        return fail(format!("expected the formula {FORMULA}"));
    }
    if !bundle["producer"].is_object() || !bundle["source"].is_object() || !bundle["digest"].is_string() {
        return fail("expected objects producer and source and a string digest");
    }
    let mut layers = BTreeMap::new();
    for entry in bundle["layers"].as_array().ok_or_else(|| Error("layers: expected a list".into()))? {
        let layer = Layer::new(entry)?;
        if let Some(twice) = layers.insert(layer.path.clone(), layer) {
            return fail(format!("{}: this path occurs twice", twice.path));
        }
    }
    Ok(layers)
}

/// The value of a strict JSON document: no key twice in one object, every number finite, at most 200 levels.
pub fn parse(text: &str) -> Result<Value, Error> {
    let wrong = |error| Error(format!("this is not JSON of a bundle: {error}"));
    let mut reader = serde_json::Deserializer::from_str(text);
    reader.disable_recursion_limit(); // of 127 levels; Level has its own
    let value = Level(0).deserialize(&mut reader).map_err(wrong)?;
    reader.end().map_err(wrong)?;
    Ok(value)
}

/// Reads one value at so many levels inside others.
#[derive(Clone, Copy)]
struct Level(usize);

impl Level {
    fn deeper<E: serde::de::Error>(self) -> Result<Level, E> {
        if self.0 < MAX_DEPTH { Ok(Level(self.0 + 1)) } else { Err(E::custom(format!("expected at most {MAX_DEPTH} levels, got more"))) }
    }
}

impl<'de> DeserializeSeed<'de> for Level {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Value, D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Level {
    type Value = Value;
    fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str("a JSON value")
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let (level, mut values) = (self.deeper()?, Vec::new());
        while let Some(value) = list.next_element_seed(level)? {
            values.push(value);
        }
        Ok(values.into())
    }
    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let (level, mut found) = (self.deeper()?, Map::new());
        while let Some(key) = entries.next_key::<String>()? {
            if found.contains_key(&key) {
                return Err(A::Error::custom(format!("the key {key:?} occurs twice in one object")));
            }
            found.insert(key, entries.next_value_seed(level)?);
        }
        Ok(found.into())
    }
}

/// axis, shape, ndim and the count of channels.
type Geometry = (Vec<i64>, Vec<usize>, Option<usize>, usize);

impl Layer {
    fn new(entry: &Value) -> Result<Layer, Error> {
        let text = |key: &str| entry[key].as_str().map(String::from).ok_or_else(|| Error(format!("{key}: expected a string")));
        let (path, dtype) = (text("path")?, text("dtype")?);
        text("name").and(text("class_name")).map_err(|error| Error(format!("{path}: {error}")))?;
        let momentum = entry.get("momentum").unwrap_or(&Value::Bool(false));
        let epsilon = match entry["epsilon"].as_f64() {
            Some(epsilon) if (0.0..=f64::from(f32::MAX)).contains(&epsilon) && (momentum.is_null() || momentum.is_number()) => epsilon,
            _ => return fail(format!("{path}: expected an epsilon of 0 or more that fits f32, and a momentum")),
        };
        if round_to(1.0, &dtype).is_none() {
            return fail(format!("{path}: dtype {dtype} is not known"));
        }
        let (axis, shape, ndim, channels) = geometry(entry).map_err(|error| Error(format!("{path}: {error}")))?;
        let list = |found: &Value, key: &str| -> Result<Vec<f64>, Error> {
            let rounded = |value: &Value| value.as_f64().and_then(|value| round_to(value, &dtype)).filter(|value| value.is_finite());
            let values: Option<Vec<f64>> = found.as_array().and_then(|found| found.iter().map(rounded).collect());
            let values = values.filter(|values| values.len() == channels);
            values.ok_or_else(|| Error(format!("{path}: {key}: expected {channels} numbers of {dtype}")))
        };
        let numbers = |key: &str, absent: f64| match entry.get(key) {
            Some(Value::Null) => Ok(vec![absent; channels]),
            found => list(found.unwrap_or(&Value::Null), key),
        };
        let (moving_mean, variance) = (list(&entry["moving_mean"], "moving_mean")?, list(&entry["moving_variance"], "moving_variance")?);
        let (gamma, beta) = (numbers("gamma", 1.0)?, numbers("beta", 0.0)?);
        if variance.iter().any(|&variance| variance + epsilon <= 0.0) {
            return fail(format!("{path}: expected moving_variance + epsilon above 0 in each channel"));
        }
        if let Some(vectors) = entry.get("vectors") {
            let rows = |key: &str| vectors[key].as_array().map_or(&[][..], Vec::as_slice);
            if rows("input").is_empty() || rows("input").len() != rows("output").len() {
                return fail(format!("{path}: vectors: expected as many rows of output as of input"));
            }
            rows("input").iter().chain(rows("output")).try_for_each(|row| list(row, "vectors").map(drop))?;
        }
        let root = variance.iter().map(|variance| (variance + epsilon).sqrt()).collect();
        Ok(Layer { path, dtype, axis, shape, ndim, channels, epsilon, gamma, beta, moving_mean, root })
    }

    /// A copy for inputs with the channels along other axes, of any rank.
    pub fn with_axis(&self, axis: &[i64]) -> Layer {
        Layer { axis: axis.to_vec(), ndim: None, ..self.clone() }
    }

    /// Normalizes x, the numbers of an input of this shape in row-major order, in place: in f64, rounded once.
    pub fn apply<T: Number>(&self, x: &mut [T], shape: &[usize]) -> Result<(), Error> {
        let axes = self.axes(shape)?;
        if shape.iter().try_fold(1usize, |count, &size| count.checked_mul(size)) != Some(x.len()) {
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
        if self.ndim.is_some_and(|ndim| ndim != shape.len()) && self.axis.iter().any(|&axis| axis > 0) {
            return fail(format!("{}: axis {:?} is that of an input of another rank, got the shape {shape:?}; use with_axis with the axis of its \
                                 channels, e.g. &[-1]", self.path, self.axis));
        }
        let axes = self.axis.iter().map(|&axis| if axis < 0 { axis + rank } else { axis });
        let fits = |(&size, axis): (&usize, i64)| axis >= 0 && axis < rank && shape[axis as usize] == size;
        if !self.shape.iter().zip(axes.clone()).all(fits) || axes.clone().collect::<BTreeSet<i64>>().len() < self.axis.len() {
            return fail(format!("{}: expected {:?} channels along axis {:?}, got an input of shape {shape:?}", self.path, self.shape, self.axis));
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

/// axis, shape and ndim of a layer. The count of channels is that of the numbers in the file before anything of this size is made.
fn geometry(entry: &Value) -> Result<Geometry, Error> {
    let integers = |key: &str| -> Option<Vec<i64>> { entry[key].as_array()?.iter().map(Value::as_i64).collect() };
    let (axis, sizes) = match (integers("axis"), integers("shape")) {
        (Some(axis), Some(shape)) if axis.len() == shape.len() && (1..=MAX_AXES).contains(&axis.len()) => (axis, shape),
        _ => return fail("axis and shape: expected two lists of one length"),
    };
    let ndim = match entry.get("ndim") {
        Some(Value::Null) => None,
        Some(rank) if rank.as_u64().is_some() => rank.as_u64(),
        _ => return fail("ndim: expected a rank or null"),
    };
    let rank = ndim.map_or(ANY_RANK, |ndim| i64::try_from(ndim).unwrap_or(0));
    if axis.iter().any(|&a| a == 0 || a >= rank || a <= -rank) {
        return fail(format!("axis {axis:?} does not fit an input of rank {rank}; axis 0 is the batch"));
    }
    let counted: BTreeSet<i64> = axis.iter().map(|&a| if ndim.is_some() && a < 0 { a + rank } else { a }).collect();
    if counted.len() < axis.len() {
        return fail(format!("axis {axis:?} names one axis twice"));
    }
    let given = entry["moving_mean"].as_array().map_or(0, Vec::len);
    let mut channels = 1;
    for &size in &sizes {
        match usize::try_from(size) {
            Ok(size) if size > 0 && size <= given / channels => channels *= size,
            _ => return fail(format!("shape {sizes:?} does not fit the {given} numbers of moving_mean")),
        }
    }
    Ok((axis, sizes.iter().map(|&size| size as usize).collect(), ndim.map(|ndim| ndim as usize), channels))
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
