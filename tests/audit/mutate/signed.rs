//! Changes of signatures: the signature lines of a proof and the votes of a certificate.

use base64ct::{Base64, Encoding};

use super::edit;
use crate::rng::Rng;
use crate::valid::{Case, Recipe, World};
/// Name and bytes of a signature line.
fn parse_line(line: &str) -> Option<(String, Vec<u8>)> {
    let (name, data) = line.strip_prefix("\u{2014} ")?.split_once(' ')?;
    Some((name.to_owned(), Base64::decode_vec(data).ok()?))
}

fn line_of(name: &str, data: &[u8]) -> String {
    format!("\u{2014} {name} {}", Base64::encode_string(data))
}

/// The order of the group of signatures, as 32 bytes, added to S: the same signature modulo the order.
fn add_order(s: &mut [u8]) {
    const ORDER: [u8; 32] = [
        0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0,
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
    ];
    let mut carry = 0u16;
    for (byte, order) in s.iter_mut().zip(ORDER) {
        carry += u16::from(*byte) + u16::from(order);
        *byte = carry as u8;
        carry >>= 8;
    }
}

/// The identity point: as a key and as R it makes S = 0 valid for every message under a permissive rule.
pub const IDENTITY: [u8; 32] = {
    let mut point = [0; 32];
    point[0] = 1;
    point
};

fn spoil(signature: &mut [u8], rng: &mut Rng) -> &'static str {
    let start = signature.len() - 64;
    match rng.below(5) {
        0 => {
            add_order(&mut signature[start + 32..]);
            "S not canonical"
        }
        1 => {
            signature[start..start + 32].copy_from_slice(&IDENTITY);
            "R of small order"
        }
        2 => {
            signature[start..].fill(0);
            "empty signature"
        }
        _ => {
            let at = rng.below(signature.len());
            signature[at] ^= 1 << rng.below(8);
            "BADSIG"
        }
    }
}

pub fn signature_lines(case: &mut Case, worlds: &[World], rng: &mut Rng) -> Option<&'static str> {
    let world = &worlds[case.world];
    let mut foreign = case.clone();
    if let Recipe::Proof(proof) = &mut foreign.recipe {
        proof.statements.reverse();
        proof.extra = None;
        foreign.remake(worlds);
    }
    if !case.is_proof() {
        return None;
    }
    let mut name = "";
    edit(&mut case.file, |lines| {
        let places: Vec<usize> = (0..lines.len()).filter(|at| parse_line(&lines[*at]).is_some()).collect();
        if places.is_empty() {
            return;
        }
        let (at, other) = (rng.pick(&places), rng.pick(&places));
        let Some((of, mut data)) = parse_line(&lines[at]) else { return };
        name = match rng.below(9) {
            0 => {
                lines.insert(other, lines[at].clone());
                "DOUBLER: line repeated"
            }
            1 => {
                // One signature under the name and id of another member.
                let key = world.group.cosigner(rng.below(world.votes.len()) as u16).unwrap();
                data[..4].copy_from_slice(&key.id());
                lines[at] = line_of(key.name(), &data);
                "DOUBLER: line under another name"
            }
            2 | 3 => {
                if data.len() < 68 {
                    return;
                }
                let what = spoil(&mut data, rng);
                lines[at] = line_of(&of, &data);
                what
            }
            4 => {
                lines.remove(at);
                "signature removed"
            }
            5 => {
                let few = rng.below(places.len());
                let keep = places[few];
                lines.truncate(keep);
                lines.push(String::new());
                "signatures cut off"
            }
            6 => {
                let text = String::from_utf8_lossy(&foreign.file).into_owned();
                let others: Vec<&str> = text.split('\n').filter(|line| parse_line(line).is_some()).collect();
                lines[at] = rng.pick(&others).to_owned();
                "line of another head"
            }
            7 => {
                data[..4].copy_from_slice(&rng.bytes::<4>());
                lines[at] = line_of(&of, &data);
                "id of an unknown key"
            }
            _ => {
                lines[at] = line_of(&format!("{of}x"), &data);
                "unknown name"
            }
        };
    })?;
    (!name.is_empty()).then_some(name)
}

/// Length of a vote in a certificate: index and signature.
const VOTE: usize = 66;

pub fn votes(case: &mut Case, worlds: &[World], rng: &mut Rng) -> Option<&'static str> {
    let (start, count) = match &case.recipe {
        Recipe::Certified(certified) => (certified.statement.len() + 4, certified.signers.len()),
        Recipe::Answer(answered) => rng.pick(&answered.votes()),
        Recipe::Proof(_) => return None,
    };
    let end = start + count * VOTE;
    let (list, rest) = (case.file.get(start..end)?.to_vec(), case.file[end..].to_vec());
    let mut votes: Vec<Vec<u8>> = list.chunks(VOTE).map(<[u8]>::to_vec).collect();
    if votes.is_empty() {
        return None;
    }
    let (at, other) = (rng.below(votes.len()), rng.below(votes.len()));
    let mut count_off = 0i64;
    let name = match rng.below(9) {
        0 => {
            let vote = votes[at].clone();
            votes.insert(at, vote);
            "DOUBLER: vote repeated"
        }
        1 => {
            votes[at] = votes[other].clone();
            "DOUBLER: vote in the place of another"
        }
        2 => {
            let member = rng.below(worlds[case.world].votes.len() + 2) as u16;
            votes[at][..2].copy_from_slice(&member.to_le_bytes());
            "DOUBLER: vote under another index"
        }
        3 => {
            votes.swap(at, other);
            "votes exchanged"
        }
        4 | 5 => spoil(&mut votes[at], rng),
        6 => {
            votes.truncate(at);
            "votes cut off"
        }
        7 => {
            votes.remove(at);
            "vote removed"
        }
        _ => {
            count_off = if rng.chance(50) { 1 } else { -1 };
            "wrong count"
        }
    };
    let count = (votes.len() as i64 + count_off) as u32;
    case.file.truncate(start - 4);
    case.file.extend_from_slice(&count.to_le_bytes());
    votes.iter().for_each(|vote| case.file.extend_from_slice(vote));
    case.file.extend_from_slice(&rest);
    Some(name)
}
