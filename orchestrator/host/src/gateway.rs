//! The door of a host: connections come in, each exchange becomes events of the agent.
//!
//! Roles are checked here: clients call, operators order, hosts offer. Requests of clients are checked for their signature
//! before they become inputs, side by side in the tasks of their connections and not in the agent.

use quorate_attest::key::PublicKey;
use quorate_attest::request::{InputClass, classify};
use quorate_attest::vm::InputPolicy;
use quorate_transport::{Connection, Endpoint, Exchange, Role, TransportError};
use tokio::sync::{mpsc, oneshot, watch};

use super::agent::{AgentHandle, Event, refused, wrong_vm};
use crate::protocol::{CALL_BYTES_MAX, Call, FromHost, Moved, Query, Rewind, ToHost};

/// The agent of the moment: another one when the VM was taken back.
pub type CurrentAgent = watch::Receiver<AgentHandle>;

/// Accepts connections until the endpoint closes.
pub async fn serve(endpoint: Endpoint, agent: CurrentAgent) {
    while let Some(connection) = endpoint.accept().await {
        let agent = agent.clone();
        tokio::spawn(async move { serve_connection(connection, agent).await });
    }
}

async fn serve_connection(connection: Connection, agent: CurrentAgent) {
    // Ends with the connection; how many exchanges run at once is limited by the transport.
    while let Ok(exchange) = connection.accept().await {
        let (agent, role) = (agent.clone(), connection.role());
        tokio::spawn(async move {
            if let Err(error) = serve_exchange(exchange, role, agent).await {
                tracing::debug!(error_kind = error.kind(), %error, "exchange ended");
            }
        });
    }
}

async fn serve_exchange(
    mut exchange: Exchange,
    role: Role,
    current: CurrentAgent,
) -> Result<(), TransportError> {
    let Some(message) = exchange.recv::<ToHost>().await? else { return Ok(()) };
    let agent = current.borrow().clone();
    match (role, message) {
        (Role::Client | Role::Operator, message @ (ToHost::Call(_) | ToHost::Query(_))) => {
            let mut next = Some(message);
            // A client may send one request after the other on one exchange.
            while let Some(message) = next {
                let agent = current.borrow().clone();
                let answer = match message {
                    ToHost::Call(call) => answer_call(call, &agent).await,
                    ToHost::Query(query) => answer_query(query, &agent).await,
                    _ => return Ok(()),
                };
                exchange.send(&answer).await?;
                next = exchange.recv::<ToHost>().await?;
            }
            Ok(())
        }
        (Role::Client | Role::Operator, ToHost::Rewind(rewind)) => {
            let answer = answer_rewind(rewind, exchange.peer(), role, &agent).await;
            exchange.send(&answer).await?;
            exchange.delivered().await
        }
        (Role::Operator, ToHost::Migrate(migrate)) => {
            let (progress, events) = mpsc::unbounded_channel();
            agent.send(Event::Migrate(migrate, progress));
            relay(exchange, events).await
        }
        (Role::Operator, message) => {
            let (answer, result) = oneshot::channel();
            agent.send(Event::Operator(message, answer));
            let answer = result.await.unwrap_or_else(|_| refused("PeerTimeout", "the host is stopping"));
            exchange.send(&answer).await?;
            exchange.delivered().await
        }
        (Role::Host, ToHost::Offer(offer)) => {
            let source = *exchange.peer();
            let (answers, outbox) = mpsc::unbounded_channel();
            let scope = agent.new_scope();
            agent.send(Event::Offer { offer: Box::new(offer), source, scope, answers });
            let agent = agent.scoped(scope);
            let (mut sender, mut receiver) = exchange.split();
            receiver.set_patience(super::EXCHANGE_PATIENCE);
            let writer = tokio::spawn(async move { send_all(&mut sender, outbox).await });
            while let Ok(Some(message)) = receiver.recv::<ToHost>().await {
                agent.send(Event::FromSource(Some(message)));
            }
            agent.send(Event::FromSource(None));
            // What was queued still leaves; the writer ends with the immigration.
            drop(writer);
            Ok(())
        }
        (role, _) => {
            tracing::warn!(error_kind = "KeyRoleMismatch", ?role, "a message that this role may not send");
            exchange.send(&refused("KeyRoleMismatch", "this role may not ask that")).await?;
            exchange.delivered().await
        }
    }
}

async fn relay(
    mut exchange: Exchange,
    mut events: mpsc::UnboundedReceiver<FromHost>,
) -> Result<(), TransportError> {
    while let Some(message) = events.recv().await {
        exchange.send(&message).await?;
    }
    exchange.delivered().await
}

async fn send_all(
    sender: &mut quorate_transport::FrameSender,
    mut outbox: mpsc::UnboundedReceiver<FromHost>,
) -> Result<(), TransportError> {
    while let Some(message) = outbox.recv().await {
        sender.send(&message).await?;
    }
    sender.finish()
}

/// The frame's limit leaves room for the VM's id, which must not become room for a longer input.
fn is_oversize(input: &[u8]) -> Option<FromHost> {
    let detail = || format!("{} bytes, at most {CALL_BYTES_MAX}", input.len());
    (input.len() > CALL_BYTES_MAX).then(|| refused("MessageTooLarge", &detail()))
}

async fn answer_query(query: Query, agent: &AgentHandle) -> FromHost {
    if let Some(refused) = is_oversize(&query.request) {
        return refused;
    }
    let (answer, result) = oneshot::channel();
    agent.send(Event::Query(query, answer));
    result.await.unwrap_or(FromHost::Moved(Moved { activation: None }))
}

async fn answer_rewind(rewind: Rewind, peer: &PublicKey, role: Role, agent: &AgentHandle) -> FromHost {
    let Some(spec) = agent.spec() else { return FromHost::Moved(Moved { activation: None }) };
    if spec.id() != rewind.vm {
        return wrong_vm();
    }
    if role != Role::Operator && spec.input_policy != InputPolicy::SignedBy(*peer) {
        return refused("KeyRoleMismatch", "only an operator or whoever feeds the VM alone may take it back");
    }
    let (answer, result) = oneshot::channel();
    agent.send(Event::Rewind(rewind.vm, answer));
    result.await.unwrap_or(FromHost::Moved(Moved { activation: None }))
}

async fn answer_call(call: Call, agent: &AgentHandle) -> FromHost {
    if let Some(refused) = is_oversize(&call.request) {
        return refused;
    }
    let Some(spec) = agent.spec() else { return FromHost::Moved(Moved { activation: None }) };
    if spec.id() != call.vm {
        return wrong_vm();
    }
    if spec.input_policy != InputPolicy::Any && classify(&spec, &call.request) != InputClass::ClientSigned {
        return refused("InputUnauthenticated", "nobody whom this VM listens to has signed the request");
    }
    let (answer, result) = oneshot::channel();
    agent.send(Event::Call(call, answer));
    result.await.unwrap_or(FromHost::Moved(Moved { activation: None }))
}
