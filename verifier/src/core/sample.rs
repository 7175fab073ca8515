//! The SAMPLED mode: pages that the host could not foresee, with proofs against the proposed page root.

use quorate_attest::merkle::{Blake3Tree, TreeHash, verify_inclusion};
use quorate_vmm::page_tree::PAGE_BYTES;

use super::propose::Candidate;
use super::{Effect, Pending, Refusal, VmCore, send};
use crate::protocol::{Challenge, FromVerifier, Pages, ProvenPage};

impl VmCore {
    pub(super) fn draw(&mut self, candidate: Candidate) -> Vec<Effect> {
        let page_count = candidate.statement().body.page_count;
        self.pending = Pending::Draw(Box::new(candidate));
        vec![Effect::Draw { page_count, count: self.context.sample_pages }]
    }

    pub(super) fn challenge(&mut self, candidate: Box<Candidate>, pages: Vec<u32>) -> Vec<Effect> {
        assert!(pages.windows(2).all(|pair| pair[0] < pair[1]), "drawn pages ascend");
        self.pending = Pending::Pages { candidate, asked: pages.clone() };
        vec![send(FromVerifier::Challenge(Challenge { pages }))]
    }

    pub(super) fn proven(
        &mut self,
        now: u64,
        candidate: Candidate,
        asked: &[u32],
        answer: &Pages,
    ) -> Result<Vec<Effect>, Refusal> {
        let body = &candidate.statement().body;
        if answer.pages.len() != asked.len() {
            let page = asked.get(answer.pages.len()).or(asked.last()).copied().unwrap_or_default();
            return Err(Refusal::ProofInvalid { page, reason: "another number of pages" });
        }
        for (page, index) in answer.pages.iter().zip(asked) {
            check_page(page, *index, body.page_count, body.page_root.as_bytes())?;
        }
        Ok(self.attest(now, candidate))
    }
}

fn check_page(page: &ProvenPage, asked: u32, count: u64, root: &[u8; 32]) -> Result<(), Refusal> {
    if page.index != asked {
        return Err(Refusal::ProofInvalid { page: asked, reason: "another page" });
    }
    if page.bytes.len() != PAGE_BYTES {
        return Err(Refusal::ProofInvalid { page: asked, reason: "not 4096 bytes" });
    }
    let leaf = Blake3Tree::leaf(&page.bytes);
    verify_inclusion::<Blake3Tree>(&leaf, u64::from(asked), count, &page.proof, root)
        .map_err(|error| Refusal::proof(asked, error))
}
