//! `RegisterClient` and `RevokeClient`.

use quorate_attest::VerifyError;
use quorate_attest::key::PublicKey;

use super::{Control, Entry};
use crate::command::Quota;
use crate::outcome::{Answer, Failure, Outcome};
use crate::state::{CLIENTS_LIMIT, Client, TOMBSTONES_LIMIT, client_key};

impl Control {
    pub(super) fn register_client(&mut self, key: PublicKey, quota: Quota, revision: u64) -> Outcome {
        let roles = self.orchestrators.current().roles().chain(self.verifiers.current().roles());
        if roles.into_iter().any(|(_, known)| known == key) {
            // What a key signs in one role must not count in another.
            return Err(VerifyError::KeyRoleMismatch { role: "client", got: key }.into());
        }
        let known = self.clients.get(&key).copied();
        match known {
            Some(Client { revoked: Some(index), .. }) => {
                let text = format!("client key {key} was revoked at log index {index}");
                return Err(Failure { kind: "KeyRevoked".into(), ..Failure::conflict(text) });
            }
            Some(client) if client.revision == revision && client.quota == quota => {
                return Ok(Answer::Registered { key, revision });
            }
            _ => {}
        }
        let next = known.map_or(Some(0), |client| client.revision.checked_add(1));
        if next != Some(revision) {
            let next = next.map_or("none".into(), |next| next.to_string());
            return Err(Failure::conflict(format!("next revision of the quota is {next}, not {revision}")));
        }
        if known.is_none() && self.clients.len() - self.revoked_order.len() >= CLIENTS_LIMIT {
            return Err(Failure::limit(format!("there are {CLIENTS_LIMIT} clients")));
        }
        let (window, used) = known.map_or((0, 0), |client| (client.window, client.used));
        self.put_client(key, Client { quota, revision, revoked: None, window, used });
        Ok(Answer::Registered { key, revision })
    }

    pub(super) fn revoke_client(&mut self, entry: Entry, key: PublicKey) -> Outcome {
        let Some(client) = self.clients.get(&key).copied() else {
            return Err(Failure::not_found(format!("key {key} is no client")));
        };
        if client.revoked.is_none() {
            self.put_client(key, Client { revoked: Some(entry.index), ..client });
            self.revoked_order.insert((entry.index, key));
            if self.revoked_order.len() > TOMBSTONES_LIMIT
                && let Some((_, oldest)) = self.revoked_order.pop_first()
            {
                self.clients.remove(&oldest);
                self.map.remove(&client_key(&oldest));
            }
        }
        Ok(Answer::Revoked { key })
    }

    /// Takes a client of a snapshot into the quick forms.
    pub(crate) fn load_client(&mut self, key: PublicKey, client: Client) {
        if let Some(index) = client.revoked {
            self.revoked_order.insert((index, key));
        }
        self.clients.insert(key, client);
    }

    /// Whether a loaded state keeps to the limits on records.
    pub(crate) fn is_within_limits(&self) -> bool {
        self.vms.len() <= crate::state::VMS_LIMIT
            && self.services.len() <= crate::state::SERVICES_LIMIT
            && self.deleted.len() <= TOMBSTONES_LIMIT
            && self.revoked_order.len() <= TOMBSTONES_LIMIT
            && self.clients.len() - self.revoked_order.len() <= CLIENTS_LIMIT
    }
}
