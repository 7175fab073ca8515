//! One node: an orchestrator and the replica beside it, honest or not.

use std::sync::{Arc, Mutex};

use quorate_attest::encoding::{Bounded, to_bytes};
use quorate_attest::key::{PublicKey, SecretKey, Signature};
use quorate_attest::operation::Operation;
use quorate_attest::service::ServiceReceipt;
use quorate_control::{Answer as Outcome, encode_outcome};
use quorate_ordering::protocol::{Applied, FromOrchestrator, NotYet, Refused, Submit, ToOrchestrator};
use quorate_ordering::services::{
    AnsweredQuery, ExecutedEntry, ServiceAnswer, ServiceHead, ServiceInfo, ServiceQuestion, SignedReceipt,
};
use quorate_signer::rules::{Allowed, Rules};
use quorate_signer::state::{Effect, Request as ToSign, SignState, Verdict};
use quorate_transport::{Endpoint, Exchange};
use sha2::{Digest as _, Sha256};

use crate::conduct::{Conduct, Raw, Replay, broken, omit};
use crate::guest::{Entry, Guest};
use crate::keys::member_key;
use crate::log::Log;
use crate::world::{Hold, STRANGER, Shared, client_key};

pub struct Node {
    shared: Arc<Shared>,
    index: u16,
    state: Mutex<State>,
}

struct State {
    conduct: Conduct,
    truth: Guest,
    /// What a faulty node executes beside the truth.
    shadow: Option<Guest>,
    signer: SignState,
    /// Whether the signer refused: an honest replica serves no longer then.
    stopped: bool,
    answers: u64,
}

/// What a node does when it was asked.
enum Reaction {
    Say(Box<FromOrchestrator>),
    Throw(Raw),
    Nothing,
}

fn refused(kind: &str) -> FromOrchestrator {
    FromOrchestrator::Refused(Refused { kind: kind.to_owned(), detail: String::new() })
}

impl Node {
    pub fn new(shared: Arc<Shared>, index: u16, conduct: Conduct) -> Self {
        let truth = begin(&shared, &shared.logs.lock().expect("the logs")[0]);
        let (signer, stopped) = (SignState::default(), false);
        let state = Mutex::new(State { conduct, truth, shadow: None, signer, stopped, answers: 0 });
        Self { shared, index, state }
    }

    /// Behaves like this from now on.
    pub fn turn(&self, conduct: Conduct) {
        let mut state = self.state.lock().expect("the state");
        self.catch_up(&mut state);
        (state.conduct, state.shadow, state.stopped) = (conduct, None, false);
    }

    /// Restores the replica to its creation, so that it executes everything again. The signer remembers.
    pub fn restore(&self) {
        let mut state = self.state.lock().expect("the state");
        self.catch_up(&mut state);
        state.truth = begin(&self.shared, &self.shared.logs.lock().expect("the logs")[0]);
    }

    /// Whether the signer has refused what this replica computed.
    pub fn is_stopped(&self) -> bool {
        self.state.lock().expect("the state").stopped
    }

    /// What an honest replica replied to all requests.
    pub fn replies(&self) -> Vec<Vec<u8>> {
        let mut state = self.state.lock().expect("the state");
        self.catch_up(&mut state);
        state.truth.replies.clone()
    }

    pub async fn serve(self: Arc<Self>, endpoint: Endpoint) {
        while let Some(connection) = endpoint.accept().await {
            let node = Arc::clone(&self);
            tokio::spawn(async move {
                while let Ok(exchange) = connection.accept().await {
                    tokio::spawn(Arc::clone(&node).exchange(exchange));
                }
            });
        }
    }

    async fn exchange(self: Arc<Self>, mut exchange: Exchange) {
        let peer = *exchange.peer();
        while let Ok(Some(question)) = exchange.recv::<ToOrchestrator>().await {
            self.wait(&question).await;
            let reaction = self.react(&peer, &question);
            let sent = match reaction {
                Reaction::Say(answer) => exchange.send(&*answer).await,
                Reaction::Throw(raw) => exchange.send(&raw).await,
                Reaction::Nothing => return std::future::pending().await,
            };
            if sent.is_err() {
                return;
            }
            self.count(&question);
        }
    }

    /// Waits as long as the node keeps its answers to itself.
    async fn wait(&self, question: &ToOrchestrator) {
        let mut holds = self.shared.holds.subscribe();
        let mut asked = self.shared.asked.subscribe();
        if matches!(about_replica(question), Some(ServiceQuestion::At { .. })) {
            self.shared.asked.send_modify(|(_, at)| *at = true);
        }
        loop {
            let hold = holds.borrow_and_update().get(&self.index).cloned();
            let replica = about_replica(question).filter(|question| **question != ServiceQuestion::Head);
            let query = matches!(replica, Some(ServiceQuestion::Query { .. }));
            let free = match hold {
                None => true,
                Some(Hold::All) => false,
                Some(Hold::Results) => replica.is_none(),
                Some(Hold::Until(others)) => {
                    let answered = asked.borrow_and_update().0.get(&to_bytes_of(question)).copied();
                    replica.is_none() || answered.unwrap_or(0) >= others
                }
                Some(Hold::Consistency) => !matches!(replica, Some(ServiceQuestion::Consistency { .. })),
                Some(Hold::UntilAt) => !query || asked.borrow_and_update().1,
            };
            if free {
                return;
            }
            tokio::select! {
                changed = holds.changed() => if changed.is_err() { return },
                changed = asked.changed() => if changed.is_err() { return },
            }
        }
    }

    fn count(&self, question: &ToOrchestrator) {
        if self.state.lock().expect("the state").conduct != Conduct::Honest {
            self.shared.asked.send_modify(|(asked, _)| *asked.entry(to_bytes_of(question)).or_default() += 1);
        }
    }

    fn react(&self, client: &PublicKey, question: &ToOrchestrator) -> Reaction {
        let mut state = self.state.lock().expect("the state");
        state.answers += 1;
        self.catch_up(&mut state);
        let conduct = state.conduct.clone();
        if conduct == Conduct::Silent {
            return Reaction::Nothing;
        }
        let answer = match question {
            ToOrchestrator::Submit(submit) => self.ordered(&mut state, submit),
            ToOrchestrator::Service(ask) if ask.service != self.shared.service.id() => refused("NotFound"),
            ToOrchestrator::Service(ask) => self.of_replica(&mut state, client, &ask.question),
            ToOrchestrator::ServiceNamed(named) => self.named(&state, &named.name),
            _ => refused("UnknownCommand"),
        };
        match conduct {
            Conduct::Fuzz => Reaction::Throw(Raw::instead_of(&answer, state.answers)),
            _ => Reaction::Say(Box::new(answer)),
        }
    }

    /// Executes what was ordered.
    fn catch_up(&self, state: &mut State) {
        let split = state.conduct == Conduct::Split;
        let logs = self.shared.logs.lock().expect("the logs");
        for number in state.truth.size()..logs[0].size() {
            state.truth.execute(&logs[0].entries[number as usize]);
            let receipt = state.truth.receipts[number as usize];
            let verdict = allowed(&mut state.signer, &receipt);
            // The same again, or for the first time: honest execution is never refused.
            assert_eq!(verdict, Verdict::Sign, "{}", receipt.number);
        }
        let log = &logs[usize::from(split)];
        if !matches!(state.conduct, Conduct::Honest) {
            let shadow = state.shadow.get_or_insert_with(|| begin(&self.shared, log));
            for number in shadow.size()..log.size() {
                shadow_step(&state.conduct, self.index, shadow, &log.entries[number as usize]);
                if let Conduct::Rollback { floor: true, .. } = state.conduct
                    && let Some(receipt) = shadow.receipts.last()
                {
                    state.stopped |= allowed(&mut state.signer, receipt) != Verdict::Sign;
                }
            }
        }
    }

    fn ordered(&self, state: &mut State, submit: &Submit) -> FromOrchestrator {
        let Ok(operation) = Operation::decoded(&submit.operation) else { return refused("DecodeError") };
        if operation.author == client_key(STRANGER).public() {
            return refused("NotAuthorized");
        }
        let mut logs = self.shared.logs.lock().expect("the logs");
        let log = &mut logs[usize::from(state.conduct == Conduct::Split)];
        let Some(mut number) = log.order(&operation) else { return refused("NotAuthorized") };
        if matches!(state.conduct, Conduct::Stale(_) | Conduct::Replay(Replay::Number)) {
            number = number.saturating_sub(1);
        }
        let (mut receipt, mut outcome) = (log.receipts[number], log.outcomes[number].clone());
        let mut orchestrator = self.index;
        match state.conduct {
            Conduct::Liar => {
                let service = self.shared.service.id();
                outcome = encode_outcome(&Ok(Outcome::Numbered { service, number: number as u64 + 1 }));
                receipt.result = Sha256::digest(&outcome).into();
            }
            Conduct::Replay(Replay::Epoch) => receipt.epoch.0 += 1,
            Conduct::Doubler => orchestrator = self.neighbour(),
            _ => {}
        }
        let key = member_key("orchestrators", "vote", self.index);
        let signature = match state.conduct {
            Conduct::BadSig => broken(&receipt.sign(&key)),
            Conduct::Replay(Replay::Kind | Replay::Service) => receipt.sign(&self.vote_key()),
            _ => receipt.sign(&key),
        };
        FromOrchestrator::Applied(Applied { orchestrator, receipt, signature, outcome, decision: None })
    }

    fn of_replica(
        &self,
        state: &mut State,
        client: &PublicKey,
        question: &ServiceQuestion,
    ) -> FromOrchestrator {
        if state.stopped && *question != ServiceQuestion::Head {
            return refused("ServiceStopped");
        }
        let ordered =
            self.shared.logs.lock().expect("the logs")[usize::from(state.conduct == Conduct::Split)].size();
        let deceives = match state.conduct {
            Conduct::Equivocator => self.shared.deceived.lock().expect("the set").contains(client),
            Conduct::Wavering => state.answers.is_multiple_of(2),
            Conduct::Honest
            | Conduct::Silent
            | Conduct::Replay(_)
            | Conduct::BadSig
            | Conduct::Framer { .. }
            | Conduct::Fuzz
            | Conduct::Omit => false,
            _ => true,
        };
        let guest = match &mut state.shadow {
            Some(shadow) if deceives => shadow,
            _ => &mut state.truth,
        };
        let number = match question {
            ServiceQuestion::Head => {
                let ordered = match state.conduct {
                    Conduct::Framer { alone } => (1 << 40) + if alone { u64::from(self.index) } else { 0 },
                    Conduct::Stale(size) => size.min(ordered),
                    _ => ordered,
                };
                let (executed, replica) = (guest.size(), self.index);
                return ServiceAnswer::Head(ServiceHead { ordered, executed, replica }).into();
            }
            ServiceQuestion::Consistency { from, to } => {
                return match guest.consistency(*from, *to) {
                    Some(path) => ServiceAnswer::Consistent(path).into(),
                    None => refused("NotFound"),
                };
            }
            ServiceQuestion::Result { operation } => guest.number_of(operation),
            ServiceQuestion::At { number } => Some(*number as usize).filter(|at| *at < guest.receipts.len()),
            ServiceQuestion::Query { at_least, .. } => {
                let stale = matches!(state.conduct, Conduct::Stale(_));
                (stale || *at_least <= guest.size()).then(|| guest.receipts.len() - 1)
            }
            _ => return refused("UnknownCommand"),
        };
        // Old statements have nothing better.
        let newest = guest.receipts.len() - 1;
        let number = number.or(matches!(state.conduct, Conduct::Stale(_)).then_some(newest));
        let Some(mut number) = number else { return NotYet {}.into() };
        if state.conduct == Conduct::Replay(Replay::Number) {
            number = number.saturating_sub(1);
        }
        let (receipt, reply) = (guest.receipts[number], guest.replies[number].clone());
        let SignedReceipt { replica, receipt, signature } = self.sign(&state.conduct, &receipt, question);
        let mut answer = match question {
            ServiceQuestion::Query { query, .. } => {
                let Some(answer) = guest.query(query) else { return refused("DecodeError") };
                let newest = SignedReceipt { replica, receipt, signature };
                ServiceAnswer::Answered(AnsweredQuery { newest, answer })
            }
            _ => ServiceAnswer::Executed(ExecutedEntry { replica, receipt, signature, reply }),
        };
        if state.conduct == Conduct::Omit {
            omit(&mut answer, state.answers);
        }
        answer.into()
    }

    fn sign(&self, conduct: &Conduct, receipt: &ServiceReceipt, question: &ServiceQuestion) -> SignedReceipt {
        let key = self.vote_key();
        let (mut replica, mut signature): (u16, Signature) = (self.index, receipt.sign(&key));
        let mut receipt = *receipt;
        match conduct {
            Conduct::BadSig => signature = broken(&signature),
            Conduct::Replay(replay) => (receipt, signature) = replay.of(&receipt, &key),
            Conduct::Doubler if !matches!(question, ServiceQuestion::Query { .. }) => {
                replica = self.neighbour();
            }
            _ => {}
        }
        SignedReceipt { replica, receipt, signature }
    }

    fn named(&self, state: &State, name: &str) -> FromOrchestrator {
        let mut spec = self.shared.service.clone();
        if spec.name != name {
            return refused("NotFound");
        }
        if matches!(state.conduct, Conduct::Cabal) {
            spec.config = b"another configuration".to_vec();
        }
        let (ordered, executed) = (state.truth.size(), state.truth.size());
        let (service, image, replica, created) = (spec.id(), spec.image, self.index, 3);
        let info = ServiceInfo { service, spec, image, created, ordered, executed, replica, stopped: None };
        ServiceAnswer::Info(info).into()
    }

    fn vote_key(&self) -> SecretKey {
        member_key("services", "vote", self.index)
    }

    fn neighbour(&self) -> u16 {
        (self.index + 1) % self.shared.groups.replicas.members.len() as u16
    }
}

/// A guest as the log creates it.
fn begin(shared: &Shared, log: &Log) -> Guest {
    Guest::begin(&shared.groups, shared.library, &shared.service, &log.entries[0])
}

/// What a faulty node executes at an entry.
fn shadow_step(conduct: &Conduct, index: u16, shadow: &mut Guest, entry: &Entry) {
    match conduct {
        Conduct::Liar => shadow.execute_twisted(entry, 1 + index as u8),
        Conduct::Cabal | Conduct::Equivocator | Conduct::Wavering | Conduct::Doubler => {
            shadow.execute_twisted(entry, 0);
        }
        Conduct::Rollback { to, .. } if shadow.size() >= *to => shadow.execute_twisted(entry, 0),
        Conduct::Stale(size) if shadow.size() >= *size => {}
        _ => shadow.execute(entry),
    }
}

/// What the node's signer says to a receipt, by its memory.
fn allowed(signer: &mut SignState, receipt: &ServiceReceipt) -> Verdict {
    let rules = Rules {
        group: receipt.group,
        group_name: "services".into(),
        epoch: receipt.epoch,
        receipts: Allowed::Only([receipt.service].into()),
        logs: Allowed::Any,
    };
    let effects = signer.step(&rules, &[ToSign::Sign(receipt.to_statement().encode())]);
    let released = effects.into_iter().find_map(|effect| match effect {
        Effect::Release(mut verdicts) => verdicts.pop(),
        Effect::Record(_) => None,
    });
    released.expect("one verdict for each request")
}

fn about_replica(question: &ToOrchestrator) -> Option<&ServiceQuestion> {
    match question {
        ToOrchestrator::Service(ask) => Some(&ask.question),
        _ => None,
    }
}

fn to_bytes_of(question: &ToOrchestrator) -> Vec<u8> {
    match question {
        ToOrchestrator::Service(ask) => to_bytes(ask),
        _ => Vec::new(),
    }
}
