//! Changes of text files, line by line, and of what the lines of a proof say.

use base64ct::{Base64, Encoding};

use super::edit;
use crate::rng::Rng;
use crate::valid::{Case, World};
fn text_file<'a>(case: &'a mut Case, rng: &mut Rng) -> Option<&'a mut Vec<u8>> {
    let is_proof = case.is_proof();
    let Case { file, group, policy, orchestrators, replicas, .. } = case;
    match rng.below(12) {
        0 | 1 => policy.as_mut(),
        2 => group.as_mut(),
        3 => orchestrators.as_mut().or(replicas.as_mut()),
        _ => is_proof.then_some(file),
    }
}

pub fn lines(case: &mut Case, _: &[World], rng: &mut Rng) -> Option<&'static str> {
    let (mut name, choice) = ("", rng.below(5));
    edit(text_file(case, rng)?, |lines| {
        let (at, other) = (rng.below(lines.len()), rng.below(lines.len()));
        name = match choice {
            0 => {
                lines.swap(at, other);
                "lines exchanged"
            }
            1 => {
                let line = lines[at].clone();
                lines.insert(other, line);
                "line repeated"
            }
            2 => {
                lines.remove(at);
                "line removed"
            }
            3 => {
                lines.insert(at, String::new());
                "empty line"
            }
            _ => {
                let space = rng.pick(&[" ", "\t", "\u{a0}", "\u{2003}", "\u{1c}", "\u{85}", "\u{7f}", "+"]);
                let line = &mut lines[at];
                match rng.below(3) {
                    0 => line.insert_str(0, space),
                    1 => line.push_str(space),
                    _ => *line = line.replacen(' ', space, 1),
                }
                "other white space"
            }
        };
    })?;
    Some(name)
}

pub fn newlines(case: &mut Case, _: &[World], rng: &mut Rng) -> Option<&'static str> {
    let (whole, at) = (rng.chance(40), rng.next() as usize);
    edit(text_file(case, rng)?, |lines| {
        let count = lines.len().max(2) - 1;
        for (number, line) in lines.iter_mut().enumerate().take(count) {
            if whole || number == at % count {
                line.push('\r');
            }
        }
    })?;
    Some("CRLF")
}

/// Words of a proof that are base64: hashes, extra data and signatures.
pub fn base64(case: &mut Case, _: &[World], rng: &mut Rng) -> Option<&'static str> {
    if !case.is_proof() {
        return None;
    }
    let mut changed = false;
    edit(&mut case.file, |lines| {
        let places: Vec<usize> =
            (0..lines.len()).filter(|at| lines[*at].len() > 40 || lines[*at].starts_with("extra ")).collect();
        // An earlier mutation may have left nothing of the proof.
        if places.is_empty() {
            return;
        }
        let line = &mut lines[rng.pick(&places)];
        let before = line.clone();
        let start = line.rfind(' ').map_or(0, |space| space + 1);
        match rng.below(6) {
            0 | 1 => *line = spare_bit(line),
            2 => *line = line.trim_end_matches('=').to_owned(),
            3 => line.push('='),
            4 => *line = line.replace('+', "-").replace('/', "_"),
            _ => {
                let mut at = start + rng.below(line.len() - start + 1);
                // What an earlier mutation put there may be longer than a byte.
                while !line.is_char_boundary(at) {
                    at -= 1;
                }
                line.insert(at, rng.pick(&[' ', '=', '\t', '\u{e9}']));
            }
        }
        changed = *line != before;
    })?;
    changed.then_some("base64 not canonical")
}

/// The same bytes with a bit set that no byte has.
fn spare_bit(line: &str) -> String {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let end = line.trim_end_matches('=').len();
    let padding = line.len() - end;
    let last = line.as_bytes().get(end.wrapping_sub(1)).copied();
    let value = last.and_then(|last| ALPHABET.iter().position(|letter| *letter == last));
    match value.filter(|_| padding > 0) {
        Some(value) => format!("{}{}{}", &line[..end - 1], ALPHABET[value | 1] as char, &line[end..]),
        None => line.to_owned(),
    }
}

pub fn numbers(case: &mut Case, _: &[World], rng: &mut Rng) -> Option<&'static str> {
    if !case.is_proof() {
        return None;
    }
    edit(&mut case.file, |lines| {
        let size = lines.iter().position(String::is_empty).map_or(1, |empty| empty + 2);
        let index = lines.iter().position(|line| line.starts_with("index ")).unwrap_or(1);
        let at = if rng.chance(50) { index } else { size }.min(lines.len() - 1);
        let (prefix, number) = match lines[at].strip_prefix("index ") {
            Some(number) => ("index ", number.to_owned()),
            None => ("", lines[at].clone()),
        };
        let value: u64 = number.parse().unwrap_or(1);
        let number = match rng.below(9) {
            // An earlier mutation may have put the greatest number there.
            0 => value.wrapping_add(1).to_string(),
            1 => value.wrapping_sub(1).to_string(),
            2 => "0".into(),
            3 => format!("0{number}"),
            4 => format!("+{number}"),
            5 => u64::MAX.to_string(),
            6 => "18446744073709551616".into(),
            7 => "\u{0661}".into(),
            _ => String::new(),
        };
        lines[at] = format!("{prefix}{number}");
    })?;
    Some("number changed")
}

pub fn path(case: &mut Case, _: &[World], rng: &mut Rng) -> Option<&'static str> {
    if !case.is_proof() {
        return None;
    }
    edit(&mut case.file, |lines| {
        let start = lines.iter().position(|line| line.starts_with("index ")).map_or(1, |index| index + 1);
        let end = lines.iter().position(String::is_empty).unwrap_or(start).max(start);
        let mut hashes: Vec<String> = lines[start..end].to_vec();
        let (at, other) = (rng.below(hashes.len() + 1), rng.below(hashes.len() + 1));
        let random = Base64::encode_string(&rng.bytes::<32>());
        match rng.below(5) {
            0 if at.max(other) < hashes.len() => hashes.swap(at, other),
            1 if at < hashes.len() => drop(hashes.remove(at)),
            2 if at < hashes.len() => hashes[at] = random,
            3 if at < hashes.len() => hashes.insert(other, hashes[at].clone()),
            4 => hashes.reverse(),
            _ => hashes.insert(at, random),
        }
        lines.splice(start..end, hashes);
    })?;
    Some("path changed")
}
