use std::env;
use std::fmt::Display;
use std::fs::{self, OpenOptions};
use std::io::{Result, Write};
use std::path::Path;

/// What the environment says, or nothing.
pub fn told(name: &str) -> String {
    env::var(name).unwrap_or_default()
}

/// Append a line; how many there are with it.
pub fn note(witness: &str, text: impl Display) -> Result<u64> {
    let path = Path::new(&told("WITNESS_DIR")).join(witness);
    let mut file = OpenOptions::new().append(true).create(true).open(&path)?;
    file.write_all(format!("{text}\n").as_bytes())?;
    let lines = fs::read(&path)?;
    Ok(lines.iter().filter(|&&byte| byte == b'\n').count() as u64)
}
