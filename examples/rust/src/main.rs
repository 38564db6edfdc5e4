use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args().nth(1).ok_or("usage: example BUNDLE")?;
    let layers = bn_bundle::load(&std::fs::read_to_string(path)?)?;
    let mut x = [0.5f32, -0.25, 1.0, 2.0];
    layers["head_bn"].apply(&mut x, &[1, 4])?;
    println!("{}", x.map(|value| value.to_string()).join(" "));
    Ok(())
}
