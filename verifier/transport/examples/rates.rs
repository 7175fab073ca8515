//! Measures what the transport costs, against plain TCP in the same run:
//!
//!     cargo run --release -p quorate-transport --example rates -- [MiB per transfer]

use std::error::Error;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use borsh::{BorshDeserialize, BorshSerialize};
use quorate_attest::key::SecretKey;
use quorate_transport::bulk::{Bulk, Purpose};
use quorate_transport::{Connection, Endpoint, Limits, Members, Role, wire_enum};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

const LOCAL: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
const CHUNK: usize = 256 * 1024;
const ROUNDS: usize = 3;
const PINGS: u32 = 5_000;

#[derive(BorshSerialize, BorshDeserialize)]
struct Block {
    bytes: Vec<u8>,
}

wire_enum! {
    enum Message {
        1 => Block(Block) <= 4 + CHUNK,
    }
}

fn main() -> Outcome<()> {
    let mib: usize = std::env::args().nth(1).map_or(Ok(2048), |text| text.parse())?;
    let total = mib << 20;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let (mut plain, mut bulk, mut quic) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        plain.push(rate(total, plain_tcp(total)?));
        bulk.push(rate(total, bulk_tls(total)?));
        quic.push(rate(total / 8, runtime.block_on(quic_messages(total / 8))?));
    }
    let (plain, bulk, quic) = (median(plain), median(bulk), median(quic));
    println!("plain TCP       {plain:6.0} MB/s");
    println!("bulk TLS 1.3    {bulk:6.0} MB/s  {:.2} of plain TCP", bulk / plain);
    println!("QUIC messages   {quic:6.0} MB/s  {:.2} of plain TCP", quic / plain);
    runtime.block_on(latencies())
}

fn rate(bytes: usize, took: Duration) -> f64 {
    bytes as f64 / took.as_secs_f64() / 1e6
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

fn keys() -> (SecretKey, SecretKey, Arc<Members>) {
    let (source, destination) = (SecretKey::from_seed([1; 32]), SecretKey::from_seed([2; 32]));
    let members = Members::new().with(source.public(), Role::Host).with(destination.public(), Role::Host);
    (source, destination, Arc::new(members))
}

fn pump(mut to: impl Write, total: usize) -> Outcome<()> {
    let chunk = vec![7; CHUNK];
    for _ in 0..total / CHUNK {
        to.write_all(&chunk)?;
    }
    Ok(to.flush()?)
}

fn drain(mut from: impl Read, total: usize) -> Outcome<()> {
    let mut chunk = vec![0; CHUNK];
    for _ in 0..total / CHUNK {
        from.read_exact(&mut chunk)?;
    }
    Ok(())
}

fn plain_tcp(total: usize) -> Outcome<Duration> {
    let listener = TcpListener::bind(LOCAL)?;
    let addr = listener.local_addr()?;
    let sender = thread::spawn(move || -> Outcome<()> {
        let to = TcpStream::connect(addr)?;
        to.set_nodelay(true)?;
        pump(to, total)
    });
    let (from, _) = listener.accept()?;
    let started = Instant::now();
    drain(from, total)?;
    let took = started.elapsed();
    sender.join().map_err(|_| "sender panicked")??;
    Ok(took)
}

fn bulk_tls(total: usize) -> Outcome<Duration> {
    let (source, destination, members) = keys();
    let purpose = Purpose::new([1; 32])?;
    let listener = Bulk::new(&destination, members.clone(), Limits::default()).listen(LOCAL)?;
    let expected = listener.announce(&source.public(), purpose)?;
    let addr = listener.local_addr()?;
    let sender = thread::spawn(move || -> Outcome<()> {
        let bulk = Bulk::new(&source, members, Limits::default());
        let mut to = bulk.connect(addr, &destination.public(), purpose)?;
        pump(&mut to, total)?;
        Ok(to.finish()?)
    });
    let from = expected.accept(Duration::from_secs(5))?;
    let started = Instant::now();
    drain(from, total)?;
    let took = started.elapsed();
    sender.join().map_err(|_| "sender panicked")??;
    Ok(took)
}

async fn connected() -> Outcome<(Endpoint, Endpoint, Connection, Connection)> {
    let (source, destination, members) = keys();
    let from = Endpoint::bind(LOCAL, &source, members.clone(), Limits::default())?;
    let to = Endpoint::bind(LOCAL, &destination, members, Limits::default())?;
    let (dialled, accepted) = tokio::join!(from.connect(to.local_addr()?, to.public()), to.accept());
    Ok((from, to, dialled?, accepted.ok_or("closed")?))
}

async fn quic_messages(total: usize) -> Outcome<Duration> {
    let (_from, _to, dialled, accepted) = connected().await?;
    let started = Instant::now();
    let sender = tokio::spawn(async move {
        let mut exchange = dialled.open().await?;
        let block = Message::from(Block { bytes: vec![7; CHUNK] });
        for _ in 0..total / CHUNK {
            exchange.send(&block).await?;
        }
        exchange.delivered().await
    });
    let mut exchange = accepted.accept().await?;
    while exchange.recv::<Message>().await?.is_some() {}
    let took = started.elapsed();
    sender.await??;
    Ok(took)
}

async fn latencies() -> Outcome<()> {
    let started = Instant::now();
    let (from, to, dialled, accepted) = connected().await?;
    println!("first connection, with both endpoints: {:?}", started.elapsed());
    let mut best = Duration::MAX;
    for _ in 0..50 {
        let started = Instant::now();
        let (again, there) = tokio::join!(from.connect(to.local_addr()?, to.public()), to.accept());
        best = best.min(started.elapsed());
        drop((again?, there));
    }
    println!("connection, TLS and hello: best {best:?}");
    let echo = tokio::spawn(async move {
        let mut exchange = accepted.accept().await?;
        while let Some(message) = exchange.recv::<Message>().await? {
            exchange.send(&message).await?;
        }
        exchange.delivered().await
    });
    let mut exchange = dialled.open().await?;
    let ping = Message::from(Block { bytes: vec![0; 64] });
    let started = Instant::now();
    for _ in 0..PINGS {
        let _: Message = exchange.ask(&ping).await?;
    }
    println!("round trip of a message: {:?}", started.elapsed() / PINGS);
    exchange.finish()?;
    echo.await??;
    Ok(())
}
