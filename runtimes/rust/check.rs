//! Runs the tests in a bundle: `cargo run --release --example check -- bundle.json`. Exit code 1 where a number is off by more than the bound.

use bn_bundle::{load, parse, round_to, Layer, Number};
use serde_json::Value;
use std::collections::BTreeMap;

#[derive(Default)]
struct Totals {
    tests: u64,
    numbers: u64,
    wrong: u64,
    worst: f64,
}

fn main() {
    let path = std::env::args().nth(1).expect("the path of a bundle");
    let text = std::fs::read_to_string(path).expect("a file that can be read");
    let layers = load(&text).expect("a bundle");
    let bundle = parse(&text).expect("JSON");
    let mut totals = Totals::default();
    for entry in list(&bundle["layers"]) {
        let layer = &layers[entry["path"].as_str().expect("a path")];
        if let Some(vectors) = entry.get("vectors") {
            let rows = layer.with_axis(&(1..=layer.shape.len() as i64).collect::<Vec<i64>>());
            let shape: Vec<usize> = [&[list(&vectors["input"]).len()], layer.shape.as_slice()].concat();
            run(&rows, &flat(&vectors["input"]), &flat(&vectors["output"]), &shape, &mut totals);
        }
        for case in entry.get("cases").map_or(&[][..], list) {
            run(layer, &numbers(&case["input"]), &numbers(&case["output"]), &sizes(&case["shape"]), &mut totals);
        }
    }
    let faults = faults(&bundle, &layers);
    faults.iter().for_each(|fault| println!("{fault}"));
    let Totals { tests, numbers, wrong, worst } = totals;
    println!("rust: {} layers, {tests} tests, {numbers} numbers, {wrong} wrong, worst {worst:.2} ulp", layers.len());
    std::process::exit(i32::from(wrong > 0 || !faults.is_empty() || numbers == 0));
}

/// The documents and inputs that were not refused, or not taken, as they have to be.
fn faults(bundle: &Value, layers: &BTreeMap<String, Layer>) -> Vec<String> {
    let entries = |key: &str| bundle.get(key).map_or(&[][..], list);
    let loads = |entry: &Value| load(entry["text"].as_str().expect("a text")).is_ok();
    let takes = |entry: &Value| {
        let mut x = vec![1f32; entry["count"].as_u64().expect("a count") as usize];
        layers[entry["layer"].as_str().expect("a path")].apply(&mut x, &sizes(&entry["shape"])).is_ok()
    };
    let named = |what: &str, entry: &Value| format!("{what}: {}", entry["why"].as_str().expect("a reason"));
    let mut found: Vec<String> = entries("refuse").iter().filter(|entry| loads(entry)).map(|entry| named("not refused", entry)).collect();
    found.extend(entries("accept").iter().filter(|entry| !loads(entry)).map(|entry| named("not accepted", entry)));
    found.extend(entries("refuse_inputs").iter().filter(|entry| takes(entry)).map(|entry| named("not refused", entry)));
    found
}

fn sizes(value: &Value) -> Vec<usize> {
    list(value).iter().map(|size| size.as_u64().expect("a size") as usize).collect()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().expect("a list")
}

fn numbers(value: &Value) -> Vec<f64> {
    list(value).iter().map(|value| value.as_f64().expect("a number")).collect()
}

fn flat(rows: &Value) -> Vec<f64> {
    list(rows).iter().flat_map(numbers).collect()
}

fn run(layer: &Layer, input: &[f64], output: &[f64], shape: &[usize], totals: &mut Totals) {
    let rounded = |values: &[f64]| -> Vec<f64> { values.iter().map(|&value| round_to(value, &layer.dtype).expect("a dtype")).collect() };
    let x = rounded(input);
    let got = if layer.dtype == "float64" { applied::<f64>(layer, &x, shape) } else { applied::<f32>(layer, &x, shape) };
    let axes = layer.axes(shape).expect("a shape that fits");
    for (i, want) in rounded(output).into_iter().enumerate() {
        compare(layer, layer.channel_of(i, shape, &axes), x[i], got[i], want, totals);
    }
    totals.tests += 1;
}

fn applied<T: Number>(layer: &Layer, x: &[f64], shape: &[usize]) -> Vec<f64> {
    let mut y: Vec<T> = x.iter().map(|&value| T::rounded(value)).collect();
    layer.apply(&mut y, shape).expect("a shape that fits");
    y.into_iter().map(Number::wide).collect()
}

fn compare(layer: &Layer, c: usize, x: f64, got: f64, want: f64, totals: &mut Totals) {
    let (unit, tiny) = match layer.dtype.as_str() {
        "float16" => (2f64.powi(-11), 2f64.powi(-14)),
        "bfloat16" => (2f64.powi(-8), 2f64.powi(-126)),
        "float32" => (2f64.powi(-24), 2f64.powi(-126)),
        _ => (2f64.powi(-53), 2f64.powi(-1022)),
    };
    let (a, error) = (layer.gamma[c].abs() / layer.root[c], (got - want).abs());
    let bound = 16.0 * unit * (a * x.abs() + a * layer.moving_mean[c].abs() + layer.beta[c].abs()) + tiny;
    totals.numbers += 1;
    totals.wrong += u64::from(!(error <= bound));
    if layer.dtype == "float32" {
        totals.worst = totals.worst.max(error / (2.0 * unit * 2f64.powi(want.abs().max(tiny).log2().floor() as i32)));
    }
}
