//! Boot of a guest to its first doorbell, and its end.

use quorate_guest_images::KV;
use quorate_vmm::bare::BareMachine;
use quorate_vmm::{Image, Machine, MachineError};

use super::report::{Figure, Row};
use super::stats::{Samples, timed};
use super::{BenchError, Context};

const MEMORY_BYTES: u64 = 64 << 20;

pub(super) fn measure(context: &Context) -> Result<Figure, BenchError> {
    let (admission, image) = timed(|| Image::admit(KV.elf));
    let image = image?;
    let (mut up, mut down) = (Samples::new(), Samples::new());
    let (mut bare_up, mut bare_down) = (Samples::new(), Samples::new());
    for _ in 0..context.effort.boots {
        let (took, bare) = timed(|| BareMachine::create(MEMORY_BYTES));
        let bare = bare?;
        bare_up.push_ms(took);
        bare_down.push_ms(timed(|| drop(bare)).0);
        let (took, machine) = timed(|| boot(&image));
        let machine = machine?;
        up.push_ms(took);
        down.push_ms(timed(|| drop(machine)).0);
    }
    let mut admitted = Samples::new();
    admitted.push_ms(admission);
    Ok(Figure {
        title: "a kv guest of 64 MiB to its first doorbell".into(),
        rows: vec![
            Row::new("boot", "ms", &up).against("VM, vCPU and slot alone", bare_up.p50()).aim_at_most(2.0),
            Row::new("teardown", "ms", &down).against("of the same", bare_down.p50()),
            Row::new("admission of the image", "ms", &admitted),
        ],
        notes: vec!["an image is admitted once, however often it is booted".into()],
        ..Figure::default()
    })
}

fn boot(image: &Image) -> Result<Machine, MachineError> {
    let mut machine = Machine::boot(image, MEMORY_BYTES)?;
    machine.run()?;
    Ok(machine)
}
