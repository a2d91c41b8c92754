//! A process per activation: arguments in, the last line of its output is the answer.

use std::{
    io::{self, Read, Write},
    process::{Command, Stdio},
};

use serde_json::{Value, value::RawValue};

use super::{Answer, EXECUTABLE, NO_DICTIONARY, error};

/// Linux allows an argument of so many bytes, its end included (`MAX_ARG_STRLEN`).
const MAX_ARGUMENT: usize = 131_071;

#[derive(Default)]
pub(super) struct Skeleton {
    variables: Vec<(String, String)>,
}

impl Skeleton {
    /// What `/init` brought for the environment.
    pub fn set_variables(&mut self, variables: impl Iterator<Item = (String, String)>) {
        self.variables = variables.collect();
    }

    pub fn run(&mut self, body: &[u8]) -> Answer {
        let Ok(request) = serde_json::from_slice::<std::collections::BTreeMap<String, &RawValue>>(body) else {
            return error(404, "The action did not receive a dictionary or array as an argument.");
        };
        let argument = request.get("value").map_or("{}", |value| value.get());
        if !argument.starts_with(['{', '[']) {
            return error(404, "The action did not receive a dictionary or array as an argument.");
        }
        let context = request.iter().filter(|(key, _)| key.as_str() != "value").map(|(key, value)| {
            let text =
                serde_json::from_str::<Value>(value.get()).map_or_else(|_| value.get().to_owned(), super::as_variable);
            (format!("__OW_{}", key.to_uppercase()), text)
        });
        match self.execute(argument, context) {
            Ok(last_line) => match serde_json::from_slice::<&RawValue>(&last_line) {
                Ok(value) if value.get().starts_with(['{', '[']) => (200, last_line),
                _ => {
                    // What was no answer is output.
                    let _ = io::stdout().write_all(&last_line);
                    let _ = io::stdout().write_all(b"\n");
                    error(502, NO_DICTIONARY)
                }
            },
            Err(reason) => {
                println!("{reason}");
                error(502, NO_DICTIONARY)
            }
        }
    }

    /// Runs the executable to its end; returns the last line of its stdout, without line end. Earlier lines become ours.
    fn execute(&self, argument: &str, context: impl Iterator<Item = (String, String)>) -> io::Result<Vec<u8>> {
        let mut command = Command::new(format!("./{EXECUTABLE}"));
        if argument.len() <= MAX_ARGUMENT {
            command.arg(argument);
        }
        command.envs(self.variables.iter().cloned()).envs(context).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let input = child.stdin.take().ok_or_else(|| io::Error::other("no stdin"))?;
        let output = child.stdout.take().ok_or_else(|| io::Error::other("no stdout"))?;
        let last_line = std::thread::scope(|scope| {
            scope.spawn(move || {
                let mut input = input;
                // Executables that take their argument from the command line do not read it.
                let _ = input.write_all(argument.as_bytes());
            });
            forward_all_but_last_line(output, &mut io::stdout().lock())
        });
        child.wait()?;
        last_line
    }
}

/// Copies complete lines from `output` to `to` until nothing is left but the last one, which it returns.
fn forward_all_but_last_line(mut output: impl Read, to: &mut impl Write) -> io::Result<Vec<u8>> {
    let mut held = Vec::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        let read = match output.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let looked = held.len().saturating_sub(1);
        held.extend_from_slice(&buffer[..read]);
        // The line end at the very end may be that of the last line.
        let end = held.len() - 1;
        if let Some(last) = memchr::memrchr(b'\n', &held[looked..end]) {
            to.write_all(&held[..=looked + last])?;
            held.drain(..=looked + last);
        }
    }
    if held.ends_with(b"\n") {
        held.pop();
    }
    Ok(held)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives out its pieces one by one.
    struct Pieces<'a>(std::slice::Iter<'a, &'a [u8]>);

    impl Read for Pieces<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let Some(piece) = self.0.next() else { return Ok(0) };
            buffer[..piece.len()].copy_from_slice(piece);
            Ok(piece.len())
        }
    }

    #[test]
    fn the_last_line_is_held_back_whatever_the_pieces() {
        type Case = (&'static [&'static [u8]], &'static [u8], &'static [u8]);
        let cases: [Case; 7] = [
            (&[b"a\nb\n{}\n"], b"a\nb\n", b"{}"),
            (&[b"a\nb\n{}"], b"a\nb\n", b"{}"),
            (&[b"a\n", b"{}\n"], b"a\n", b"{}"),
            (&[b"a", b"\n", b"{", b"}", b"\n"], b"a\n", b"{}"),
            (&[b"{}"], b"", b"{}"),
            (&[b"a\n\n"], b"a\n", b""),
            (&[], b"", b""),
        ];
        for (pieces, before, last) in cases {
            let mut to = Vec::new();
            let held = forward_all_but_last_line(Pieces(pieces.iter()), &mut to).unwrap();
            assert_eq!((to.as_slice(), held.as_slice()), (before, last), "{pieces:?}");
        }
    }
}
