//! The orchestrators' log: frames between members, blocks, gossip, and proofs that an operation has its index.

use std::sync::LazyLock;

use bytes::Bytes;
use commonware_codec::{Decode, DecodeExt, Encode};
use commonware_consensus::simplex::types::{Finalization, Finalize, Proposal};
use commonware_consensus::types::{Epoch, Round, View};
use commonware_cryptography::sha256::Digest;
use commonware_parallel::Sequential;
use commonware_utils::non_empty;
use quorate_agreement::{
    BLOCK_BYTES, BLOCK_OPERATIONS, OPERATION_LIMIT, OrderProof, fuzz_frames, verify_order,
};
use quorate_agreement_engine::block::{Block, Header, MAX_BLOCK};
use quorate_agreement_engine::certificate::finalized;
use quorate_agreement_engine::committee::{Committee, Scheme};
use quorate_agreement_engine::gossip;
use quorate_agreement_engine::limits::GOSSIP_BYTES;
use quorate_attest::encoding::to_bytes;
use quorate_attest::group::GroupConfig;
use quorate_attest::merkle::{Frontier, Sha256Tree, TreeHash, inclusion_proof};

use crate::codec::bounded;
use crate::cut::{Cut, framed};
use crate::must;
use crate::proofs::{group, vote_key};
use crate::wire::Checked;

/// Seed of the first member's keys.
const MEMBERS: u8 = 60;
/// Log index of the first operation that anybody ordered.
const FIRST: u64 = 5;

/// All that the members ever finalized: a block with three operations, and one behind it.
struct Truth {
    group: GroupConfig,
    committee: Committee,
    blocks: [Block; 2],
    finalization: Vec<u8>,
    /// Of each of the three operations.
    proofs: [Vec<u8>; 3],
}

static TRUTH: LazyLock<Truth> = LazyLock::new(Truth::new);

impl Truth {
    fn new() -> Self {
        let group = group("orchestrator", MEMBERS);
        let keys: Vec<_> = group.members.iter().map(|member| *member.vote_key.as_bytes()).collect();
        let config = group.digest().to_bytes();
        let committee = must(Committee::new(group.id().as_bytes(), group.epoch.get(), config, &keys));
        let genesis = Header::genesis(0, &config, &[0; 32], FIRST);
        let operations = [&b"one"[..], b"two", b"three"].map(Bytes::from_static);
        let block = Block::build(&genesis, operations.to_vec());
        let next = Block::build(block.header(), vec![Bytes::from_static(b"four")]);
        let finalization = finalize(&committee, next.header());
        let leaves = operations.each_ref().map(|operation| Sha256Tree::leaf(operation));
        let proofs = [0, 1, 2].map(|index| {
            let path = inclusion_proof::<Sha256Tree>(&leaves, index).unwrap_or_default();
            to_bytes(&(block.header(), path, vec![next.header()], &finalization))
        });
        Self { group, committee, blocks: [block, next], finalization, proofs }
    }

    fn operation(&self, index: u64) -> Option<&[u8]> {
        let offset = usize::try_from(index.checked_sub(FIRST)?).ok()?;
        self.blocks[0].operations().get(offset).map(AsRef::as_ref)
    }
}

/// A quorum's certificate of the block with this header.
fn finalize(committee: &Committee, header: &Header) -> Vec<u8> {
    let proposal =
        Proposal::new(Round::new(Epoch::new(0), View::new(9)), View::new(8), Digest::from(header.digest()));
    let vote = |member: u16| {
        let scheme = committee.signer(&vote_key(MEMBERS, member).to_seed());
        let vote = scheme.and_then(|scheme| Finalize::<Scheme, Digest>::sign(&scheme, proposal.clone()));
        vote.unwrap_or_else(|| panic!("a member does not vote"))
    };
    let votes = [0, 1, 2].map(vote);
    let votes = non_empty![@votes.iter()];
    must(Finalization::from_finalizes(&committee.verifier(), votes, &Sequential)).encode().to_vec()
}

/// Decodes the bytes as what the first one names.
pub fn check(bytes: &[u8]) {
    let mut cut = Cut::new(bytes);
    match cut.below(7) {
        0 => fuzz_frames(Checked(cut.rest())),
        1 => batch(cut.rest()),
        2 => block(cut.rest()),
        3 => {
            let operations = (0..cut.below(8)).map(|_| Bytes::copy_from_slice(cut.take(64)));
            built(operations.filter(|operation| !operation.is_empty()).collect(), cut.number());
        }
        4 => drop(bounded::<OrderProof>(cut.rest())),
        5 => certificate(cut.rest()),
        _ => proof(&mut cut),
    }
}

/// A batch is exactly a list of operations within their limits, and is sent on as the same batch.
fn batch(bytes: &[u8]) {
    let Some(operations) = gossip::decode(Bytes::copy_from_slice(bytes)) else { return };
    assert!(bytes.len() <= GOSSIP_BYTES && operations.len() <= BLOCK_OPERATIONS);
    assert!(operations.iter().all(|operation| (1..=OPERATION_LIMIT).contains(&operation.len())));
    assert_eq!(gossip::encode(operations), [bytes], "sent on");
}

/// A block that decodes agrees with its header, under the tree hash that proofs are checked with.
fn block(bytes: &[u8]) {
    let Ok(block) = Block::decode(Bytes::copy_from_slice(bytes)) else { return };
    assert_eq!(block.encode(), bytes, "encoded again");
    agrees(&block);
    if let Some((_, shorter)) = bytes.split_last() {
        assert!(Block::decode(Bytes::copy_from_slice(shorter)).is_err(), "a truncated block decodes");
    }
    assert!(
        Block::decode(Bytes::from([bytes, &[0]].concat())).is_err(),
        "a block with a byte behind it decodes"
    );
}

fn agrees(block: &Block) {
    let (header, operations) = (block.header(), block.operations());
    assert_eq!(header.count as usize, operations.len());
    let bytes: usize = operations.iter().map(Bytes::len).sum();
    assert!(operations.len() <= BLOCK_OPERATIONS && bytes <= BLOCK_BYTES);
    assert!(operations.iter().all(|operation| (1..=OPERATION_LIMIT).contains(&operation.len())));
    let mut tree = Frontier::<Sha256Tree>::default();
    operations.iter().for_each(|operation| tree.push(operation));
    assert_eq!(tree.root(), header.root, "two tree hashes");
    assert!(header.next_index() >= header.first_index);
}

/// What a leader builds, its followers read as the same block.
fn built(operations: Vec<Bytes>, first_index: u64) {
    let parent = Header { first_index, ..*TRUTH.blocks[1].header() };
    let block = Block::build(&parent, operations);
    assert_eq!(block.header().parent, parent.digest());
    agrees(&block);
    let bytes = block.encode();
    assert!(bytes.len() <= MAX_BLOCK);
    assert_eq!(must(Block::decode_cfg(bytes, &())), block);
}

/// Nothing but the true certificate is one.
fn certificate(bytes: &[u8]) {
    let truth = &*TRUTH;
    match finalized(&truth.committee, bytes) {
        Ok(digest) => {
            assert_eq!(digest, truth.blocks[1].header().digest(), "nobody finalized this");
            assert_eq!(bytes, truth.finalization, "a second certificate of the same votes");
        }
        Err(error) => assert!(bytes != truth.finalization, "the true certificate is refused: {error}"),
    }
}

/// Of all proofs the true ones hold, each for its operation at its index.
fn proof(cut: &mut Cut<'_>) {
    let truth = &*TRUTH;
    let at = cut.below(3);
    let index = if cut.byte() == 255 { cut.number() } else { FIRST + at as u64 };
    let operation = match cut.byte() {
        255 => cut.take(64),
        byte => truth.operation(FIRST + u64::from(byte % 3)).unwrap_or_default(),
    };
    let spoilt = match cut.byte() {
        255 => cut.rest().to_vec(),
        places => {
            let mut proof = truth.proofs[at].clone();
            for _ in 0..places % 4 {
                let place = usize::from(cut.word()) % proof.len();
                proof[place] = cut.byte();
            }
            proof
        }
    };
    let holds = truth.operation(index) == Some(operation)
        && truth.proofs.get((index - FIRST) as usize).is_some_and(|true_one| *true_one == spoilt);
    let verified = verify_order(&spoilt, &truth.group, index, operation);
    assert_eq!(verified.is_ok(), holds, "{verified:?} of {operation:?} at {index}");
}

/// What members send, the true proofs and what nearly is one.
pub fn seeds() -> Vec<Vec<u8>> {
    let truth = &*TRUTH;
    let with = |choice: u8, bytes: &[u8]| [&[choice][..], bytes].concat();
    let frame = |tag: u8, bytes: &[u8]| {
        let length = 8 + bytes.len() as u32;
        [&[tag][..], &length.to_le_bytes(), &7u64.to_le_bytes(), bytes].concat()
    };
    let operations: Vec<Bytes> = [&b"one"[..], b"two"].map(Bytes::from_static).to_vec();
    let mut seeds = vec![
        with(0, &(1..=6).flat_map(|tag| frame(tag, b"bytes")).collect::<Vec<u8>>()),
        with(1, &gossip::encode(operations).concat()),
        [vec![3, 3], framed(b"a"), framed(b"bc"), framed(b"def"), vec![9]].concat(),
        [vec![3, 2], framed(b"a"), framed(b"b"), vec![200]].concat(),
        with(5, &truth.finalization),
    ];
    seeds.extend(truth.blocks.iter().map(|block| with(2, &block.encode())));
    seeds.push(with(2, &Block::genesis(Header::genesis(3, &[1; 32], &[2; 32], u64::MAX)).encode()));
    for at in 0..3u8 {
        let proof = &truth.proofs[usize::from(at)];
        seeds.extend([with(4, proof), with(6, &[at, 0, at, 0]), with(6, &[at, 0, at, 1, 9, 0, 1])]);
        seeds.push([&[6, at, 0, at, 255][..], proof].concat());
    }
    seeds
}
