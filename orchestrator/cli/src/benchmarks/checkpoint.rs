//! How long a guest stands still for a checkpoint, on the host's own VM thread.

use std::collections::VecDeque;
use std::hint::black_box;

use quorate_guest_images::STRESS;
use quorate_stress::{Command, Work};
use quorate_vmm::page_tree::PAGE_BYTES;
use quorate_vmm::snapshot::PageSnapshot;
use quorate_vmm::{Execution, Image};
use tokio::sync::mpsc;

use super::plain::incompressible;
use super::report::{Figure, Row};
use super::stats::{Samples, timed};
use super::{BenchError, Context};
use quorate_host::vm_thread::{SlotState, VmEvent, VmThread};

/// Checkpoints that a host keeps while its guest runs on; their pages are shared and must be copied before they change.
const KEPT: usize = 6;
/// Checkpoints before the first measured one: the machine chooses by experience how it finds dirty pages.
const WARM_UP: usize = 3;

pub(super) fn measure(context: &Context) -> Result<Figure, BenchError> {
    let memory_mib = context.effort.checkpoint_mib;
    let mut figure = Figure {
        title: format!("a stress guest of {memory_mib} MiB stands still for a checkpoint"),
        notes: vec![
            "the pause: Execution::cut, PageSnapshot::apply and Checkpoint::take on the host's VM thread"
                .into(),
            "100 % is the whole working set; text, tables and stack never change".into(),
        ],
        ..Figure::default()
    };
    for percent in [1, 10, 100] {
        let row = context.runtime.block_on(pauses(context, percent))?;
        figure.rows.push(if percent == 1 { row.aim_at_most(10.0) } else { row });
    }
    Ok(figure)
}

async fn pauses(context: &Context, percent: u64) -> Result<Row, BenchError> {
    let memory_bytes = context.effort.checkpoint_mib << 20;
    let set_bytes = memory_bytes - (16 << 20);
    let mut subject = Subject::start(memory_bytes, set_bytes, percent).await?;
    for _ in 0..WARM_UP {
        subject.step().await?;
    }
    let source = incompressible(memory_bytes as usize);
    let mut copy = incompressible(memory_bytes as usize);
    let (mut pauses, mut copies, mut pages) = (Samples::new(), Samples::new(), Samples::new());
    for _ in 0..context.effort.checkpoints {
        let (pause_ns, changed) = subject.step().await?;
        pauses.push_ns(pause_ns);
        pages.push(changed.len() as f64);
        let (took, ()) = timed(|| {
            for index in &changed {
                let at = *index as usize * PAGE_BYTES;
                copy[at..at + PAGE_BYTES].copy_from_slice(&source[at..at + PAGE_BYTES]);
            }
            black_box(&copy);
        });
        copies.push_ms(took);
    }
    let what = format!("pause, {percent} % dirty ({} pages)", pages.p50());
    Ok(Row::new(what, "ms", &pauses).against("memcpy of these pages", copies.p50()))
}

/// A stress guest on a VM thread.
struct Subject {
    thread: VmThread,
    events: mpsc::UnboundedReceiver<VmEvent>,
    kept: VecDeque<SlotState>,
    command: Command,
}

impl Subject {
    async fn start(memory_bytes: u64, set_bytes: u64, percent: u64) -> Result<Self, BenchError> {
        let image = Image::admit(STRESS.elf)?;
        let execution = Execution::genesis(&image, memory_bytes)?;
        let pages = PageSnapshot::genesis(&image, memory_bytes)?;
        let (sender, events) = mpsc::unbounded_channel();
        let thread = VmThread::spawn(execution, pages, sender)?;
        thread.run_on();
        let command = match percent {
            100 => Command::Fill { bytes: set_bytes, seed: 0 },
            _ => Command::Step { count: 1 },
        };
        let mut subject = Self { thread, events, kept: VecDeque::new(), command };
        let page_bytes = PAGE_BYTES as u64;
        let pages_per_step = draws(set_bytes / page_bytes, memory_bytes / page_bytes * percent / 100);
        let work = Work { working_set_bytes: set_bytes, pages_per_step, ..Work::default() };
        subject.ask(Command::Configure(work)).await?;
        subject.ask(Command::Fill { bytes: set_bytes, seed: 1 }).await?;
        let base = subject.thread.remote().cut().await?;
        let nonzero = base.checkpoint.pages.tree().nonzero().count() as u64;
        if nonzero < set_bytes / page_bytes {
            return Err(BenchError::unexpected("the working set does not fit into the guest"));
        }
        subject.kept.push_back(base);
        Ok(subject)
    }

    /// Lets the guest work, checkpoints it, and returns the pause and the pages that changed.
    async fn step(&mut self) -> Result<(u64, Vec<u32>), BenchError> {
        if let Command::Fill { seed, .. } = &mut self.command {
            *seed += 2;
        }
        self.ask(self.command.clone()).await?;
        let state = self.thread.remote().cut().await?;
        let tree = state.checkpoint.pages.tree();
        let changed =
            self.kept.back().map_or_else(Vec::new, |last| tree.difference(last.checkpoint.pages.tree()));
        let pause_ns = state.pause_ns;
        self.kept.push_back(state);
        while self.kept.len() > KEPT {
            self.kept.pop_front();
        }
        Ok((pause_ns, changed))
    }

    async fn ask(&mut self, command: Command) -> Result<(), BenchError> {
        self.thread.input(command.encode());
        loop {
            match self.events.recv().await {
                Some(VmEvent::Progress | VmEvent::SlotFull) => return Ok(()),
                Some(VmEvent::Log(_) | VmEvent::Output(_)) => {}
                Some(VmEvent::Ended(failure)) => return Err(failure.into()),
                None => return Err(BenchError::unexpected("the VM's thread ended")),
            }
        }
    }
}

/// How often one must draw from `set` pages, with repetition, to meet `wanted` different ones on average.
fn draws(set: u64, wanted: u64) -> u32 {
    let share = (wanted as f64 / set.max(1) as f64).min(0.999);
    (-(set as f64) * (1.0 - share).ln()).round() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_pages_are_drawn_than_are_wanted() {
        assert_eq!(draws(61_440, 0), 0);
        let few = draws(61_440, 655);
        assert!((656..670).contains(&few), "{few}");
        assert!((6_900..7_000).contains(&draws(61_440, 6_553)), "{}", draws(61_440, 6_553));
    }
}
