//! Hosts that lie about what the guest of a service has answered.

use quorate_attest::encoding::Bounded;
use quorate_attest::request::{Reply, status};
use quorate_attest::service::{Applied, Executed, Output};
use quorate_host::conduct::Conduct;

/// Turns every success of a service into a conflict. Two hosts that do so tell the same lie.
#[derive(Clone, Copy, Debug, Default)]
pub struct RefusedReplies;

impl Conduct for RefusedReplies {
    fn emitted(&self, output: Vec<u8>) -> Vec<u8> {
        altered(&output).unwrap_or(output)
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
