//! The hello of transport connections: frames have one form, and no end takes bytes for a peer that sent others.

use std::sync::LazyLock;

use quorate_transport::fuzzing::{self, HonestMessage};

use crate::cut::{Cut, framed};
use crate::wire::Checked;

/// All that the two ends ever signed.
static HONEST: LazyLock<[HonestMessage; 3]> = LazyLock::new(|| match fuzzing::honest() {
    Some(messages) => messages,
    None => panic!("an honest hello fails"),
});

/// Reads the bytes as frames, or as what one end is told.
pub fn check(bytes: &[u8]) {
    let mut cut = Cut::new(bytes);
    let [hello, answer, confirm] = &*HONEST;
    match cut.below(5) {
        0 => fuzzing::hello(Checked(cut.rest())),
        1 => fuzzing::bulk(Checked(cut.rest())),
        2 => accepter(cut.take(512), cut.rest()),
        // The true hello with a spoilt signature, and the true answer with a spoilt byte.
        3 => accepter(hello, &spoilt(&mut cut, confirm)),
        _ => dialler(&if cut.flag() { spoilt(&mut cut, answer) } else { cut.rest().to_vec() }),
    }
}

fn spoilt(cut: &mut Cut<'_>, message: &[u8]) -> Vec<u8> {
    let mut message = message.to_vec();
    for _ in 0..cut.below(4) {
        let place = cut.below(message.len());
        message[place] = cut.byte();
    }
    message
}

fn accepter(hello: &[u8], confirm: &[u8]) {
    let true_one = (hello, confirm) == (&HONEST[0][..], &HONEST[2][..]);
    assert_eq!(fuzzing::accepts(hello, confirm), true_one, "the dialler signed one hello only");
}

fn dialler(answer: &[u8]) {
    assert_eq!(fuzzing::dials(answer), answer == HONEST[1], "the accepter signed one answer only");
}

/// The true messages, in frames and as they are.
pub fn seeds() -> Vec<Vec<u8>> {
    let frame = |tag: u8, body: &[u8]| [&[tag][..], &(body.len() as u32).to_le_bytes(), body].concat();
    let [hello, answer, confirm] = &*HONEST;
    vec![
        [vec![0], frame(1, hello), frame(2, answer), frame(3, confirm)].concat(),
        [vec![1], frame(2, answer), frame(4, &[0; 8])].concat(),
        [vec![2], framed(hello), confirm.clone()].concat(),
        vec![3, 0],
        vec![3, 1, 9, 9],
        vec![4, 1, 0],
        [vec![4, 0], answer.clone()].concat(),
    ]
}
