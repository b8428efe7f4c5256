//! Keys and values of the load, the same for every system: 16-byte keys, drawn uniformly by a generator that starts
//! alike in every run.

/// Digits of a key's number.
pub const KEY_DIGITS: usize = 12;

/// The name of a key: 16 bytes, as long as numbers stay below 10^12.
#[must_use]
pub fn key_name(number: u64) -> String {
    format!("key:{number:0KEY_DIGITS$}")
}

/// A value: incompressible enough, and the same in every run.
#[must_use]
pub fn value(len: usize) -> Vec<u8> {
    let mut source = KeySource::new(26);
    (0..len).map(|_| b'a' + u8::try_from(source.draw()).expect("below 26")).collect()
}

/// Overwrites `digits` with the last digits of `number`.
pub fn write_digits(digits: &mut [u8], mut number: u64) {
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + u8::try_from(number % 10).expect("below 10");
        number /= 10;
    }
}

/// Numbers below a bound, the same in every run (xorshift64*).
#[derive(Debug)]
pub struct KeySource {
    state: u64,
    bound: u64,
}

impl KeySource {
    /// Numbers from 0 to `bound` − 1, which is at least 1 number.
    #[must_use]
    pub fn new(bound: u64) -> Self {
        Self {
            state: 0x9E37_79B9_7F4A_7C15,
            bound,
        }
    }

    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        (self.state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 16) % self.bound
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_cover_their_space() {
        let mut source = KeySource::new(10);
        let mut seen = [0; 10];
        for _ in 0..1000 {
            seen[usize::try_from(source.draw()).unwrap()] += 1;
        }
        assert!(seen.iter().all(|&count| count > 50), "{seen:?}");
    }

    #[test]
    fn digits_are_those_of_the_name() {
        let mut name = key_name(0).into_bytes();
        let start = name.len() - KEY_DIGITS;
        write_digits(&mut name[start..], 907);
        assert_eq!(name, key_name(907).into_bytes());
    }
}
