//! What the crate guarantees, attack by attack, through its public interface only.

mod activations;
mod certificates;
mod decisions;
mod decoders;
mod epochs;
mod evidence;
mod fixtures;
mod golden;
mod groups;
mod heads;
mod operations;
mod public_form;
mod receipts;
mod requests;
mod services;
mod slots;
