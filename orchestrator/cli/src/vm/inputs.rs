//! Inputs of a guest that runs alone: from a file, from standard input, or made up.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, stdin};
use std::path::Path;

use quorate_attest::encoding::Bounded;
use quorate_attest::id::{Nonce, to_hex};
use quorate_attest::key::SecretKey;
use quorate_attest::request::MESSAGE_LIMIT;
use quorate_attest::vm::{InputPolicy, MACHINE_VERSION, OutputPolicy, VmSpec};
use quorate_kv::Operation;
use quorate_kv::client::{Client, genesis};
use quorate_stress::{Command, Work};
use quorate_vmm::Image;

use super::super::failure::Failure;

/// Most bytes of a file of inputs.
const FILE_BYTES_MAX: u64 = 1 << 30;
/// Keys that the made-up requests write.
const KEYS: u64 = 512;

/// Inputs from a file, or from standard input for `-`.
pub fn read(name: &Path) -> Result<Vec<Vec<u8>>, Failure> {
    if name.as_os_str() == "-" {
        return parse(BufReader::new(stdin().take(FILE_BYTES_MAX)), name);
    }
    let file = File::open(name).map_err(|error| Failure::file(name, error))?;
    parse(BufReader::new(file.take(FILE_BYTES_MAX)), name)
}

fn parse(lines: impl BufRead, name: &Path) -> Result<Vec<Vec<u8>>, Failure> {
    let mut inputs = Vec::new();
    for (number, line) in lines.lines().enumerate() {
        let line = line.map_err(|error| Failure::file(name, error))?;
        let text = line.trim();
        if text.is_empty() || text.starts_with('#') {
            continue;
        }
        let bad = |reason: String| Failure::file(name, format!("line {}: {reason}", number + 1));
        let input = from_hex(text).map_err(bad)?;
        if input.len() > MESSAGE_LIMIT {
            return Err(bad(format!("{} bytes; an input has at most {MESSAGE_LIMIT}", input.len())));
        }
        inputs.push(input);
    }
    Ok(inputs)
}

/// Bytes of hexadecimal digits in either case.
pub fn from_hex(text: &str) -> Result<Vec<u8>, String> {
    let digits = text.as_bytes();
    if !digits.len().is_multiple_of(2) {
        return Err(format!("{} digits: a byte has two", digits.len()));
    }
    let nibble = |digit: u8| (digit as char).to_digit(16).map(|value| value as u8);
    let byte = |(place, pair): (usize, &[u8])| match (nibble(pair[0]), nibble(pair[1])) {
        (Some(high), Some(low)) => Ok(high << 4 | low),
        _ => Err(format!("no hexadecimal digit at or after column {}", place * 2 + 1)),
    };
    digits.chunks_exact(2).enumerate().map(byte).collect()
}

/// A line of a file of inputs.
pub fn to_line(input: &[u8]) -> String {
    to_hex(input)
}

/// Inputs for an image nobody gave inputs for: requests of a kv client, or steps of the stress guest. Always the same.
pub fn made_up(image: &Image, memory_bytes: u64, count: u64) -> Option<Vec<Vec<u8>>> {
    let is = |known: quorate_guest_images::GuestImage| *image.digest().as_bytes() == known.digest();
    if is(quorate_guest_images::KV) {
        Some(requests(image, memory_bytes, count))
    } else if is(quorate_guest_images::STRESS) {
        Some(steps(memory_bytes, count))
    } else {
        None
    }
}

fn requests(image: &Image, memory_bytes: u64, count: u64) -> Vec<Vec<u8>> {
    let spec = VmSpec {
        name: "kv".into(),
        image: image.digest(),
        machine_version: MACHINE_VERSION,
        memory_bytes,
        input_policy: InputPolicy::ClientSigned,
        output_policy: OutputPolicy::Certified,
        host: SecretKey::from_seed([1; 32]).public(),
        nonce: Nonce::from_bytes([0; 16]),
    };
    let mut client = Client::new(SecretKey::from_seed([2; 32]), spec.id(), 0);
    let request = |number: u64| {
        let key = format!("key/{}", number % KEYS).into_bytes();
        let operation = match number % 4 {
            3 => Operation::Get { key },
            _ => Operation::Put { key, value: format!("value {number}").into_bytes() },
        };
        let mut nonce = [0; 16];
        nonce[..8].copy_from_slice(&number.to_le_bytes());
        client.request(&operation, Nonce::from_bytes(nonce)).encoded()
    };
    std::iter::once(genesis(&spec)).chain((0..count).map(request)).collect()
}

fn steps(memory_bytes: u64, count: u64) -> Vec<Vec<u8>> {
    let work = Work {
        working_set_bytes: memory_bytes / 8,
        pages_per_step: 16,
        integer_rounds: 1000,
        float_rounds: 100,
        chase_steps: 1000,
    };
    let step = |_| Command::Step { count: 1 }.encode();
    std::iter::once(Command::Configure(work).encode()).chain((0..count).map(step)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Result<Vec<Vec<u8>>, Failure> {
        parse(text.as_bytes(), Path::new("inputs"))
    }

    #[test]
    fn lines_become_inputs_and_comments_do_not() {
        assert_eq!(lines("# one\n00ff\n\n  AB  \n").unwrap(), [vec![0, 0xff], vec![0xab]]);
        assert!(lines("").unwrap().is_empty());
    }

    #[test]
    fn bad_digits_are_named_with_their_line() {
        for (text, part) in [("00\n0", "line 2"), ("0g", "column 1"), ("zz", "column 1")] {
            let failure = lines(text).unwrap_err();
            assert!(failure.text.contains(part), "{failure:?}");
            assert_eq!(failure.code, 2);
        }
    }

    #[test]
    fn oversize_input_is_refused() {
        let text = "00".repeat(MESSAGE_LIMIT + 1);
        assert!(lines(&text).is_err());
        assert!(lines(&text[2..]).is_ok());
    }

    #[test]
    fn made_up_inputs_are_always_the_same() {
        for image in [quorate_guest_images::KV, quorate_guest_images::STRESS] {
            let image = Image::admit(image.elf).unwrap();
            let inputs = made_up(&image, 16 << 20, 9).unwrap();
            assert_eq!(inputs.len(), 10);
            assert_eq!(Some(inputs), made_up(&image, 16 << 20, 9));
        }
    }
}
