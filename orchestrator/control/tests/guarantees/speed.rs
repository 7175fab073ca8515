//! How the cost of an entry grows. Prints figures of this run and asserts none.

use std::time::Instant;

use crate::world::*;
use quorate_attest::encoding::Bounded;
use quorate_attest::id::*;
use quorate_attest::operation::Operation;
use quorate_control::*;

#[test]
fn test_print_operations_a_second_by_size_of_the_registry() {
    for vms in [16u16, 1024, 8192] {
        let mut log = Log::new();
        let submissions: Vec<Submission> = (0..vms)
            .map(|number| {
                let command = Command::CreateVm { spec: spec(&format!("vm-{number}"), 0) };
                let operation =
                    Operation::new(&operator(0), log.control.group(), Nonce::ZERO, command.encoded());
                Submission::read(&operation.encoded(), &log.control.group())
            })
            .collect();
        let started = Instant::now();
        for (index, submission) in submissions.iter().enumerate() {
            assert!(log.control.apply_submission(index as u64, submission).result.is_ok());
            log.control.commitment();
        }
        let created = f64::from(vms) / started.elapsed().as_secs_f64();
        let ids: Vec<VmId> = log.control.vms().map(|(id, _)| *id).collect();
        let mut begins = Vec::new();
        for id in ids.iter().take(1000) {
            let command =
                Command::Begin { vm: *id, destination: host(1).public(), generation: Generation(1) };
            let operation = Operation::new(&operator(0), log.control.group(), Nonce::ZERO, command.encoded());
            begins.push(Submission::read(&operation.encoded(), &log.control.group()));
        }
        let started = Instant::now();
        for submission in &begins {
            assert!(log.control.apply_submission(99, submission).result.is_ok());
            log.control.commitment();
        }
        let begun = begins.len() as f64 / started.elapsed().as_secs_f64();
        println!("{vms} VMs: {created:.0} CreateVm/s, {begun:.0} Begin/s, without signatures");
    }
}
