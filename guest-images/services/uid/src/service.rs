//! Who may do what, and when.

use alloc::vec::Vec;

use quorate_attest::key::PublicKey;
use quorate_kit::{Call, Service, State, status};

use crate::config::Config;
use crate::field::{Name, Uid};
use crate::ledger::{Ledger, Step, next_counter};
use crate::operation::{Answer, Approval, Attributes, Entry, Operation, Request, Subject};
use crate::record::{Action, Change, Holder, NameRecord, Profile, UidRecord};

/// The UID registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UidRegistry;

impl Service for UidRegistry {
    fn genesis(state: &mut State<'_>, config: &[u8]) -> Result<(), u16> {
        let config = Config::decode(config).map_err(|_| status::BAD_CONFIG)?;
        Ledger::new(state).begin(&config)
    }

    fn apply(state: &mut State<'_>, call: &Call<'_>) -> Result<Vec<u8>, u16> {
        let (operation, approval) = Operation::decode(call.op, call.body)?;
        let mut ledger = Ledger::new(state);
        let approver = authorise(&ledger, call, &operation, approval.as_ref())?;
        let answer = match operation {
            Operation::Lookup { subject } => Answer::Found(lookup(&ledger, subject)?),
            Operation::List { from, limit } => Answer::Users(ledger.list(from, limit)?),
            Operation::History { uid, from, limit } => history(&ledger, uid, from, limit)?,
            change => Answer::Changed(Turn { ledger: &mut ledger, call, approver }.change(change)?),
        };
        Ok(answer.body())
    }
}

/// Checks that an admin asks for a change, and that a second one approved it where one is not enough.
fn authorise(
    ledger: &Ledger<'_, '_>,
    call: &Call<'_>,
    operation: &Operation,
    approval: Option<&Approval>,
) -> Result<Option<PublicKey>, u16> {
    if !operation.is_change() {
        return Ok(None);
    }
    if !ledger.is_admin(call.client) {
        return Err(status::NOT_AUTHORIZED);
    }
    let Some(Approval { admin, signature }) = approval else {
        return if operation.needs_approval() { Err(status::NOT_AUTHORIZED) } else { Ok(None) };
    };
    if admin == call.client || !ledger.is_admin(admin) {
        return Err(status::NOT_AUTHORIZED);
    }
    let Call { instance, client, sequence, .. } = *call;
    let request = Request { instance, client, sequence, operation };
    match admin.verify(&request.message(), signature) {
        Ok(()) => Ok(Some(*admin)),
        Err(_) => Err(status::BAD_SIGNATURE),
    }
}

fn lookup(ledger: &Ledger<'_, '_>, subject: Subject) -> Result<Entry, u16> {
    let uid = match subject {
        Subject::Uid(uid) => uid,
        Subject::Name(name) => match ledger.name(&name)? {
            Some(NameRecord::Bound(uid)) => uid.get(),
            Some(NameRecord::Freed { .. }) | None => return Err(status::NOT_FOUND),
        },
    };
    let record = ledger.user(uid)?.ok_or(status::NOT_FOUND)?;
    let uid = Uid::new(uid).map_err(|_| status::NOT_FOUND)?;
    Ok(Entry { uid, record })
}

fn history(ledger: &Ledger<'_, '_>, uid: u32, from: u64, limit: u16) -> Result<Answer, u16> {
    if ledger.user(uid)?.is_none() {
        return Err(status::NOT_FOUND);
    }
    Ok(Answer::Changes(ledger.history(uid, from, limit)?))
}

/// One authorised change on its way.
struct Turn<'a, 's, 't> {
    ledger: &'a mut Ledger<'s, 't>,
    call: &'a Call<'a>,
    approver: Option<PublicKey>,
}

impl Turn<'_, '_, '_> {
    fn change(&mut self, operation: Operation) -> Result<Change, u16> {
        match operation {
            Operation::AddUser { uid, .. } if uid.is_system() => Err(status::NOT_AUTHORIZED),
            Operation::AddUser { uid, counter, profile } => self.add(uid, counter, profile),
            Operation::AddSystemUser { uid, .. } if !uid.is_system() => Err(status::MALFORMED),
            Operation::AddSystemUser { uid, counter, profile } => self.add(uid, counter, profile),
            Operation::DelUser { uid, counter } => {
                let (record, profile) = self.bound(uid, counter)?;
                self.commit(uid, Action::Delete, profile, Some(&record))
            }
            Operation::Rename { uid, counter, name } => self.rename(uid, counter, name),
            Operation::SetAttr { uid, counter, attributes } => self.set_attributes(uid, counter, attributes),
            Operation::AllocUid { profile } => self.allocate(profile),
            Operation::Reissue { uid, counter, previous, profile } => {
                self.reissue(uid, counter, &previous, profile)
            }
            Operation::Lookup { .. } | Operation::List { .. } | Operation::History { .. } => {
                Err(status::UNKNOWN_KIND)
            }
        }
    }

    fn add(&mut self, uid: Uid, counter: u64, profile: Profile) -> Result<Change, u16> {
        // Bound or deleted: whoever names a later counter than the first still gets no second name for one UID.
        if self.ledger.user(uid.get())?.is_some() {
            return Err(status::CONFLICT);
        }
        if counter != 1 {
            return Err(status::STALE);
        }
        self.check_profile(uid, &profile)?;
        self.commit(uid, Action::Add, profile, None)
    }

    fn allocate(&mut self, profile: Profile) -> Result<Change, u16> {
        self.check_shell(&profile)?;
        self.ledger.check_name(&profile.name, None, self.call.number)?;
        let uid = self.ledger.lowest_never_bound()?;
        let change = self.commit(uid, Action::Add, profile, None)?;
        self.ledger.allocated(uid)?;
        Ok(change)
    }

    fn rename(&mut self, uid: Uid, counter: u64, name: Name) -> Result<Change, u16> {
        let (record, profile) = self.bound(uid, counter)?;
        self.ledger.check_name(&name, Some(uid), self.call.number)?;
        self.commit(uid, Action::Rename, Profile { name, ..profile }, Some(&record))
    }

    fn set_attributes(&mut self, uid: Uid, counter: u64, attributes: Attributes) -> Result<Change, u16> {
        let (record, mut profile) = self.bound(uid, counter)?;
        let Attributes { gecos, home, shell } = attributes;
        profile.gecos = gecos.unwrap_or(profile.gecos);
        profile.home = home.unwrap_or(profile.home);
        profile.shell = shell.unwrap_or(profile.shell);
        self.check_shell(&profile)?;
        self.commit(uid, Action::SetAttributes, profile, Some(&record))
    }

    fn reissue(
        &mut self,
        uid: Uid,
        counter: u64,
        previous: &[u8; 32],
        profile: Profile,
    ) -> Result<Change, u16> {
        let record = self.ledger.user(uid.get())?.ok_or(status::NOT_FOUND)?;
        if matches!(record.holder, Holder::Bound(_)) {
            return Err(status::CONFLICT);
        }
        check_turn(&record, counter)?;
        if record.digest != *previous {
            return Err(status::STALE);
        }
        self.ledger.check_rested(record.number, self.call.number)?;
        self.check_profile(uid, &profile)?;
        self.commit(uid, Action::Transfer, profile, Some(&record))
    }

    /// The user of a UID, whose next change has this counter.
    fn bound(&self, uid: Uid, counter: u64) -> Result<(UidRecord, Profile), u16> {
        let record = self.ledger.user(uid.get())?.ok_or(status::NOT_FOUND)?;
        let Holder::Bound(profile) = record.holder.clone() else { return Err(status::CONFLICT) };
        check_turn(&record, counter)?;
        Ok((record, profile))
    }

    fn check_profile(&self, uid: Uid, profile: &Profile) -> Result<(), u16> {
        self.check_shell(profile)?;
        self.ledger.check_name(&profile.name, Some(uid), self.call.number)
    }

    fn check_shell(&self, profile: &Profile) -> Result<(), u16> {
        if self.ledger.allows_shell(&profile.shell) { Ok(()) } else { Err(status::NOT_AUTHORIZED) }
    }

    fn commit(
        &mut self,
        uid: Uid,
        action: Action,
        profile: Profile,
        previous: Option<&UidRecord>,
    ) -> Result<Change, u16> {
        let step = Step { uid, action, profile, previous, approver: self.approver };
        self.ledger.commit(self.call, step)
    }
}

fn check_turn(record: &UidRecord, counter: u64) -> Result<(), u16> {
    if next_counter(record.counter)? == counter { Ok(()) } else { Err(status::STALE) }
}
