//! Fuzz bytes as a source of choices. It never fails: behind the end everything is zero.

/// What is left of the bytes.
#[derive(Debug, Clone, Copy)]
pub struct Cut<'a> {
    rest: &'a [u8],
}

impl<'a> Cut<'a> {
    /// All of them.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        match self.rest {
            [first, rest @ ..] => {
                self.rest = rest;
                *first
            }
            [] => 0,
        }
    }

    /// A choice of `count`, which is 1 to 256.
    pub fn below(&mut self, count: usize) -> usize {
        usize::from(self.byte()) % count
    }

    /// One of several.
    pub fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    /// Yes or no.
    pub fn flag(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    /// Two bytes.
    pub fn word(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    /// A number: small ones, the ends of the range and any other have short forms.
    pub fn number(&mut self) -> u64 {
        match self.byte() {
            small @ 0..200 => u64::from(small),
            high @ 200..228 => u64::MAX - u64::from(high - 200),
            228..=240 => u64::from(self.word()),
            _ => self.bytes().fold(0, |value, byte| value << 8 | u64::from(byte)),
        }
    }

    fn bytes(&mut self) -> impl Iterator<Item = u8> {
        [(); 8].map(|()| self.byte()).into_iter()
    }

    /// At most `most` bytes, under a length of one byte, or of three if it is 255.
    pub fn take(&mut self, most: usize) -> &'a [u8] {
        let length = match self.byte() {
            u8::MAX => usize::from(self.word()),
            short => usize::from(short),
        };
        let (taken, rest) = self.rest.split_at(length.min(most).min(self.rest.len()));
        self.rest = rest;
        taken
    }

    /// All that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        core::mem::take(&mut self.rest)
    }
}

/// The form in which [`Cut::take`] gives these bytes back.
pub fn framed(bytes: &[u8]) -> Vec<u8> {
    let mut framed = match u8::try_from(bytes.len()) {
        Ok(short) if short < u8::MAX => vec![short],
        _ => [&[u8::MAX][..], &(bytes.len() as u16).to_le_bytes()].concat(),
    };
    framed.extend_from_slice(bytes);
    framed
}
