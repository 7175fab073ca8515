//! Recording and replaying. All of it needs /dev/kvm and fails without it.

use super::*;
use crate::cpu::CpuState;
use crate::device::DeviceState;
use crate::incoming::IncomingMachine;
use crate::measurement::Measurement;
use crate::tests::fixture::process::{answer, ask_child, payload, under_signals};
use crate::tests::fixture::{KVM_NEEDED, MEMORY, command, ring_input, work_input, worker};

fn genesis() -> Execution {
    Execution::genesis(&worker(), MEMORY).expect(KVM_NEEDED)
}

/// Runs to the next idle stop, feeding nothing.
fn to_idle(execution: &mut Execution) {
    loop {
        match execution.run().unwrap() {
            Stop::Idle => return,
            Stop::Yielded => {}
            other => panic!("{other:?}"),
        }
    }
}

fn feed_all(execution: &mut Execution, inputs: &[Vec<u8>]) {
    for input in inputs {
        to_idle(execution);
        execution.feed(input.clone()).unwrap();
    }
    to_idle(execution);
}

/// Requests of floating-point, vector, x87 and memory work, with yields and arbitrary rings in between.
fn requests(seed: u64, count: u64) -> Vec<Vec<u8>> {
    let mut state = seed;
    let mut next = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state >> 16
    };
    (0..count)
        .map(|_| match next() % 16 {
            0 => vec![command::YIELD],
            1 => ring_input(next() % 2 * 8 + 1, [next(), next(), next()]),
            _ => work_input(next(), 1 + next() % 40),
        })
        .collect()
}

/// Everything two executions can differ in, as text.
fn fingerprint(cut: &Cut) -> String {
    format!("{:?} {} {} {}", cut.pages.measurement, cut.input_root, cut.output_root, cut.outputs.len())
}

fn copy_of(machine: &mut Machine, measurement: &Measurement) -> Machine {
    let leaves = machine.page_tree().leaves().copied().collect();
    let mut incoming = IncomingMachine::new(machine.memory_bytes(), leaves, measurement).unwrap();
    let wanted: Vec<u32> = incoming.wanted().collect();
    for index in wanted {
        incoming.write_page(index, &machine.read_page(index)[..]).unwrap();
    }
    let cpu = CpuState::decode(&machine.cpu_state().unwrap().encode()).unwrap();
    let device = DeviceState::decode(&machine.device_state().encode()).unwrap();
    incoming.finish(&worker(), &cpu, &device).unwrap()
}

const SEED: u64 = 0x5eed_0001;
const REQUESTS: u64 = 10_000;

#[test]
fn two_runs_and_a_replay_in_another_process_agree_over_ten_thousand_requests_under_signals() {
    let inputs = requests(SEED, REQUESTS);
    if let Some(until) = payload() {
        let (consumed, doorbells) = until.split_once(' ').unwrap();
        let until = Position { inputs: consumed.parse().unwrap(), doorbells: doorbells.parse().unwrap() };
        let mut execution = genesis();
        under_signals(3, || execution.replay(&inputs, until).unwrap());
        answer(&fingerprint(&execution.cut().unwrap()));
        return;
    }
    let mut quiet = genesis();
    feed_all(&mut quiet, &inputs);
    let quiet = quiet.cut().unwrap();
    // The second run is interrupted all the time, and measured now and then, by the log and by rehashing.
    let mut disturbed = genesis();
    let mut outputs = Vec::new();
    let last = under_signals(SEED, || {
        for chunk in inputs.chunks(2_500) {
            feed_all(&mut disturbed, chunk);
            outputs.push(disturbed.cut().unwrap());
        }
        outputs.pop().unwrap()
    });
    assert_eq!(last.pages.measurement, quiet.pages.measurement, "seed {SEED:#x}");
    assert_eq!(last.input_root, quiet.input_root);
    let all: Vec<_> = outputs.iter().chain([&last]).flat_map(|cut| cut.outputs.clone()).collect();
    assert_eq!(all, quiet.outputs);
    let position = quiet.pages.measurement.position;
    let name = concat!(
        module_path!(),
        "::two_runs_and_a_replay_in_another_process_agree_over_ten_thousand_requests_under_signals"
    );
    let child =
        ask_child(name.split_once("::").unwrap().1, &format!("{} {}", position.inputs, position.doorbells));
    assert_eq!(child, fingerprint(&quiet), "seed {SEED:#x}");
}

/// A state as it travels in the next test: lengths and bytes of CPU, device and log, then numbered pages.
fn write_state(path: &std::path::Path, machine: &mut Machine, log: &Frontier<Sha256Tree>) {
    let parts = [
        machine.cpu_state().unwrap().encode(),
        machine.device_state().encode(),
        quorate_attest::encoding::to_bytes(log),
    ];
    let mut file = Vec::new();
    for part in parts {
        file.extend_from_slice(&(part.len() as u32).to_le_bytes());
        file.extend_from_slice(&part);
    }
    for index in machine.page_tree().nonzero() {
        file.extend_from_slice(&index.to_le_bytes());
        file.extend_from_slice(&machine.read_page(index)[..]);
    }
    std::fs::write(path, file).unwrap();
}

fn read_state(path: &str, measurement: &Measurement) -> Execution {
    let file = std::fs::read(path).unwrap();
    let mut rest = &file[..];
    let mut take = |length: usize| {
        let (part, tail) = rest.split_at(length);
        rest = tail;
        part
    };
    let mut part = || {
        let length = u32::from_le_bytes(take(4).try_into().unwrap()) as usize;
        take(length)
    };
    let cpu = CpuState::decode(part()).unwrap();
    let device = DeviceState::decode(part()).unwrap();
    let log = quorate_attest::encoding::from_bytes(part(), 1 << 16).unwrap();
    let pages: Vec<(u32, &[u8])> = rest
        .chunks_exact(4100)
        .map(|page| (u32::from_le_bytes(page[..4].try_into().unwrap()), &page[4..]))
        .collect();
    let mut leaves = vec![crate::page_tree::ZERO_LEAF; measurement.page_count as usize];
    for (index, page) in &pages {
        leaves[*index as usize] = crate::page_tree::hash_page((*page).try_into().unwrap());
    }
    let mut incoming = IncomingMachine::new(MEMORY, leaves, measurement).unwrap();
    for (index, page) in pages {
        incoming.write_page(index, page).unwrap();
    }
    Execution::resume_at(incoming.finish(&worker(), &cpu, &device).unwrap(), log).unwrap()
}

#[test]
fn state_restored_in_this_and_in_another_process_continues_to_the_same_digests() {
    let inputs = requests(11, 400);
    let (first, second) = inputs.split_at(150);
    let mut execution = genesis();
    feed_all(&mut execution, first);
    let middle = execution.cut().unwrap();
    if let Some(path) = payload() {
        let mut restored = read_state(&path, &middle.pages.measurement);
        feed_all(&mut restored, second);
        answer(&fingerprint(&restored.cut().unwrap()));
        return;
    }
    let copy = copy_of(&mut execution.machine, &middle.pages.measurement);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state");
    write_state(&path, &mut execution.machine, &execution.log);
    let mut restored = Execution::resume_at(copy, execution.log.clone()).unwrap();
    assert_eq!(restored.machine.measure().unwrap().measurement, middle.pages.measurement);
    feed_all(&mut execution, second);
    let end = execution.cut().unwrap();
    restored.replay(second, end.pages.measurement.position).unwrap();
    assert_eq!(fingerprint(&restored.cut().unwrap()), fingerprint(&end));
    let name =
        "execution::tests::state_restored_in_this_and_in_another_process_continues_to_the_same_digests";
    assert_eq!(ask_child(name, path.to_str().unwrap()), fingerprint(&end));
}

/// Records `inputs` from genesis and cuts behind every ring and every delivery: all positions of the execution.
fn all_cuts(inputs: &[Vec<u8>]) -> Vec<Cut> {
    let mut execution = genesis();
    let mut inputs = inputs.iter();
    let mut cuts = vec![execution.cut().unwrap()];
    loop {
        match execution.step().unwrap() {
            Step::Stopped(Stop::Idle)
                if execution.position() == cuts[cuts.len() - 1].pages.measurement.position =>
            {
                let Some(input) = inputs.next() else { return cuts };
                execution.feed(input.clone()).unwrap();
            }
            Step::Stopped(Stop::Finished { .. }) => return cuts,
            _ => {}
        }
        cuts.push(execution.cut().unwrap());
    }
}

#[test]
fn every_position_can_be_cut_and_reached_by_replay_exactly() {
    let inputs: Vec<_> =
        [work_input(1, 5), vec![command::YIELD], ring_input(3, [3, 0x40_0000, 9]), ring_input(8, [8, 0, 0])]
            .into_iter()
            .chain(requests(5, 6))
            .collect();
    let cuts = all_cuts(&inputs);
    assert!(cuts.len() > 25, "{} positions", cuts.len());
    for cut in &cuts {
        let until = cut.pages.measurement.position;
        let mut replayed = genesis();
        replayed.replay(&inputs[..until.inputs as usize], until).unwrap();
        let again = replayed.cut().unwrap();
        assert_eq!(again.pages.measurement, cut.pages.measurement, "{until}");
        assert_eq!(again.input_root, cut.input_root);
    }
    // From any position to any later one.
    let (from, until) = (&cuts[7], &cuts[cuts.len() - 2]);
    let (start, end) = (from.pages.measurement.position, until.pages.measurement.position);
    let mut execution = genesis();
    execution.replay(&inputs[..start.inputs as usize], start).unwrap();
    execution.cut().unwrap();
    execution.replay(&inputs[start.inputs as usize..end.inputs as usize], end).unwrap();
    let interval = execution.cut().unwrap();
    assert_eq!(interval.pages.measurement, until.pages.measurement);
    assert_eq!((interval.first_input, interval.end_input), (start.inputs, end.inputs));
    assert_eq!(interval.inputs, inputs[start.inputs as usize..end.inputs as usize]);
}

#[test]
fn replay_refuses_truncated_extended_and_altered_logs_and_wrong_end_positions() {
    let inputs = requests(21, 12);
    let mut execution = genesis();
    feed_all(&mut execution, &inputs);
    let cut = execution.cut().unwrap();
    let end = cut.pages.measurement.position;
    for length in 0..inputs.len() {
        let error = genesis().replay(&inputs[..length], end).unwrap_err();
        assert!(
            matches!(error, ReplayError::LogTruncated { want: 12, got } if got == length as u64),
            "{error}"
        );
    }
    let longer = [&inputs[..], &[vec![0]]].concat();
    assert_eq!(genesis().replay(&longer, end).unwrap_err().kind(), "LogTrailingRecords");
    // One ring earlier would be the last answer, a position of its own; none of these is one.
    for offset in [1, 1000, -5, i64::MIN] {
        let until = Position { doorbells: end.doorbells.saturating_add_signed(offset), ..end };
        let error = genesis().replay(&inputs, until).unwrap_err();
        assert_eq!(error.kind(), "ReplayDivergence", "{until}: {error}");
    }
    let mut altered = inputs.clone();
    altered.iter_mut().rfind(|input| input[0] == command::WORK).unwrap()[9] ^= 1;
    let mut other = genesis();
    other.replay(&altered, end).unwrap();
    let other = other.cut().unwrap();
    assert_ne!(other.pages.measurement.page_root, cut.pages.measurement.page_root);
    assert_ne!((other.input_root, other.output_root), (cut.input_root, cut.output_root));
    let mut swapped = inputs.clone();
    swapped.swap(0, 1);
    let mut other = genesis();
    if other.replay(&swapped, end).is_ok() {
        assert_ne!(fingerprint(&other.cut().unwrap()), fingerprint(&cut));
    }
    // A position before the start.
    let mut late = genesis();
    late.replay(&inputs, end).unwrap();
    assert_eq!(late.replay(&[], Position { inputs: 1, ..end }).unwrap_err().kind(), "ReplayDivergence");
}

#[test]
fn guest_that_ends_before_the_transition_does_is_terminal() {
    let until = Position { inputs: 1, doorbells: 50 };
    for (input, kind) in [(vec![command::UD2], "Exception"), (vec![], "Finished")] {
        let error = genesis().replay(&[input], until).unwrap_err();
        assert!(matches!(error, ReplayError::GuestTerminal { kind: got } if got == kind), "{error}");
    }
    // The exit itself is a position like any other.
    let mut finished = genesis();
    finished.replay(&[vec![]], Position { inputs: 1, doorbells: 2 }).unwrap();
    assert_eq!(finished.run().unwrap(), Stop::Finished { code: 0 });
    assert_eq!(finished.cut().unwrap().end_input, 1);
}

#[test]
fn input_refused_by_a_small_buffer_is_not_certified_before_it_is_consumed() {
    let inputs = vec![vec![command::SMALL_RECV], vec![command::YIELD; 9]];
    let mut execution = genesis();
    feed_all(&mut execution, &inputs[..1]);
    assert_eq!(execution.input_log().size(), 1);
    execution.feed(inputs[1].clone()).unwrap();
    assert!(matches!(execution.cut(), Err(ExecutionError::InputOutstanding)));
    assert_eq!(execution.input_log().size(), 1);
    // The guest reports the refusal and asks again; the same input is delivered without being fed twice.
    to_idle(&mut execution);
    let cut = execution.cut().unwrap();
    assert_eq!((cut.end_input, &cut.inputs), (2, &inputs));
    assert_eq!(cut.outputs[0][..8], (-4i64).to_le_bytes());
    let mut replayed = genesis();
    replayed.replay(&inputs, cut.pages.measurement.position).unwrap();
    assert_eq!(fingerprint(&replayed.cut().unwrap()), fingerprint(&cut));
}

#[test]
fn flood_of_outputs_and_log_lines_stays_bounded() {
    let mut flood = vec![command::CHATTER, 0, 0, 0, 0, 0, 0, 0];
    flood.extend_from_slice(&300u64.to_le_bytes());
    flood.extend_from_slice(&262_144u64.to_le_bytes());
    let mut execution = genesis();
    to_idle(&mut execution);
    execution.feed(flood).unwrap();
    assert_eq!(execution.run().unwrap(), Stop::Full);
    assert_eq!(execution.run().unwrap(), Stop::Full, "the guest does not run on before the cut");
    assert_eq!(execution.cut().unwrap().outputs.len(), OUTPUT_BYTES_PER_INTERVAL / 262_144);
    to_idle(&mut execution);
    assert_eq!(execution.cut().unwrap().outputs.len(), 300 - OUTPUT_BYTES_PER_INTERVAL / 262_144);

    let mut console = Console::default();
    (0..20_000u32).for_each(|line| console.push(line.to_le_bytes().to_vec()));
    assert!(console.bytes <= CONSOLE_BYTES && console.dropped_bytes > 0);
    assert_eq!(console.lines.back().unwrap(), &19_999u32.to_le_bytes());
}

#[test]
fn run_that_comes_back_after_each_output_is_the_same_execution() {
    let mut chatter = vec![command::CHATTER, 0, 0, 0, 0, 0, 0, 0];
    chatter.extend_from_slice(&5u64.to_le_bytes());
    chatter.extend_from_slice(&100u64.to_le_bytes());
    let (mut whole, mut stepwise) = (genesis(), genesis());
    feed_all(&mut whole, std::slice::from_ref(&chatter));
    to_idle(&mut stepwise);
    stepwise.feed(chatter).unwrap();
    for known in 1..=5 {
        assert_eq!(stepwise.run_to_output().unwrap(), None);
        assert_eq!(stepwise.outputs().len(), known, "one more, and no further");
    }
    assert_eq!(stepwise.run_to_output().unwrap(), Some(Stop::Idle));
    assert_eq!(stepwise.cut().unwrap(), whole.cut().unwrap());
    assert!(stepwise.outputs().is_empty());
}

#[test]
fn log_that_does_not_end_where_the_machine_stands_is_refused() {
    let mut log = Frontier::new();
    log.push(b"an input");
    let machine = Machine::boot(&worker(), MEMORY).expect(KVM_NEEDED);
    let error = Execution::resume_at(machine, log).unwrap_err();
    assert!(matches!(error, ExecutionError::LogPosition { log: 1, machine: 0 }));
}
