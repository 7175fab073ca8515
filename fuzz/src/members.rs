//! What orchestrators tell each other beside the log: heads, entries of services, and the evidence that is kept of both.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::LazyLock;

use quorate_attest::cosignature::cosign;
use quorate_attest::encoding::{Bounded, to_bytes};
use quorate_attest::group::GroupConfig;
use quorate_attest::id::ServiceId;
use quorate_attest::receipt::log_checkpoint;
use quorate_orchestrator::node::fuzz_frames;
use quorate_orchestrator::replica::heads::{Divergence, HeadComparison, Verdict};
use quorate_ordering::protocol::{CosignedHead, CosignedHeads};
use quorate_ordering::services::StopEvidence;
use quorate_ordering::services::{ExecutedEntry, SignedReceipt};

use crate::codec::{bounded, read};
use crate::cut::Cut;
use crate::must;
use crate::proofs::{cosigner_key, group, receipt, vote_key};
use crate::wire::Checked;

/// Seed of the first member's keys.
const MEMBERS: u8 = 60;
/// Entries of one's own log; its root at each size is that number.
const SIZE: u64 = 8;
/// Comparisons of one life at most.
const STEPS: usize = 16;

static GROUP: LazyLock<GroupConfig> = LazyLock::new(|| group("orchestrator", MEMBERS));

/// Decodes the bytes, or compares the heads that they choose.
pub fn check(bytes: &[u8]) {
    let mut cut = Cut::new(bytes);
    match cut.below(4) {
        0 => fuzz_frames(Checked(cut.rest())),
        1 => drop(bounded::<StopEvidence>(cut.rest())),
        2 => drop(read::<Divergence>(cut.rest(), 1 << 16)),
        _ => compare(&mut cut),
    }
}

/// Whoever contradicts must have cosigned it, counts once, and more than `f` of them stop this node.
fn compare(cut: &mut Cut<'_>) {
    let (mut comparison, mut found) = (HeadComparison::default(), BTreeMap::new());
    for _ in 0..STEPS {
        if cut.is_empty() {
            break;
        }
        let orchestrator = cut.below(5) as u16;
        let (mut heads, mut fresh) = (Vec::new(), Vec::new());
        for _ in 0..1 + cut.below(3) {
            let (head, cosigned_by) = head(cut);
            let contradicts = head.size <= SIZE && head.root != root(head.size);
            if contradicts && cosigned_by == Some(orchestrator) && !found.contains_key(&orchestrator) {
                let divergence = Divergence { orchestrator, theirs: head.clone(), ours: root(head.size) };
                found.insert(orchestrator, divergence.clone());
                fresh.push(divergence);
            }
            heads.push(head);
        }
        let ours = |size| Ok::<_, Infallible>((size <= SIZE).then(|| root(size)));
        let expected = match (fresh.is_empty(), found.len() as u64 > GROUP.f) {
            (true, _) => Verdict::Agree,
            (false, false) => Verdict::Suspect(fresh),
            (false, true) => Verdict::WeDiverge(found.values().cloned().collect()),
        };
        assert_eq!(must(comparison.compare(&GROUP, orchestrator, &heads, ours)), expected);
    }
}

fn root(size: u64) -> [u8; 32] {
    [size as u8; 32]
}

/// A head, and which member of the group cosigned exactly this.
fn head(cut: &mut Cut<'_>) -> (CosignedHead, Option<u16>) {
    let (size, other) = (cut.number(), cut.flag());
    let root = if other { [cut.byte(); 32] } else { root(size) };
    let signer = cut.below(4) as u16;
    let line = cosignature(&GROUP.name, signer, size, root);
    let mut text = match cut.byte() {
        255 => cosignature("another", signer, size, root).unwrap_or_default(),
        _ => line.clone().unwrap_or_default(),
    };
    match cut.byte() {
        255 => text = String::from_utf8_lossy(cut.take(255)).into_owned(),
        254 => drop(text.pop()),
        253 => text.push(' '),
        _ => {}
    }
    let true_one = line.filter(|line| *line == text);
    (CosignedHead { size, root, cosignature: text }, true_one.map(|_| signer))
}

/// The line of a member, if there is a head of this size and root.
fn cosignature(log: &str, signer: u16, size: u64, root: [u8; 32]) -> Option<String> {
    let name = format!("{}/{}", GROUP.name, GROUP.members.get(usize::from(signer))?.name);
    let checkpoint = log_checkpoint(log, size, root).ok()?;
    Some(must(cosign(&name, &cosigner_key(MEMBERS, signer), 1_000, &checkpoint)).to_string())
}

/// Frames, evidence, and lives in which one member and then another contradicts.
pub fn seeds() -> Vec<Vec<u8>> {
    let with = |choice: u8, bytes: &[u8]| [&[choice][..], bytes].concat();
    let frame = |tag: u8, body: &[u8]| [&[tag][..], &(body.len() as u32).to_le_bytes(), body].concat();
    let signature = receipt().to_statement().sign(&vote_key(MEMBERS, 2));
    let signed = SignedReceipt { replica: 2, receipt: receipt(), signature };
    let entry = ExecutedEntry { replica: 2, receipt: receipt(), signature, reply: vec![1, 2, 3] };
    let cosignature = cosignature(&GROUP.name, 1, 3, [9; 32]).unwrap_or_default();
    let theirs = CosignedHead { size: 3, root: [9; 32], cosignature };
    let frames = [
        frame(1, &CosignedHeads(vec![theirs.clone(); 2]).encoded()),
        frame(2, &to_bytes(&(ServiceId::from_bytes([9; 32]), 7u64, 3u32))),
        frame(3, &to_bytes(&vec![entry; 2])),
    ];
    let evidence = StopEvidence { ours: signed.clone(), again: Some(receipt()), theirs: vec![signed; 2] };
    let divergence = Divergence { orchestrator: 1, theirs, ours: [3; 32] };
    // By whom; one head; of which size and root, by whom, of this log, unspoilt.
    let says = |member: u8, root: u8| [member, 0, 3, 1, root, member, 0, 0];
    vec![
        with(0, &frames.concat()),
        with(0, &frames[2]),
        with(1, &evidence.encoded()),
        with(2, &to_bytes(&divergence)),
        with(3, &[says(1, 9), says(2, 3), says(2, 8)].concat()),
        with(3, &[says(0, 9), says(0, 8), says(3, 9)].concat()),
        with(3, &[1, 2, 200, 0, 1, 0, 0, 3, 0, 1, 0, 254, 3, 1, 9, 1, 255, 0]),
    ]
}
