//! Changes of what the caller expects: the policy, the group, the VM and the age.

use base64ct::{Base64, Encoding};
use quorate_attest::encoding::Bounded;
use quorate_attest::id::VmId;

use super::edit;
use super::signed::IDENTITY;
use crate::rng::Rng;
use crate::valid::{COSIGNED, Case, World};
pub fn policy(case: &mut Case, worlds: &[World], rng: &mut Rng) -> Option<&'static str> {
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
                let groups = lines.iter_mut().filter(|line| line.starts_with("group "));
                groups.for_each(|line| *line = line.replace(" member-0", ""));
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

/// Changes what the caller expects.
pub fn expectations(case: &mut Case, worlds: &[World], rng: &mut Rng) -> Option<&'static str> {
    let other = &worlds[(case.world + 1) % worlds.len()];
    let of_services = case.replicas.is_some();
    Some(match rng.below(if of_services { 14 } else { 7 }) {
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
        5 if case.is_proof() => {
            case.not_before = Some(COSIGNED + rng.below(9) as u64);
            "younger cosignatures are demanded"
        }
        6 | 7 => {
            let any = &worlds[rng.below(worlds.len())];
            case.orchestrators = rng.chance(70).then(|| any.file());
            "other orchestrators are expected"
        }
        8 | 9 => {
            case.replicas = rng.chance(70).then(|| other.file());
            "other replicas are expected"
        }
        10 => {
            case.services = Vec::new();
            "no service is expected"
        }
        11 => {
            let services = &worlds[case.world].services;
            case.services = vec![services[1].encoded()];
            "another service is expected"
        }
        12 => {
            // The name stands in the log's origin, the whole specification in the service's id.
            let mut spec = worlds[case.world].services[0].clone();
            spec.name.push('x');
            case.services = vec![spec.encoded()];
            "a service of another name is expected"
        }
        13 => {
            case.replicas = Some(worlds[case.world].policy(None));
            "replicas are no group"
        }
        _ => return None,
    })
}
