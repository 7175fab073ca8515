//! Live migration as two pure state machines: [`source`] and [`destination`]. The host agent performs their effects.

pub mod destination;
pub mod heads;
pub mod source;

#[cfg(test)]
mod tests;
