//! What the crate guarantees, attack by attack, through its public interface only.

mod activations;
mod certificates;
mod decoders;
mod evidence;
mod fixtures;
mod golden;
mod groups;
mod heads;
mod public_form;
mod requests;
mod slots;
