//! The registry's maps as the service reads and changes them. Both stay injective because only this module writes them.

use alloc::vec::Vec;

use quorate_attest::encoding::{Bounded, to_bytes};
use quorate_attest::key::PublicKey;
use quorate_kit::{Call, State, status};

use crate::config::{Config, Range, Rules, is_refused};
use crate::field::{Name, Path, Uid};
use crate::operation::{Entry, Page};
use crate::record::{
    Action, Bind, Change, Counts, Holder, NameRecord, Profile, UidRecord, admin_key, counts_key, history_key,
    name_key, rules_key, shell_key, uid_key, uid_of_key,
};

/// Most bytes of entries in a page: an ordered reply is kept for repetition and must be short.
const PAGE_BYTES: usize = quorate_kit::REPLY_LIMIT - 64;

/// What the state keeps of the configuration besides admins and shells.
type Kept = (Rules, Vec<Range>);

/// The maps, and the configuration beside them.
pub(crate) struct Ledger<'s, 't> {
    state: &'s mut State<'t>,
}

/// A change that a rule allows.
pub(crate) struct Step<'a> {
    pub uid: Uid,
    pub action: Action,
    pub profile: Profile,
    pub previous: Option<&'a UidRecord>,
    pub approver: Option<PublicKey>,
}

impl<'s, 't> Ledger<'s, 't> {
    pub fn new(state: &'s mut State<'t>) -> Self {
        Self { state }
    }

    /// Writes what the registry begins with.
    pub fn begin(&mut self, config: &Config) -> Result<(), u16> {
        for admin in &config.admins {
            self.state.put(admin_key(admin), Vec::new())?;
        }
        for shell in &config.shells {
            self.state.put(shell_key(shell), Vec::new())?;
        }
        self.state.put(rules_key(), to_bytes(&(config.rules, &config.ranges)))?;
        self.put_counts(Counts { users: 0, changes: 0, free_from: 0 })
    }

    pub fn is_admin(&self, key: &PublicKey) -> bool {
        self.state.get(&admin_key(key)).is_some()
    }

    pub fn allows_shell(&self, shell: &Path) -> bool {
        self.state.get(&shell_key(shell)).is_some()
    }

    pub fn user(&self, uid: u32) -> Result<Option<UidRecord>, u16> {
        read(self.state.get(&uid_key(uid)))
    }

    pub fn name(&self, name: &Name) -> Result<Option<NameRecord>, u16> {
        read(self.state.get(&name_key(name.as_str())))
    }

    pub fn rules(&self) -> Result<Rules, u16> {
        Ok(self.kept()?.0)
    }

    fn kept(&self) -> Result<Kept, u16> {
        let bytes = self.state.get(&rules_key()).ok_or(status::INCONCLUSIVE)?;
        quorate_attest::encoding::from_bytes(bytes, Config::LIMIT).map_err(|_| status::INCONCLUSIVE)
    }

    fn counts(&self) -> Result<Counts, u16> {
        read(self.state.get(&counts_key()))?.ok_or(status::INCONCLUSIVE)
    }

    fn put_counts(&mut self, counts: Counts) -> Result<(), u16> {
        self.state.put(counts_key(), counts.encoded())
    }

    /// Checks that the user of `uid` may have `name`: nobody has it, and whoever else gave it up did so long ago.
    pub fn check_name(&self, name: &Name, uid: Option<Uid>, number: u64) -> Result<(), u16> {
        match self.name(name)? {
            None => Ok(()),
            Some(NameRecord::Bound(_)) => Err(status::CONFLICT),
            Some(NameRecord::Freed { uid: former, .. }) if Some(former) == uid => Ok(()),
            Some(NameRecord::Freed { number: freed, .. }) => self.check_rested(freed, number),
        }
    }

    /// Checks that the quarantine of what was given up in entry `freed` has ended.
    pub fn check_rested(&self, freed: u64, number: u64) -> Result<(), u16> {
        let rested = number.saturating_sub(freed) >= self.rules()?.quarantine;
        if rested { Ok(()) } else { Err(status::CONFLICT) }
    }

    /// The lowest UID of the ranges that was never bound.
    pub fn lowest_never_bound(&self) -> Result<Uid, u16> {
        let (_, ranges) = self.kept()?;
        let from = self.counts()?.free_from;
        for range in ranges.iter().filter(|range| range.last >= from) {
            let first = range.first.max(from);
            let (low, high) = (uid_key(first), uid_key(range.last));
            let mut bound = self.state.range(&low, &high).peekable();
            for candidate in first..=range.last {
                let taken = bound.next_if(|(key, _)| uid_of_key(key) == Some(candidate)).is_some();
                if !taken && !is_refused(candidate) {
                    return Uid::new(candidate).map_err(|_| status::INCONCLUSIVE);
                }
            }
        }
        Err(status::LIMIT)
    }

    /// Remembers that every UID of a range up to `uid` was bound.
    pub fn allocated(&mut self, uid: Uid) -> Result<(), u16> {
        let counts = self.counts()?;
        self.put_counts(Counts { free_from: uid.get().saturating_add(1), ..counts })
    }

    /// Makes a change: history, record and names together.
    pub fn commit(&mut self, call: &Call<'_>, step: Step<'_>) -> Result<Change, u16> {
        let Step { uid, action, profile, previous, approver } = step;
        let counter = next_counter(previous.map_or(0, |record| record.counter))?;
        let Profile { name, gecos, home, shell } = profile.clone();
        let digest = previous.map_or([0; 32], |record| record.digest);
        let bind = Bind { uid, name, counter, action, gid: uid, gecos, home, shell, previous: digest };
        let change = Change { bind, number: call.number, author: *call.client, approver };
        self.count(action)?;
        self.move_names(&change.bind, previous, call.number)?;
        let holder = match action {
            Action::Delete => Holder::Deleted(profile.name),
            _ => Holder::Bound(profile),
        };
        let record = UidRecord { counter, number: call.number, digest: change.bind.digest(), holder };
        self.state.put(uid_key(uid.get()), record.encoded())?;
        self.state.put(history_key(uid.get(), counter), change.encoded())?;
        Ok(change)
    }

    /// Counts a change. `changes + users` never exceeds the limit, so that every user can still be deleted.
    fn count(&mut self, action: Action) -> Result<(), u16> {
        let Rules { users_max, changes_max, .. } = self.rules()?;
        let mut counts = self.counts()?;
        counts.changes = counts.changes.checked_add(1).ok_or(status::LIMIT)?;
        match action {
            Action::Add | Action::Transfer => {
                counts.users = counts.users.checked_add(1).ok_or(status::LIMIT)?;
            }
            Action::Delete => counts.users = counts.users.saturating_sub(1),
            Action::Rename | Action::SetAttributes => {}
        }
        let promised = u64::from(counts.changes) + u64::from(counts.users);
        if counts.users > users_max || promised > u64::from(changes_max) {
            return Err(status::LIMIT);
        }
        self.put_counts(counts)
    }

    fn move_names(&mut self, bind: &Bind, previous: Option<&UidRecord>, number: u64) -> Result<(), u16> {
        let Bind { uid, name, action, .. } = bind;
        if let Some(UidRecord { holder: Holder::Bound(old), .. }) = previous
            && (old.name != *name || *action == Action::Delete)
        {
            let freed = NameRecord::Freed { uid: *uid, number };
            self.state.put(name_key(old.name.as_str()), freed.encoded())?;
        }
        if *action != Action::Delete {
            self.state.put(name_key(name.as_str()), NameRecord::Bound(*uid).encoded())?;
        }
        Ok(())
    }

    /// Records from a UID on.
    pub fn list(&self, from: u32, limit: u16) -> Result<Page<Entry>, u16> {
        let (low, high) = (uid_key(from), uid_key(u32::MAX));
        page(self.state.range(&low, &high), limit, |key, value| {
            let uid = uid_of_key(key).and_then(|uid| Uid::new(uid).ok()).ok_or(status::INCONCLUSIVE)?;
            Ok(Entry { uid, record: read(Some(value))?.ok_or(status::INCONCLUSIVE)? })
        })
    }

    /// Changes of a UID from a counter on.
    pub fn history(&self, uid: u32, from: u64, limit: u16) -> Result<Page<Change>, u16> {
        let (low, high) = (history_key(uid, from), history_key(uid, u64::MAX));
        page(self.state.range(&low, &high), limit, |_, value| read(Some(value))?.ok_or(status::INCONCLUSIVE))
    }
}

/// The counter behind `counter`; `u64::MAX` is never given out.
pub(crate) fn next_counter(counter: u64) -> Result<u64, u16> {
    counter.checked_add(1).filter(|next| *next != u64::MAX).ok_or(status::LIMIT)
}

fn page<'a, T: Bounded>(
    entries: impl Iterator<Item = (&'a [u8], &'a [u8])>,
    limit: u16,
    decode: impl Fn(&[u8], &[u8]) -> Result<T, u16>,
) -> Result<Page<T>, u16> {
    let mut page = Page { entries: Vec::new(), more: false };
    let mut used = 0;
    for (key, value) in entries {
        used += key.len() + value.len();
        if page.entries.len() >= usize::from(limit) || used > PAGE_BYTES {
            page.more = true;
            break;
        }
        page.entries.push(decode(key, value)?);
    }
    Ok(page)
}

fn read<T: Bounded>(value: Option<&[u8]>) -> Result<Option<T>, u16> {
    value.map(T::decoded).transpose().map_err(|_| status::INCONCLUSIVE)
}
