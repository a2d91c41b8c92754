//! An ActionLoop program in Rust, without crates.

use std::{
    fs::File,
    io::{BufRead, Write},
    os::fd::FromRawFd,
};

fn main() -> std::io::Result<()> {
    // SAFETY: descriptor 3 is the contract of ActionLoop, and this program's alone.
    let mut answers = unsafe { File::from_raw_fd(3) };
    for (index, line) in std::io::stdin().lock().lines().enumerate() {
        let line = line?;
        let name = line.split("\"name\":\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap_or("stranger");
        println!("Rust was called");
        writeln!(answers, "{{\"language\":\"Rust\",\"greeting\":\"Hello, {name}!\",\"calls\":{}}}", index + 1)?;
    }
    Ok(())
}
