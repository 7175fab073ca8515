//! Hashing of memory as the page tree does it.

use std::hint::black_box;

use quorate_vmm::page_tree::{Digest, Page, PageTree, hash_page};

use super::Context;
use super::plain::incompressible;
use super::report::{Figure, Row};
use super::stats::{Samples, timed};

pub(super) fn measure(context: &Context) -> Figure {
    let bytes = incompressible(context.effort.hashing_mib << 20);
    let pages: &[Page] = bytes.as_chunks().0;
    let gigabytes = bytes.len() as f64 / 1e9;
    let rate = |samples: &mut Samples, work: &mut dyn FnMut()| {
        samples.push(gigabytes / timed(work).0.as_secs_f64());
    };
    let [mut plain, mut one, mut two, mut tree] = std::array::from_fn(|_| Samples::new());
    for _ in 0..context.effort.hashing_rounds {
        rate(&mut plain, &mut || {
            for page in pages {
                black_box(blake3::hash(black_box(page)));
            }
        });
        rate(&mut one, &mut || drop(black_box(leaves(pages))));
        rate(&mut two, &mut || drop(black_box(leaves_on_two_threads(pages))));
        rate(&mut tree, &mut || {
            black_box(PageTree::from_leaves(&leaves_on_two_threads(pages)).root());
        });
    }
    let against = |what: &str, samples: &Samples| {
        Row::new(what, "GB/s", samples).against("BLAKE3 of 4 KiB buffers", plain.p50())
    };
    Figure {
        title: format!("{} MiB of incompressible pages", context.effort.hashing_mib),
        rows: vec![
            against("page leaves, 1 thread", &one),
            against("page leaves, 2 threads", &two),
            against("leaves on 2 threads and all nodes above", &tree),
        ],
        notes: vec!["rates: p50 is the median, p99 the fastest round; the baseline runs on 1 thread".into()],
        ..Figure::default()
    }
}

fn leaves(pages: &[Page]) -> Vec<Digest> {
    pages.iter().map(hash_page).collect()
}

/// As `GuestMemory::hash_pages` divides its work.
fn leaves_on_two_threads(pages: &[Page]) -> Vec<Digest> {
    let (ours, theirs) = pages.split_at(pages.len() / 2);
    std::thread::scope(|scope| {
        let helper = scope.spawn(|| leaves(theirs));
        let mut all = leaves(ours);
        all.extend(helper.join().unwrap_or_default());
        all
    })
}
