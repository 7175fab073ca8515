//! What a service provides.

use alloc::vec::Vec;

use quorate_attest::id::VmId;
use quorate_attest::key::PublicKey;

use crate::State;

/// An authentic request in its turn.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    /// Operation, numbered by the service; never [`TICK`](quorate_attest::service::TICK).
    pub op: u16,
    /// The service the request was signed for, [`ServiceId::instance`](quorate_attest::id::ServiceId::instance).
    pub instance: &'a VmId,
    /// Who signed the request.
    pub client: &'a PublicKey,
    /// The client's own number of the request; with instance and client it is never used twice.
    pub sequence: u64,
    /// Place in the service's log, from 1 on.
    pub number: u64,
    /// Service time, milliseconds since 1970; 0 until enough voters have told it. It never falls.
    pub time_ms: u64,
    /// Arguments, to be decoded strictly.
    pub body: &'a [u8],
}

/// A deterministic state machine whose whole state is a sorted map.
///
/// No clock, no randomness, no hash maps, no floats; nothing in a body may make it panic. An error leaves the state as it was.
pub trait Service {
    /// Checks the service's configuration and writes what the state begins with.
    ///
    /// # Errors
    /// One of [`status`](crate::status), commonly `BAD_CONFIG`.
    fn genesis(state: &mut State<'_>, config: &[u8]) -> Result<(), u16>;

    /// Executes a request and answers its result.
    ///
    /// # Errors
    /// One of [`status`](crate::status).
    fn apply(state: &mut State<'_>, call: &Call<'_>) -> Result<Vec<u8>, u16>;

    /// Service time has advanced: what was to end by now ends, a bounded number of things at a time. Changes over
    /// the budget of one request are not made.
    fn tick(state: &mut State<'_>, number: u64, time_ms: u64) {
        let _ = (state, number, time_ms);
    }
}
