//! A replica of a service that lives through what fuzz bytes choose.

use std::sync::LazyLock;

use quorate_attest::encoding::{Bounded, to_bytes};
use quorate_attest::id::Nonce;
use quorate_attest::request::{Call, Reply, Request};
use quorate_attest::service::{BATCH_LIMIT, Input, Ordered, Output, Query, TICK};
use quorate_attest::state_tree::StateTree;
use quorate_kit::{Replica, wire};

use crate::cut::Cut;
use crate::must;
use crate::subject::{Counter, Registry, Uid};
use crate::world::{Draft, Subject, World};

/// Steps of one life at most: longer ones find no more, but cost more signatures.
const STEPS: usize = 24;

/// Requests of a generator in one step at most.
const SCRIPT: usize = 8;

/// First byte: the life begins before genesis.
pub const BEFORE_GENESIS: u8 = 1;
/// First byte: the state is soon full.
pub const TIGHT: u8 = 2;
/// First byte: at the end everything is executed again, one request in each input.
pub const TWICE: u8 = 4;

/// The registry of services.
pub fn registry(bytes: &[u8]) {
    static WORLDS: LazyLock<[World<Registry>; 2]> = LazyLock::new(|| [false, true].map(World::new));
    live(&WORLDS, bytes);
}

/// The registry of UIDs.
pub fn uid(bytes: &[u8]) {
    static WORLDS: LazyLock<[World<Uid>; 2]> = LazyLock::new(|| [false, true].map(World::new));
    live(&WORLDS, bytes);
}

/// The counter.
pub fn counter(bytes: &[u8]) {
    static WORLDS: LazyLock<[World<Counter>; 2]> = LazyLock::new(|| [false, true].map(World::new));
    live(&WORLDS, bytes);
}

fn live<S: Subject>(worlds: &[World<S>; 2], bytes: &[u8]) {
    let mut cut = Cut::new(bytes);
    let form = cut.byte();
    let world = &worlds[usize::from(form & TIGHT != 0)];
    let replica = if form & BEFORE_GENESIS == 0 { world.begun.clone() } else { world.empty() };
    let mut life = Life { world, replica, executed: Vec::new(), sequence: 0 };
    for _ in 0..STEPS {
        if cut.is_empty() {
            break;
        }
        life.step(&mut cut);
    }
    life.end(form & TWICE != 0);
}

/// What a step does, by its first byte.
pub mod step {
    /// Any bytes as input of the VM.
    pub const RAW: u8 = 0;
    /// Any bytes in a wrapper.
    pub const BODY: u8 = 1;
    /// Any bytes as request in its turn.
    pub const REQUEST: u8 = 2;
    /// A question.
    pub const QUERY: u8 = 3;
    /// Genesis, perhaps another one.
    pub const GENESIS: u8 = 4;
    /// Parts of an import, true or spoilt.
    pub const IMPORT: u8 = 5;
    /// The replica moves to another guest.
    pub const MOVE: u8 = 6;
    /// Votes about time.
    pub const TICK: u8 = 7;
    /// An earlier request again, perhaps changed.
    pub const REPLAY: u8 = 8;
    /// Several requests in one input, with any first number.
    pub const BATCH: u8 = 9;
    /// Requests of the service's own generator.
    pub const SCRIPT: u8 = 10;
    /// How many there are; whatever is above is an operation.
    pub const COUNT: u8 = 11;
}

struct Life<'a, S: Subject> {
    world: &'a World<S>,
    replica: Replica<S::Service>,
    /// Every request of the log so far.
    executed: Vec<Vec<u8>>,
    sequence: u64,
}

impl<S: Subject> Life<'_, S> {
    fn step(&mut self, cut: &mut Cut<'_>) {
        match cut.byte() % 24 {
            step::RAW => self.foreign(cut.take(4096)),
            step::BODY => {
                let mut wrapper = wire::wrap(
                    self.world.vm.id(),
                    self.world.clients[0].public(),
                    1,
                    &Input::Query(Query::Head),
                );
                wrapper.body = cut.take(4096).to_vec();
                (wrapper.op, wrapper.epoch) = (u16::from(cut.byte() == 1), u64::from(cut.byte() == 1));
                self.foreign(&wrapper.encoded());
            }
            step::REQUEST => drop(self.apply(cut.take(4096).to_vec())),
            step::QUERY => drop(self.input(&self.question(cut))),
            step::GENESIS => self.begin(cut),
            step::IMPORT => self.import(cut),
            step::MOVE if self.replica.state().is_some() => {
                self.replica = self.world.moved(&mut self.replica)
            }
            step::TICK => drop(self.apply(self.tick(cut))),
            step::REPLAY => drop(self.apply(self.again(cut))),
            step::BATCH => self.batch(cut),
            step::SCRIPT => self.script(cut),
            _ => {
                let request = self.operation(cut);
                self.apply(request);
            }
        }
    }

    /// Feeds bytes that nobody here made. Everything else knows the one genesis, so what began with another one ends.
    fn foreign(&mut self, bytes: &[u8]) {
        let before = self.replica.clone();
        let output = self.world.feed(&mut self.replica, bytes);
        if before.state().is_none() {
            self.replica = before;
        } else if let (Some(Output::Applied(_)), Ok(wrapper)) = (output, Request::decoded(bytes))
            && let Ok(Input::Apply { requests, .. }) = Input::decoded(&wrapper.body)
        {
            self.note(before.next(), requests);
        }
    }

    fn input(&mut self, input: &Input) -> Option<Output> {
        self.world.feed(&mut self.replica, &self.world.wrapped(input))
    }

    fn turn(&mut self, first: u64, requests: Vec<Ordered>) -> Option<Output> {
        let output = self.input(&Input::Apply { first, requests: requests.clone() });
        if let Some(Output::Applied(_)) = &output {
            self.note(first, requests);
        }
        output
    }

    /// Remembers what was executed, and holds the state against its export.
    fn note(&mut self, first: u64, requests: Vec<Ordered>) {
        let executed = (self.replica.next() - first) as usize;
        self.executed.extend(requests.into_iter().take(executed).map(|ordered| ordered.request));
        self.world.exported(&mut self.replica);
    }

    fn apply(&mut self, request: Vec<u8>) -> Option<Reply> {
        let first = self.replica.next();
        match self.turn(first, vec![Ordered { log_index: first, request }])? {
            Output::Applied(applied) => Some(must(Reply::decoded(&applied.executed.first()?.reply))),
            _ => None,
        }
    }

    fn question(&self, cut: &mut Cut<'_>) -> Input {
        Input::Query(match cut.below(4) {
            0 => Query::Get { key: self.place(cut) },
            1 => Query::Range { low: self.place(cut), high: self.place(cut), limit: cut.word() },
            2 => Query::Head,
            _ => Query::Export { after: self.place(cut) },
        })
    }

    /// A key of the state, one near it, or any bytes.
    fn place(&self, cut: &mut Cut<'_>) -> Vec<u8> {
        let entries = self.replica.state().map(StateTree::entries).unwrap_or_default();
        let mut key = match entries.get(cut.below(256)) {
            Some((key, _)) => key.clone(),
            None => return cut.take(64).to_vec(),
        };
        match cut.below(4) {
            0 => key.push(cut.byte()),
            1 => drop(key.pop()),
            _ => {}
        }
        key
    }

    fn begin(&mut self, cut: &mut Cut<'_>) {
        let mut genesis = self.world.genesis.clone();
        match cut.below(6) {
            0 => genesis.f = cut.number(),
            1 => genesis.voters.truncate(cut.below(5)),
            2 => genesis.voters.rotate_left(1),
            3 => genesis.spec.config = cut.take(512).to_vec(),
            _ => {}
        }
        let same = genesis == self.world.genesis;
        let before = self.replica.clone();
        self.input(&Input::Genesis(genesis));
        if !same {
            // Everything below knows the one genesis.
            self.replica = before;
        }
    }

    fn import(&mut self, cut: &mut Cut<'_>) {
        let mut source = self.replica.clone();
        if source.state().is_none() {
            source = self.world.begun.clone();
        }
        let mut entries: Vec<_> = self.world.exported(&mut source).into_iter().flatten().collect();
        let complete = source.state().map(StateTree::commitment);
        let original = entries.clone();
        if let Some(index) = cut.below(256).checked_rem(entries.len()) {
            match cut.below(8) {
                0 => drop(entries.remove(index)),
                1 => entries[index].value = cut.take(256).to_vec(),
                2 => entries[index].key = cut.take(64).to_vec(),
                3 => entries.swap(0, index),
                4 => entries.push(entries[index].clone()),
                5 => entries.truncate(index),
                _ => {}
            }
        }
        let (genesis, number) = (self.world.genesis.clone(), source.next());
        let mut target = if cut.flag() { self.replica.clone() } else { self.world.empty() };
        let part = cut.below(32) + 1;
        let running = target.state().is_some();
        let mut chunks = entries.chunks(part).peekable();
        while let Some(chunk) = chunks.next() {
            let complete = complete.filter(|_| chunks.peek().is_none());
            let (genesis, entries) = (genesis.clone(), chunk.to_vec());
            let input = Input::Import { genesis, number, entries, complete };
            self.world.feed(&mut target, &self.world.wrapped(&input));
        }
        if !running && target.state().is_some() {
            assert!(entries == original, "a state that was changed on its way is taken");
        }
    }

    fn tick(&self, cut: &mut Cut<'_>) -> Vec<u8> {
        let voter = &self.world.voters[cut.below(self.world.voters.len())];
        let time_ms = match cut.flag() {
            true => cut.number(),
            false => self.replica.time_ms().saturating_add(cut.number()),
        };
        wire::tick(voter, self.world.genesis.spec.id(), time_ms).encoded()
    }

    fn again(&self, cut: &mut Cut<'_>) -> Vec<u8> {
        let Some(index) = cut.below(256).checked_rem(self.executed.len()) else { return Vec::new() };
        let mut request = self.executed[index].clone();
        if let Some(place) = usize::from(cut.word()).checked_rem(request.len()).filter(|_| cut.flag()) {
            request[place] ^= cut.byte();
        }
        request
    }

    fn operation(&mut self, cut: &mut Cut<'_>) -> Vec<u8> {
        let (world, client) = (self.world, cut.below(self.world.clients.len()));
        let key = &world.clients[client];
        let draft = Draft {
            instance: world.instance(),
            client: key.public(),
            sequence: self.sequence + 1,
            tree: self.replica.state().unwrap_or(&EMPTY),
        };
        let (op, body) = S::operation(cut, &draft);
        let (op, body) = match cut.byte() {
            255 => (cut.word(), body),
            254 => (TICK, to_bytes(&cut.number())),
            253 => (op, cut.take(4096).to_vec()),
            _ => (op, body),
        };
        self.sequence += 1;
        let (nonce, epoch) = (Nonce::from_bytes([5; 16]), u64::from(cut.byte() == 255));
        let call = Call { op, sequence: self.sequence, nonce, epoch, body };
        Request::sign(key, world.instance(), call).encoded()
    }

    fn batch(&mut self, cut: &mut Cut<'_>) {
        let mut requests = Vec::new();
        for _ in 0..cut.below(6) {
            let request = match cut.below(6) {
                0 => self.tick(cut),
                1 => self.again(cut),
                2 => cut.take(64).to_vec(),
                _ => self.operation(cut),
            };
            requests.push(Ordered { log_index: cut.number(), request });
        }
        if cut.byte() == 1 {
            let one = Ordered { log_index: 0, request: Vec::new() };
            requests.resize(BATCH_LIMIT, one);
        }
        let next = self.replica.next();
        let first = if cut.byte() < 200 { next } else { cut.number() };
        if cut.byte() == 1 && self.replica.state().is_some() {
            // Whoever else is admitted by the host feeds nothing to a service that has begun.
            let stranger = self.world.clients[1].public();
            let input = Input::Apply { first, requests };
            let wrapper = wire::wrap(self.world.vm.id(), stranger, 1, &input);
            let output = self.world.feed(&mut self.replica, &wrapper.encoded());
            assert!(matches!(output, Some(Output::Refused { .. })), "{output:?}");
            return;
        }
        let executed = self.executed.len();
        let output = self.turn(first, requests);
        let taken = matches!(output, Some(Output::Applied(_)));
        assert_eq!(taken, first == next && self.replica.state().is_some(), "{output:?}");
        assert!(taken || self.executed.len() == executed);
    }

    fn script(&mut self, cut: &mut Cut<'_>) {
        let (seed, length) = (u64::from(cut.word()), cut.below(SCRIPT) + 1);
        S::script(seed, length, self.world.instance(), &mut |request| self.apply(request));
    }

    /// How requests were divided into inputs must have had no influence, nor any move or query between them.
    fn end(self, twice: bool) {
        let Self { world, replica, executed, .. } = self;
        for (key, value) in replica.state().into_iter().flat_map(|tree| tree.from(&[1])) {
            S::check_entry(key, value);
        }
        if !twice || replica.state().is_none() {
            return;
        }
        let mut other = world.begun.clone();
        for request in executed {
            world.execute(&mut other, request);
        }
        assert!(other == replica, "the same requests led to another state");
    }
}

static EMPTY: LazyLock<StateTree> = LazyLock::new(StateTree::default);
