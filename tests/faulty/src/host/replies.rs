//! Hosts that lie about what the guest of a service has answered.

use std::sync::atomic::{AtomicU64, Ordering};

use quorate_attest::encoding::Bounded;
use quorate_attest::request::{Reply, status};
use quorate_attest::service::{Applied, Executed, Output};
use quorate_host::conduct::Conduct;

/// Turns every success of a service into a conflict, so many times. Two hosts that do so tell the same lie.
#[derive(Debug)]
pub struct RefusedReplies {
    left: AtomicU64,
}

impl RefusedReplies {
    /// Lies about so many outputs, and is honest then.
    pub fn times(count: u64) -> Self {
        Self { left: count.into() }
    }

    fn takes_one(&self) -> bool {
        let less = |left: u64| left.checked_sub(1);
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
    }
}

impl Conduct for RefusedReplies {
    fn emitted(&self, output: Vec<u8>) -> Vec<u8> {
        match altered(&output) {
            Some(lie) if lie != output && self.takes_one() => lie,
            _ => output,
        }
    }
}

fn altered(output: &[u8]) -> Option<Vec<u8>> {
    let wrapper = Reply::decoded(output).ok()?;
    let Output::Applied(Applied { first, mut executed }) = Output::decoded(&wrapper.body).ok()? else {
        return None;
    };
    // The creation of the service has no client.
    for (_, Executed { reply, .. }) in (first..).zip(&mut executed).filter(|(number, _)| *number > 0) {
        let told = Reply::decoded(reply).ok()?;
        if told.status == status::OK {
            *reply = Reply { status: status::CONFLICT, body: Vec::new(), ..told }.encoded();
        }
    }
    let body = Output::Applied(Applied { first, executed }).encoded();
    Some(Reply { body, ..wrapper }.encoded())
}
