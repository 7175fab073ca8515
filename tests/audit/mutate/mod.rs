//! What a Byzantine party, a bad disk or a careless tool may do to a file.

mod answers;
mod expected;
mod lines;
mod signed;
mod statements;

use crate::rng::Rng;
use crate::valid::{Case, World};
use answers::answers;
use expected::{expectations, policy};
use lines::{base64, lines, newlines, numbers, path};
use signed::{signature_lines, votes};
use statements::{signed_otherwise, statement_bytes};

/// Changes a case in one way. Answers its name; none when it does not apply to this case.
type Mutation = fn(&mut Case, &[World], &mut Rng) -> Option<&'static str>;

const MUTATIONS: [(usize, Mutation); 13] = [
    (10, damage),
    (10, lines),
    (6, newlines),
    (10, base64),
    (8, numbers),
    (8, path),
    (14, signature_lines),
    (10, policy),
    (8, statement_bytes),
    (12, signed_otherwise),
    (16, votes),
    (50, answers),
    (6, expectations),
];

/// Applies one mutation, in a few cases two.
pub fn mutate(case: &mut Case, worlds: &[World], rng: &mut Rng) {
    let total: usize = MUTATIONS.iter().map(|(weight, _)| weight).sum();
    let mut left = 1 + usize::from(rng.chance(10));
    while left > 0 {
        let mut at = rng.below(total);
        let chosen = MUTATIONS.iter().find(|(weight, _)| {
            let hit = at < *weight;
            at = at.wrapping_sub(*weight);
            hit
        });
        if let Some(name) = chosen.and_then(|(_, mutation)| mutation(case, worlds, rng)) {
            case.history.push(name.to_owned());
            left -= 1;
        }
    }
}

/// The file, or one of the files that say what is expected.
fn any_file<'a>(case: &'a mut Case, rng: &mut Rng) -> &'a mut Vec<u8> {
    let Case { file, group, policy, statement, orchestrators, replicas, services, .. } = case;
    match rng.below(10) {
        0 => group.as_mut().unwrap_or(file),
        1 | 2 => policy.as_mut().unwrap_or(file),
        3 => statement.as_mut().unwrap_or(file),
        4 => orchestrators.as_mut().or(replicas.as_mut()).unwrap_or(file),
        5 => services.first_mut().unwrap_or(file),
        _ => file,
    }
}

fn damage(case: &mut Case, _: &[World], rng: &mut Rng) -> Option<&'static str> {
    let bytes = any_file(case, rng);
    if bytes.is_empty() {
        return None;
    }
    let at = rng.below(bytes.len());
    Some(match rng.below(7) {
        0..3 => {
            bytes[at] ^= 1 << rng.below(8);
            "bit flipped"
        }
        3 => {
            bytes.truncate(at);
            "truncated"
        }
        4 => {
            bytes.remove(at);
            "byte removed"
        }
        5 => {
            let byte = bytes[at];
            bytes.insert(at, byte);
            "byte doubled"
        }
        _ => {
            let tails: [&[u8]; 7] = [b"\n", b"\0", b" ", b"\r\n", b"\n\n", b"\xe2\x80\x94 x AAAA\n", b"\xff"];
            bytes.extend_from_slice(rng.pick(&tails));
            "trailing bytes"
        }
    })
}

/// Lines of a text file, and back.
fn edit(bytes: &mut Vec<u8>, change: impl FnOnce(&mut Vec<String>)) -> Option<()> {
    let text = String::from_utf8(bytes.clone()).ok()?;
    let mut lines: Vec<String> = text.split('\n').map(str::to_owned).collect();
    change(&mut lines);
    *bytes = lines.join("\n").into_bytes();
    Some(())
}
