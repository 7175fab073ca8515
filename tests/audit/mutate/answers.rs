//! Changes of what an answer of a service says, with new signatures: what `f + 1` lying replicas could sign, and what a
//! gateway could put together from honest parts.

use quorate_attest::encoding::Bounded;
use quorate_attest::id::{Epoch, Nonce, VmId};
use quorate_attest::operation::Operation;
use quorate_attest::request::{Call, Reply, Request};
use quorate_attest::service::{Answer, Query, ServiceReceipt};
use quorate_attest::state_tree::{AbsenceProof, EntryProof, StateTree};
use quorate_control::{Answer as Outcome, Command, encode_outcome};

use super::signed::IDENTITY;
use crate::rng::Rng;
use crate::services::{Answered, Called, Content};
use crate::valid::{Case, Recipe, World};

pub fn answers(case: &mut Case, worlds: &[World], rng: &mut Rng) -> Option<&'static str> {
    let mut recipe = case.recipe.clone();
    let Recipe::Answer(answered) = &mut recipe else { return None };
    let (world, other) = (&worlds[case.world], &worlds[(case.world + 1) % worlds.len()]);
    let Answered { receipt, signers, content } = &mut **answered;
    let name = match (rng.below(4), content) {
        (0, _) => self::receipt(receipt, signers, world, other, rng),
        (_, Content::Reply(called)) => reply(called, receipt, world, rng),
        (_, Content::State { state, query, answer }) => match rng.chance(40) {
            true => question(query, state, rng)?,
            false => self::answer(answer, query, state, rng)?,
        },
    };
    case.recipe = recipe;
    case.remake(worlds);
    Some(name)
}

fn receipt(
    receipt: &mut ServiceReceipt,
    signers: &mut Vec<usize>,
    world: &World,
    other: &World,
    rng: &mut Rng,
) -> &'static str {
    match rng.below(10) {
        0 => {
            (receipt.number, receipt.log_size) = (receipt.number + 1, receipt.log_size + 1);
            "receipt: another entry"
        }
        1 => {
            receipt.log_size += 1;
            "receipt: log does not end with the entry"
        }
        2 => {
            receipt.service = world.services[1].id();
            "receipt: another service"
        }
        3 => {
            receipt.epoch = Epoch(receipt.epoch.get() ^ 1);
            "receipt: another epoch"
        }
        4 => {
            receipt.group = other.group.id();
            "receipt: another group"
        }
        5 => {
            receipt.log_index = receipt.log_index.wrapping_add(1);
            "receipt: another place in the log"
        }
        6 => {
            receipt.state.size = receipt.state.size.wrapping_add(rng.pick(&[1, u64::MAX]));
            "receipt: another size of the state"
        }
        7 => {
            receipt.state.root = rng.bytes();
            "receipt: another root of the state"
        }
        _ => {
            signers.truncate(world.group.f as usize);
            "receipt: f replicas only"
        }
    }
}

fn reply(called: &mut Called, receipt: &mut ServiceReceipt, world: &World, rng: &mut Rng) -> &'static str {
    let [service, another] = [0, 1].map(|index| world.services[index].id());
    let number = receipt.number;
    let name = match rng.below(15) {
        0 => {
            called.becomes(encode_outcome(&Ok(Outcome::Numbered { service, number: number + 1 })));
            "order: another number"
        }
        1 => {
            called.becomes(encode_outcome(&Ok(Outcome::Numbered { service: another, number })));
            "order: number of another service"
        }
        2 => {
            called.becomes(encode_outcome(&Ok(Outcome::ServiceCreated { service })));
            "order: another outcome"
        }
        3 => {
            called.outcome.push(0);
            "order: outcome does not fit"
        }
        4 => {
            (called.order.index, called.order.log_size) = (called.order.index + 1, called.order.log_size + 1);
            "order: another place"
        }
        5 => {
            called.order.log_size += rng.pick(&[1, 0]);
            called.order.epoch = Epoch(called.order.epoch.get() + 1);
            "order: another epoch"
        }
        6 => {
            called.signers.truncate(called.signers.len().min(world.group.f as usize + 1));
            "order: few signers"
        }
        7 => {
            let request = called.request.encoded();
            called.commands(Command::CallService { service: another, request }.encoded());
            "operation: calls another service"
        }
        8 => {
            called.commands(Command::DeleteVm { vm: VmId::from_bytes(rng.bytes()) }.encoded());
            "operation: another command"
        }
        9 => {
            let Operation { nonce, command, .. } = called.operation.clone();
            called.operation = Operation::new(&called.author, world.group.id(), nonce, command);
            "operation: for another group"
        }
        10 => {
            called.operation = called.operation.clone().signed(&world.votes[0]);
            "operation: not signed by its author"
        }
        11 => {
            called.operation.nonce = Nonce::from_bytes(rng.bytes());
            called.operation = called.operation.clone().signed(&called.author);
            // Only the one who asks knows it: neither orchestrators nor replicas say that it was ordered.
            return "operation: another one than was ordered";
        }
        12 => {
            spoil_request(called, rng);
            "request: it is none"
        }
        13 => {
            called.reply[rng.pick(&[0, 2, 34, 41, 42, 57, 58, 64])] ^= 1;
            "reply: to another request"
        }
        _ => {
            spoil_reply(called, rng);
            "reply: another one"
        }
    };
    // The result is as before where only one side of a pair is to change.
    if rng.chance(85) {
        called.agrees(receipt);
    }
    name
}

/// Orders bytes that are no request, or a request for somebody else.
fn spoil_request(called: &mut Called, rng: &mut Rng) {
    let mut request = called.request.encoded();
    match rng.below(5) {
        0 => drop(request.pop()),
        1 => request.push(0),
        2 => request[4..36].copy_from_slice(&IDENTITY),
        3 => request[100] ^= 1,
        _ => {
            let call = Call { op: 3, sequence: 1, nonce: Nonce::ZERO, epoch: 0, body: Vec::new() };
            request = Request::sign(&called.author, called.request.vm, call).encoded();
        }
    }
    if let Ok(Command::CallService { service, .. }) = Command::decoded(&called.operation.command) {
        called.commands(Command::CallService { service, request }.encoded());
    }
}

fn spoil_reply(called: &mut Called, rng: &mut Rng) {
    match rng.below(5) {
        0 => drop(called.reply.pop()),
        1 => called.reply.push(0),
        2 => called.reply[2..34].copy_from_slice(&IDENTITY),
        3 => called.reply = Reply::to(&called.request, 8, vec![1]).encoded(),
        _ => called.reply.clear(),
    }
}

/// Some key: of an entry, or near one.
fn key(state: &StateTree, rng: &mut Rng) -> Vec<u8> {
    let mut key = match state.entries() {
        [] => vec![b'k'],
        entries => entries[rng.below(entries.len())].0.clone(),
    };
    match rng.below(5) {
        0 => key.push(0),
        1 => drop(key.pop()),
        2 => key.insert(0, rng.pick(b"\0jz\xff")),
        _ => {}
    }
    key
}

fn question(query: &mut Query, state: &StateTree, rng: &mut Rng) -> Option<&'static str> {
    Some(match query {
        Query::Get { key: asked } => {
            *asked = key(state, rng);
            "question: another key"
        }
        Query::Range { low, high, limit } => match rng.below(5) {
            0 => {
                *low = key(state, rng);
                "question: another lowest key"
            }
            1 => {
                *high = key(state, rng);
                "question: another highest key"
            }
            2 => {
                std::mem::swap(low, high);
                "question: bounds exchanged"
            }
            3 => {
                *query = Query::Get { key: low.clone() };
                "question: of another kind"
            }
            _ => {
                *limit = rng.pick(&[0, limit.wrapping_sub(1), u16::MAX]);
                "question: another limit"
            }
        },
        Query::Head => {
            *query = Query::Export { after: key(state, rng) };
            "question: of another kind"
        }
        Query::Export { .. } => return None,
    })
}

fn answer(answer: &mut Answer, query: &mut Query, state: &StateTree, rng: &mut Rng) -> Option<&'static str> {
    if rng.chance(10) {
        *answer = match rng.below(3) {
            0 => Answer::Head,
            1 => Answer::Entries { entries: Vec::new(), more: false },
            _ => Answer::Absent(AbsenceProof { before: None, after: None }),
        };
        return Some("answer: of another kind");
    }
    Some(match answer {
        Answer::Present(found) => {
            if rng.chance(50) {
                return entry(found, state, rng).into();
            }
            let found = found.clone();
            let mut proof = hole(state, &found.key);
            match rng.below(3) {
                0 => proof.before = Some(found),
                1 => proof.after = Some(found),
                _ => {
                    *answer = Answer::Absent(proof);
                    return Some("answer: absent though it is there");
                }
            }
            *answer = Answer::Absent(proof);
            "answer: absent, and the entry as neighbour"
        }
        Answer::Absent(AbsenceProof { before, after }) => match rng.below(3) {
            0 => {
                std::mem::swap(before, after);
                "answer: neighbours exchanged"
            }
            1 => neighbour(before, state, rng),
            _ => neighbour(after, state, rng),
        },
        Answer::Range { proof, more } => {
            let entries = &mut proof.entries;
            match rng.below(10) {
                0 => {
                    *more = !*more;
                    "range: goes on or not"
                }
                1 => neighbour(&mut proof.before, state, rng),
                2 => neighbour(&mut proof.after, state, rng),
                3 | 4 if !entries.is_empty() => {
                    entries.remove(rng.below(entries.len()));
                    "range: entry left out"
                }
                5 if !entries.is_empty() => {
                    let at = rng.below(entries.len());
                    entries.insert(at, entries[at].clone());
                    "range: entry repeated"
                }
                6 if !entries.is_empty() => {
                    let (first, second) = (rng.below(entries.len()), rng.below(entries.len()));
                    entries.swap(first, second);
                    "range: entries exchanged"
                }
                7 if !entries.is_empty() => entry(&mut entries[0], state, rng),
                8 if !entries.is_empty() => {
                    match rng.chance(50) {
                        true => proof.before = Some(entries.remove(0)),
                        false => proof.after = entries.pop(),
                    }
                    "range: an entry of it as neighbour"
                }
                _ => {
                    // What lies beside the range, honestly proved, as if it were within.
                    *proof = state.range(&[], &[0xff]);
                    if let Query::Range { limit, .. } = query {
                        *limit = u16::MAX;
                    }
                    "range: wider than was asked"
                }
            }
        }
        Answer::Head | Answer::Entries { .. } => return None,
    })
}

/// The entries around one that is there, as if it were not.
fn hole(state: &StateTree, key: &[u8]) -> AbsenceProof {
    let proof = state.range(key, key);
    AbsenceProof { before: proof.before, after: proof.after }
}

fn entry(entry: &mut EntryProof, state: &StateTree, rng: &mut Rng) -> &'static str {
    match rng.below(6) {
        0 => {
            entry.value.push(0);
            "entry: another value"
        }
        1 => {
            entry.key.push(0);
            "entry: another key"
        }
        2 => {
            entry.index = entry.index.wrapping_add(rng.pick(&[1, u64::MAX]));
            "entry: another place"
        }
        3 => {
            entry.path.push(rng.bytes());
            "entry: path too long"
        }
        4 => {
            entry.path.pop();
            "entry: path too short"
        }
        _ => {
            let found = state.membership(&state.entries()[rng.below(state.len())].0);
            *entry = found.unwrap_or_else(|| entry.clone());
            "entry: another one"
        }
    }
}

fn neighbour(neighbour: &mut Option<EntryProof>, state: &StateTree, rng: &mut Rng) -> &'static str {
    match (rng.below(3), neighbour.as_mut()) {
        (0, Some(_)) => {
            *neighbour = None;
            "neighbour: left out"
        }
        (1, Some(known)) => {
            entry(known, state, rng);
            "neighbour: spoiled"
        }
        _ if !state.is_empty() => {
            *neighbour = state.membership(&state.entries()[rng.below(state.len())].0);
            "neighbour: another one"
        }
        _ => "neighbour: none",
    }
}
