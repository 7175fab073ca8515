//! Orchestrators as real processes: what they acknowledged survives kills, and what they say over HTTP is what they document.

mod cluster;
mod epochs;
mod http;
mod lifecycle;
mod openapi;
mod services;
mod survival;
