//! The gateway's protocols over services in memory: real clients of etcd, HTTP and NSS, real state machines with real proofs.

mod etcdctl;
mod fixture;
mod http;
mod kv;
mod lease;
mod limits;
mod nss;
mod process;
mod proofs;
mod txn;
mod watch;
