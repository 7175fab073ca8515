//! Sources that alter pages after having announced their digests.

use quorate_host::conduct::Conduct;
use quorate_vmm::page_tree::Page;
use quorate_vmm::snapshot::PageSnapshot;

/// Flips one bit in the page in the middle of those that are streamed.
#[derive(Clone, Copy, Debug)]
pub struct FlipPage;

impl Conduct for FlipPage {
    fn alters_pages(&self) -> bool {
        true
    }

    fn page(&self, index: u32, page: &mut Page, state: &PageSnapshot) {
        let streamed: Vec<u32> = state.tree().nonzero().collect();
        if streamed.get(streamed.len() / 2) == Some(&index) {
            page[2048] ^= 1;
        }
    }
}

/// Streams two pages in each other's place: both are pages of the certified state, at the wrong address.
#[derive(Clone, Copy, Debug)]
pub struct SwapPages;

impl SwapPages {
    /// The first streamed page and the first one after it with another content.
    fn pair(state: &PageSnapshot) -> Option<(u32, u32)> {
        let mut streamed = state.tree().nonzero();
        let first = streamed.next()?;
        let other = streamed.find(|index| state.page(*index) != state.page(first))?;
        Some((first, other))
    }
}

impl Conduct for SwapPages {
    fn alters_pages(&self) -> bool {
        true
    }

    fn page(&self, index: u32, page: &mut Page, state: &PageSnapshot) {
        let Some((first, other)) = Self::pair(state) else { return };
        let instead = match index {
            _ if index == first => state.page(other),
            _ if index == other => state.page(first),
            _ => None,
        };
        if let Some(instead) = instead {
            page.copy_from_slice(instead);
        }
    }
}
