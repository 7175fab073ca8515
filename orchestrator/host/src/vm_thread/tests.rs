//! The VM thread with a real machine. All of it needs /dev/kvm and fails without it.

use quorate_guest_images::STRESS;
use quorate_stress::{Command, Misbehaviour, Reply, Work};
use quorate_vmm::execution::OUTPUT_BYTES_PER_INTERVAL;
use quorate_vmm::image::Image;

use super::*;
use crate::protocol::{CALL_BYTES_MAX, QUERIED_OUTPUTS_MAX};

const MEMORY: u64 = 32 << 20;
const SEED: u64 = 0x0a5c_0001;

struct Subject {
    thread: VmThread,
    events: mpsc::UnboundedReceiver<VmEvent>,
}

impl Subject {
    fn spawn(immediate: bool) -> Self {
        let image = Image::admit(STRESS.elf).expect("the stress image is admissible");
        let execution = Execution::genesis(&image, MEMORY).expect("this test needs /dev/kvm");
        let pages = PageSnapshot::genesis(&image, MEMORY).unwrap();
        let (sender, events) = mpsc::unbounded_channel();
        let spawn = if immediate { VmThread::spawn_immediate } else { VmThread::spawn };
        Self { thread: spawn(execution, pages, sender).unwrap(), events }
    }

    fn running(immediate: bool) -> Self {
        let subject = Self::spawn(immediate);
        subject.thread.run_on();
        let work = Work { working_set_bytes: 1 << 20, pages_per_step: 20, ..Work::default() };
        subject.input(&Command::Configure(work));
        subject
    }

    fn input(&self, command: &Command) {
        assert!(self.thread.input(command.encode()));
    }

    fn ask(&self, command: &Command) -> Pending<Queried> {
        self.thread.query(command.encode()).expect("there is room")
    }

    async fn cut(&self) -> SlotState {
        self.thread.remote().cut().await.unwrap()
    }

    /// Outputs told until a fed input was worked off.
    async fn emitted(&mut self) -> Vec<Emitted> {
        let mut emitted = Vec::new();
        loop {
            match self.events.recv().await.expect("the thread lives") {
                VmEvent::Output(output) => emitted.push(output),
                VmEvent::Progress | VmEvent::SlotFull => return emitted,
                VmEvent::Log(_) => {}
                VmEvent::Ended(failure) => panic!("{failure}"),
            }
        }
    }
}

const STEP: Command = Command::Step { count: 1 };

/// Everything about a slot but how long it took.
fn certified_part(state: &SlotState) -> String {
    let SlotState { measurement, input_root, first_input, end_input, output_root, .. } = state;
    let pages = state.checkpoint.pages.tree().root();
    format!(
        "{measurement:?} {input_root:?} {first_input} {end_input} {output_root:?} {:?} {:?} {pages:?}",
        state.inputs, state.outputs
    )
}

#[tokio::test]
async fn outputs_of_an_immediate_vm_are_told_before_any_cut_and_stand_in_the_slot_as_before() {
    let (mut immediate, mut certified) = (Subject::running(true), Subject::running(false));
    assert_eq!(immediate.emitted().await.len(), 1, "the answer to the configuration");
    assert_eq!(certified.emitted().await, []);
    let mut since = 0;
    for (count, before) in [(3u32, 1u64), (1, 0), (4, 0)] {
        for subject in [&immediate, &certified] {
            subject.input(&Command::Emit { count, bytes: 10 });
        }
        let emitted = immediate.emitted().await;
        let indexes: Vec<_> = emitted.iter().map(|output| output.index).collect();
        assert_eq!(indexes, (before..before + u64::from(count)).collect::<Vec<_>>());
        assert!(emitted.iter().all(|output| output.since == since), "all of one slot: {emitted:?}");
        // A cut would not wait for the twin's input.
        assert_eq!(certified.emitted().await, []);
        let (state, twin) = (immediate.cut().await, certified.cut().await);
        assert_eq!(certified_part(&state), certified_part(&twin));
        let told: Vec<_> = emitted.into_iter().map(|output| output.bytes).collect();
        assert_eq!(told, state.outputs[before as usize..]);
        since = state.measurement.position.doorbells;
    }
}

#[tokio::test]
async fn output_is_told_while_the_guest_still_works_on_the_same_input() {
    let mut subject = Subject::running(true);
    subject.emitted().await;
    // More outputs than a slot takes: the guest is held back amid the input and waits for a cut.
    subject.input(&Command::Emit { count: 300, bytes: 262_144 });
    let full = OUTPUT_BYTES_PER_INTERVAL / 262_144;
    assert_eq!(subject.emitted().await.len(), full);
    assert_eq!(subject.cut().await.outputs.len(), full + 1);
}

#[tokio::test]
async fn vm_with_certified_outputs_tells_none_of_them() {
    let mut subject = Subject::running(false);
    subject.input(&Command::Emit { count: 5, bytes: 10 });
    for _ in 0..2 {
        assert_eq!(subject.emitted().await, []);
    }
    assert_eq!(subject.cut().await.outputs.len(), 6);
}

#[tokio::test]
async fn slots_of_a_vm_that_is_queried_are_those_of_a_twin_that_is_not() {
    let (asked, twin) = (Subject::running(true), Subject::running(true));
    let mut state = SEED;
    let mut random = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u32
    };
    let mut fed = 1;
    for round in 0..12u64 {
        let mut answers = Vec::new();
        for _ in 0..random() % 4 {
            let command = Command::Step { count: 1 + random() % 3 };
            for _ in 0..random() % 5 {
                answers.push(asked.ask(&Command::Step { count: 1 + random() % 4 }));
            }
            [&asked, &twin].into_iter().for_each(|subject| subject.input(&command));
            fed += 1;
        }
        answers.push(asked.ask(&Command::Misbehave(Misbehaviour::InvalidOpcode)));
        answers.push(asked.ask(&STEP));
        let mut crashes = 0;
        for answer in answers {
            match answer.await {
                Ok(queried) => assert_eq!(queried.outputs.len(), 1),
                Err(failure) => {
                    assert_eq!(failure.kind, "GuestTerminal", "{failure}");
                    crashes += 1;
                }
            }
        }
        assert_eq!(crashes, 1, "round {round} of seed {SEED:#x}");
        let slots = [slot_at(&asked, fed).await, slot_at(&twin, fed).await];
        assert_eq!(slots[0], slots[1], "round {round} of seed {SEED:#x}");
    }
}

/// The slot that ends when so many inputs, which are all, were consumed: a cut would not wait for them.
async fn slot_at(subject: &Subject, inputs: u64) -> String {
    while subject.ask(&STEP).await.unwrap().inputs < inputs {}
    certified_part(&subject.cut().await)
}

#[tokio::test]
async fn query_sees_all_inputs_that_were_worked_off_before_it_and_none_of_other_queries() {
    let mut subject = Subject::running(true);
    subject.emitted().await;
    for steps in 1..20 {
        subject.input(&STEP);
        subject.emitted().await;
        for _ in 0..2 {
            let queried = subject.ask(&STEP).await.unwrap();
            assert_eq!(queried.inputs, steps + 1, "the configuration and the steps");
            match Reply::decode(&queried.outputs[0]).unwrap() {
                Reply::Done { steps: done, .. } => assert_eq!(done, steps + 1),
                other => panic!("{other:?}"),
            }
        }
    }
}

#[tokio::test]
async fn queries_beyond_the_queue_are_refused_and_the_waiting_ones_are_answered() {
    let subject = Subject::spawn(true);
    let waiting: Vec<_> = (0..QUERIES_WAITING_MAX).map(|_| subject.ask(&STEP)).collect();
    assert!(subject.thread.query(STEP.encode()).is_none());
    subject.thread.run_on();
    for answer in waiting {
        assert_eq!(answer.await.unwrap().inputs, 0);
    }
    assert!(subject.thread.query(STEP.encode()).is_some());
}

#[tokio::test]
async fn frozen_vm_answers_no_query_and_its_slot_is_that_of_a_twin() {
    let (subject, twin) = (Subject::running(true), Subject::running(true));
    for subject in [&subject, &twin] {
        subject.ask(&STEP).await.unwrap();
        while subject.ask(&STEP).await.unwrap().inputs < 1 {}
    }
    let frozen = subject.thread.remote().freeze().await.unwrap();
    assert_eq!(certified_part(&frozen), certified_part(&twin.thread.remote().freeze().await.unwrap()));
    let waiting = subject.ask(&STEP);
    let again = subject.thread.remote().freeze();
    assert_eq!(waiting.await.unwrap_err().kind, VmFailure::STOPPED);
    again.await.unwrap();
    // The migration was given up: the VM runs on, and answers.
    subject.thread.run_on();
    assert_eq!(subject.ask(&STEP).await.unwrap().inputs, 1);
}

#[tokio::test]
async fn endless_or_too_talkative_query_is_stopped_and_the_vm_goes_on() {
    let mut subject = Subject::running(true);
    subject.emitted().await;
    let outputs = QUERIED_OUTPUTS_MAX as u32 + 1;
    let queries = [
        Command::Misbehave(Misbehaviour::Spin),
        Command::Emit { count: outputs, bytes: 1 },
        Command::Emit { count: 3, bytes: CALL_BYTES_MAX as u32 / 2 },
    ];
    for query in queries {
        assert_eq!(subject.ask(&query).await.unwrap_err().kind, "ResourceExhausted", "{query:?}");
        subject.input(&STEP);
        assert_eq!(subject.emitted().await.len(), 1);
    }
}

#[tokio::test]
async fn query_to_a_guest_that_has_ended_is_told_so() {
    let subject = Subject::running(true);
    subject.input(&Command::Exit { code: 3 });
    let failure = loop {
        match subject.ask(&STEP).await {
            Ok(_) => {}
            Err(failure) => break failure,
        }
    };
    assert_eq!(failure.kind, "GuestTerminal");
    assert!(failure.detail.contains("exited with code 3"), "{failure}");
}
