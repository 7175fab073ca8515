//! A running guest, and the outputs of one input.

use std::time::Duration;

use quorate_guest_images::GuestImage;
use quorate_vmm::page_tree::PageTree;
use quorate_vmm::{CrashReport, Delivery, Exit, Fork, Image, Machine, Measurement};

/// A guest that waits for its next input.
pub struct Guest {
    machine: Machine,
}

/// What an input led to.
#[derive(Debug, Default)]
pub struct Reaction {
    pub outputs: Vec<Vec<u8>>,
    pub console: Vec<String>,
    pub yields: u64,
    pub end: End,
}

#[derive(Debug, Default)]
pub enum End {
    #[default]
    Waiting,
    Finished(u64),
    Crashed(Box<CrashReport>),
}

impl Guest {
    pub fn boot(image: GuestImage, memory_bytes: u64) -> Self {
        let image = Image::admit(image.elf).expect("our own image");
        let mut machine = Machine::boot(&image, memory_bytes).expect("/dev/kvm is needed");
        machine.set_watchdog(Some(Duration::from_secs(5))).expect("a watchdog");
        let mut guest = Self { machine };
        assert!(matches!(guest.run().end, End::Waiting), "the guest did not come up");
        guest
    }

    /// Feeds one input and runs to the next wait or the end.
    pub fn feed(&mut self, input: &[u8]) -> Reaction {
        assert_eq!(self.machine.deliver(input).expect("the guest waits"), Delivery::Consumed);
        self.run()
    }

    pub fn measure(&mut self) -> Measurement {
        self.machine.measure().expect("a waiting guest").measurement
    }

    /// The pages as they are now.
    pub fn pages(&mut self) -> PageTree {
        self.measure();
        self.machine.page_tree().clone()
    }

    /// Asks a fork of the guest.
    pub fn query(&mut self, fork: &mut Fork, input: &[u8]) -> Vec<Vec<u8>> {
        fork.query(&mut self.machine, input).expect("an answer")
    }

    fn run(&mut self) -> Reaction {
        let mut reaction = Reaction::default();
        loop {
            match self.machine.run().expect("the machine runs") {
                Exit::WantsInput { .. } => return reaction,
                Exit::Output(output) => reaction.outputs.push(output),
                Exit::Log(line) => reaction.console.push(String::from_utf8_lossy(&line).into_owned()),
                Exit::Yielded => reaction.yields += 1,
                Exit::Finished { code } => return Reaction { end: End::Finished(code), ..reaction },
                Exit::Crashed(report) => return Reaction { end: End::Crashed(report), ..reaction },
            }
        }
    }
}
