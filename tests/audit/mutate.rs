//! What a Byzantine party, a bad disk or a careless tool may do to a file.

use base64ct::{Base64, Encoding};
use quorate_attest::id::VmId;

use crate::rng::Rng;
use crate::valid::{Case, Recipe, World};

/// Changes a case in one way. Answers its name; none when it does not apply to this case.
type Mutation = fn(&mut Case, &[World], &mut Rng) -> Option<&'static str>;

const MUTATIONS: [(usize, Mutation); 12] = [
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
    let Case { file, group, policy, statement, .. } = case;
    match rng.below(8) {
        0 => group.as_mut().unwrap_or(file),
        1 | 2 => policy.as_mut().unwrap_or(file),
        3 => statement.as_mut().unwrap_or(file),
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

fn text_file<'a>(case: &'a mut Case, rng: &mut Rng) -> Option<&'a mut Vec<u8>> {
    let is_proof = case.is_proof();
    let Case { file, group, policy, .. } = case;
    match rng.below(6) {
        0 => policy.as_mut(),
        1 => group.as_mut(),
        _ => is_proof.then_some(file),
    }
}

fn lines(case: &mut Case, _: &[World], rng: &mut Rng) -> Option<&'static str> {
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

fn newlines(case: &mut Case, _: &[World], rng: &mut Rng) -> Option<&'static str> {
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
fn base64(case: &mut Case, _: &[World], rng: &mut Rng) -> Option<&'static str> {
    if !case.is_proof() {
        return None;
    }
    let mut changed = false;
    edit(&mut case.file, |lines| {
        let places: Vec<usize> =
            (0..lines.len()).filter(|at| lines[*at].len() > 40 || lines[*at].starts_with("extra ")).collect();
        let line = &mut lines[rng.pick(&places)];
        let before = line.clone();
        let start = line.rfind(' ').map_or(0, |space| space + 1);
        match rng.below(6) {
            0 | 1 => *line = spare_bit(line),
            2 => *line = line.trim_end_matches('=').to_owned(),
            3 => line.push('='),
            4 => *line = line.replace('+', "-").replace('/', "_"),
            _ => line.insert(start + rng.below(line.len() - start), rng.pick(&[' ', '=', '\t', '\u{e9}'])),
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

fn numbers(case: &mut Case, _: &[World], rng: &mut Rng) -> Option<&'static str> {
    if !case.is_proof() {
        return None;
    }
    edit(&mut case.file, |lines| {
        let size = lines.iter().position(String::is_empty).map_or(1, |empty| empty + 2);
        let index = lines.iter().position(|line| line.starts_with("index ")).unwrap_or(1);
        let at = if rng.chance(50) { index } else { size.min(lines.len() - 1) };
        let (prefix, number) = match lines[at].strip_prefix("index ") {
            Some(number) => ("index ", number.to_owned()),
            None => ("", lines[at].clone()),
        };
        let value: u64 = number.parse().unwrap_or(1);
        let number = match rng.below(9) {
            0 => (value + 1).to_string(),
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

fn path(case: &mut Case, _: &[World], rng: &mut Rng) -> Option<&'static str> {
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
const IDENTITY: [u8; 32] = {
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

fn signature_lines(case: &mut Case, worlds: &[World], rng: &mut Rng) -> Option<&'static str> {
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

fn policy(case: &mut Case, worlds: &[World], rng: &mut Rng) -> Option<&'static str> {
    let members = worlds[case.world].votes.len();
    let quorum = worlds[case.world].quorum();
    let (mut name, choice) = ("", rng.below(11));
    let identity = quorate_vkey("group/identity", &IDENTITY);
    let text = case.policy.as_mut()?;
    edit(text, |lines| {
        let at = |start: &str| lines.iter().position(|line| line.starts_with(start)).unwrap_or(0);
        let (group, witness) = (at("group "), at("witness "));
        let need = format!("/quorum {quorum} ");
        let mut threshold = |to: &str| lines[group] = lines[group].replace(&need, &format!("/quorum {to} "));
        name = match choice {
            0 => {
                threshold(&(1 + rng.below(members + 2)).to_string());
                "other threshold"
            }
            1 => {
                threshold(rng.pick(&["all", "any", "none", "0", "03", "+3", "-1", "3.0"]));
                "threshold in words"
            }
            2 => {
                lines.pop();
                lines.pop();
                lines.push(format!("quorum {}", rng.pick(&["none", "member-0", "unknown"])));
                "other quorum"
            }
            3 => {
                let line = lines[witness].clone();
                lines.insert(witness + 1, line.replace("member-0", "again"));
                "DOUBLER: key under two names"
            }
            4 => {
                lines[group].push_str(" member-0");
                "DOUBLER: member listed twice"
            }
            5 => {
                lines.insert(witness, format!("witness identity {identity}"));
                "witness key of small order"
            }
            6 => {
                lines.insert(group, "group extra any member-0 member-1\ngroup more 1 extra".into());
                "nested groups"
            }
            7 => {
                lines.insert(
                    0,
                    rng.pick(&["# comment", "\t", "  #x", "unknown line", "log", "\u{1}"]).to_owned(),
                );
                "another line"
            }
            8 => {
                lines[witness].push_str(rng.pick(&[" https://example.org", " a b", "\t"]));
                "more words"
            }
            9 => {
                lines[witness] = lines[witness].replace("+04", "+01").replacen('+', "+0", 1);
                "key id changed"
            }
            _ => {
                lines.remove(witness);
                lines[group - 1] = lines[group - 1].replace(" member-0", "");
                "witness removed"
            }
        };
    })?;
    Some(name)
}

fn quorate_vkey(name: &str, key: &[u8; 32]) -> String {
    // The id is right, so that only the key itself can be refused.
    let id = "00000000";
    let data = [&[4u8][..], key].concat();
    format!("{name}+{id}+{}", Base64::encode_string(&data))
}

/// Changes the statement beside a proof, or the statement inside a certificate, and signs nothing again.
fn statement_bytes(case: &mut Case, _: &[World], rng: &mut Rng) -> Option<&'static str> {
    let bytes = match &mut case.statement {
        Some(statement) => statement,
        None => &mut case.file,
    };
    change_statement(bytes, rng)
}

/// Changes what is signed, then signs it, so that only the rules about its content can refuse it.
fn signed_otherwise(case: &mut Case, worlds: &[World], rng: &mut Rng) -> Option<&'static str> {
    let mut recipe = case.recipe.clone();
    let name = match &mut recipe {
        Recipe::Certified(certified) => change_statement(&mut certified.statement, rng)?,
        Recipe::Proof(proof) => match rng.below(8) {
            0 => {
                proof.origin = rng.pick(&["quorate.vm/0", "other/log", "quorate.vm", "x"]).to_owned();
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
            let kinds = [0x0801u16, 0x0802, 0x0803, 0x0805, 0x0010, 0x080a, 0x0201, 0x0000];
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

/// Length of a vote in a certificate: index and signature.
const VOTE: usize = 66;

fn votes(case: &mut Case, worlds: &[World], rng: &mut Rng) -> Option<&'static str> {
    let Recipe::Certified(certified) = &case.recipe else { return None };
    let start = certified.statement.len() + 4;
    let tail = case.file.get(start..)?.to_vec();
    let mut votes: Vec<Vec<u8>> = tail.chunks(VOTE).map(<[u8]>::to_vec).collect();
    if votes.iter().any(|vote| vote.len() != VOTE) || votes.is_empty() {
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
    Some(name)
}

/// Changes what the caller expects.
fn expectations(case: &mut Case, worlds: &[World], rng: &mut Rng) -> Option<&'static str> {
    let other = &worlds[(case.world + 1) % worlds.len()];
    Some(match rng.below(6) {
        0 => {
            case.vm = Some(VmId::from_bytes(if rng.chance(50) { [0; 32] } else { rng.bytes() }));
            "another VM is expected"
        }
        1 => {
            case.vm = None;
            "no VM is expected"
        }
        2 => {
            case.group = Some(other.file());
            "another group is expected"
        }
        3 if case.is_proof() => {
            case.policy = Some(other.policy(None));
            "another policy"
        }
        4 if case.is_proof() => {
            case.statement = None;
            "no statement"
        }
        _ if case.is_proof() => {
            case.not_before = Some(crate::valid::COSIGNED + rng.below(9) as u64);
            "younger cosignatures are demanded"
        }
        _ => return None,
    })
}
