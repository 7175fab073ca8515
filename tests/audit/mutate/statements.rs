//! Changes of what is signed, with the old signatures or with new ones.

use super::signed::IDENTITY;
use crate::rng::Rng;
use crate::valid::{Case, Recipe, World};
/// Changes the statement beside a proof, or the statement inside a certificate, and signs nothing again.
pub fn statement_bytes(case: &mut Case, _: &[World], rng: &mut Rng) -> Option<&'static str> {
    if matches!(case.recipe, Recipe::Answer(_)) {
        return None;
    }
    let bytes = match &mut case.statement {
        Some(statement) => statement,
        None => &mut case.file,
    };
    change_statement(bytes, rng)
}

/// Changes what is signed, then signs it, so that only the rules about its content can refuse it.
pub fn signed_otherwise(case: &mut Case, worlds: &[World], rng: &mut Rng) -> Option<&'static str> {
    let mut recipe = case.recipe.clone();
    let name = match &mut recipe {
        // Of an answer `answers` changes what is signed.
        Recipe::Answer(_) => return None,
        Recipe::Certified(certified) => change_statement(&mut certified.statement, rng)?,
        Recipe::Proof(proof) => match rng.below(8) {
            0 => {
                let group = &worlds[case.world].group.name;
                proof.origin = match rng.below(5) {
                    0 => format!("{group}/registry"),
                    1 => format!("{group}/log"),
                    _ => rng.pick(&["quorate.vm/0", "other/log", "x"]).to_owned(),
                };
                "signed: another origin"
            }
            1 => {
                let at = proof.index as usize;
                let other = rng.below(proof.statements.len());
                proof.statements.swap(at, other);
                "signed: statement at another index"
            }
            2 => {
                proof.time = rng.pick(&[0, 1, (1 << 63) - 9, 1 << 63, u64::MAX - 9]);
                if proof.time >= 1 << 63 {
                    return None;
                }
                "signed: another time"
            }
            3 => {
                proof.signers.pop();
                "signed: one signer fewer"
            }
            4 => {
                proof.extension = Some(rng.pick(&["x y", "\u{e9}", "1"]).to_owned());
                "signed: extension line"
            }
            _ => {
                let at = proof.index as usize;
                change_statement(&mut proof.statements[at], rng)?
            }
        },
    };
    case.recipe = recipe;
    case.remake(worlds);
    Some(name)
}

/// Offsets of the fields of a statement.
const FIELDS: [(&str, usize, usize); 9] = [
    ("magic changed", 0, 16),
    ("kind changed", 16, 2),
    ("group changed", 18, 32),
    ("epoch changed", 50, 8),
    ("instance changed", 58, 32),
    ("seq changed", 90, 8),
    ("length of the body changed", 98, 4),
    ("body changed", 102, usize::MAX),
    ("trailing bytes in the statement", usize::MAX, 0),
];

fn change_statement(bytes: &mut Vec<u8>, rng: &mut Rng) -> Option<&'static str> {
    let (name, start, length) = rng.pick(&FIELDS);
    if start == usize::MAX {
        bytes.push(rng.next() as u8);
        return Some(name);
    }
    let end = start.saturating_add(length).min(bytes.len());
    let field = bytes.get_mut(start..end).filter(|field| !field.is_empty())?;
    match (name, rng.below(4)) {
        ("kind changed", choice) => {
            let kinds = [0x0801u16, 0x0802, 0x0803, 0x0011, 0x0010, 0x080a, 0x0201, 0x0000];
            field[..2].copy_from_slice(&kinds[choice * 2 + rng.below(2)].to_le_bytes());
        }
        ("epoch changed" | "seq changed", 0..3) => field[0] = field[0].wrapping_add(rng.pick(&[1, 255, 2])),
        ("instance changed", 0) => field.fill(0),
        ("body changed", 0) if field.len() > 32 => {
            // The last 32 bytes of a slot or decision are a key.
            let end = field.len();
            field[end - 32..].copy_from_slice(&IDENTITY);
        }
        _ => {
            let at = rng.below(field.len());
            field[at] ^= 1 << rng.below(8);
        }
    }
    Some(name)
}
