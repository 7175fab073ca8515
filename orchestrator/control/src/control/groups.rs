//! `ChangeGroup`.

use quorate_attest::VerifyError;
use quorate_attest::epoch::EpochLink;

use super::Control;
use crate::command::Which;
use crate::outcome::{Answer, Outcome};

impl Control {
    pub(super) fn change_group(&mut self, which: Which, link: EpochLink) -> Outcome {
        let epoch = link.config.epoch;
        if let Some((_, client)) = link.config.roles().find(|(_, key)| self.clients.contains_key(key)) {
            // What a key signed as a client must not count in another role.
            return Err(VerifyError::KeyRoleMismatch { role: "client", got: client }.into());
        }
        let chain = match which {
            Which::Orchestrators => &mut self.orchestrators,
            Which::Verifiers => &mut self.verifiers,
        };
        chain.advance(link)?;
        self.put_group(which);
        Ok(Answer::EpochBegun { which, epoch })
    }
}
