//! The operations behind the doorbell. Nothing a guest puts into the mailbox can make the VMM touch memory the guest
//! itself could not touch in the same way; every refusal is a result, and results are part of the execution.

use quorate_guest_abi::{DOORBELL, INPUT_BYTES_MAX, MAILBOX, Operation, OperationError, Span, mailbox};

use super::{Delivery, Exit, Machine, MachineError};
use crate::device::Pending;

impl Machine {
    /// Serves one completed ring. `None`: the operation was refused and the guest may go on.
    pub(super) fn serve(&mut self, value: u64) -> Result<Option<Exit>, MachineError> {
        self.device.doorbells += 1;
        let (operation, argument) = match self.parse_ring(value)? {
            Ok(parsed) => parsed,
            Err(refusal) => {
                self.set_result(refusal.code())?;
                return Ok(None);
            }
        };
        let exit = match operation {
            Operation::Recv => {
                self.device.pending = Pending::Recv;
                self.buffer = Some(argument);
                return Ok(Some(Exit::WantsInput { capacity: argument.length() as u32 }));
            }
            Operation::Exit => {
                let code = argument.start();
                self.device.exited = Some(code);
                return Ok(Some(Exit::Finished { code }));
            }
            Operation::Send => Exit::Output(self.copy_out(argument)?),
            Operation::Log => Exit::Log(self.copy_out(argument)?),
            Operation::Yield => Exit::Yielded,
        };
        self.set_result(0)?;
        Ok(Some(exit))
    }

    /// The operation and its range (for `Exit`, an empty one at the exit code), checked in the order the ABI states.
    fn parse_ring(&self, value: u64) -> Result<Result<(Operation, Span), OperationError>, MachineError> {
        let word = |offset| self.memory.read_word(MAILBOX + offset);
        let (named, pointer, length) =
            (word(mailbox::OPERATION)?, word(mailbox::POINTER)?, word(mailbox::LENGTH)?);
        Ok(self.check_ring(value, named, pointer, length))
    }

    fn check_ring(
        &self,
        value: u64,
        named: u64,
        pointer: u64,
        length: u64,
    ) -> Result<(Operation, Span), OperationError> {
        let operation = Operation::from_number(value)
            .filter(|_| named == value)
            .ok_or(OperationError::UnknownOperation)?;
        let Some(limit) = operation.limit() else {
            return Span::new(pointer, 0).map(|span| (operation, span)).ok_or(OperationError::Fault);
        };
        if length > limit {
            return Err(OperationError::TooLarge);
        }
        let span = Span::new(pointer, length).ok_or(OperationError::Fault)?;
        let allowed = match operation {
            Operation::Recv => self.map.may_write(span),
            _ => self.map.may_read(span),
        };
        if allowed { Ok((operation, span)) } else { Err(OperationError::Fault) }
    }

    /// The buffer of the receive that a resumed machine is blocked in.
    pub(super) fn pending_buffer(&self) -> Result<Span, MachineError> {
        match self.parse_ring(Operation::Recv.number())? {
            Ok((_, span)) => Ok(span),
            Err(refusal) => {
                let text = format!("the state waits for an input, but its mailbox does not: {refusal}");
                Err(MachineError::Inconsistent(text))
            }
        }
    }

    fn copy_out(&self, span: Span) -> Result<Vec<u8>, MachineError> {
        let mut bytes = vec![0; span.length() as usize];
        if !span.is_empty() {
            self.memory.read(span.start(), &mut bytes)?;
        }
        Ok(bytes)
    }

    /// Hands the guest the next input. Only valid after [`Exit::WantsInput`].
    ///
    /// An input longer than the guest's buffer is refused: the guest finds `INPUT_TOO_LARGE` and the length needed,
    /// and the same input must be delivered when it asks again. Between the two nothing may be certified, because the
    /// guest already knows a length that no input log contains.
    pub fn deliver(&mut self, input: &[u8]) -> Result<Delivery, MachineError> {
        let buffer = self.buffer.ok_or(MachineError::NotWaiting)?;
        if input.len() as u64 > INPUT_BYTES_MAX {
            return Err(MachineError::InputOversize { bytes: input.len() });
        }
        let fits = input.len() as u64 <= buffer.length();
        if fits {
            self.write_guest(buffer.start(), input)?;
            self.set_result(input.len() as i64)?;
            self.device.inputs += 1;
        } else {
            self.write_guest(MAILBOX + mailbox::POINTER, &(input.len() as u64).to_le_bytes())?;
            self.set_result(OperationError::InputTooLarge.code())?;
        }
        self.device.pending = Pending::None;
        self.buffer = None;
        Ok(if fits { Delivery::Consumed } else { Delivery::Refused })
    }

    fn set_result(&mut self, result: i64) -> Result<(), MachineError> {
        self.write_guest(MAILBOX + mailbox::RESULT, &result.to_le_bytes())
    }

    /// Writes on the guest's behalf, and notes it: KVM's log does not see what the VMM writes.
    fn write_guest(&mut self, address: u64, bytes: &[u8]) -> Result<(), MachineError> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.memory.write(address, bytes)?;
        self.dirty.touch(address, bytes.len());
        Ok(())
    }
}

const _: () = assert!(DOORBELL >= quorate_guest_abi::MEMORY_BYTES_MAX, "a ring must leave the guest");
