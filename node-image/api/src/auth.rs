//! Mutual proof of the store's token: HMAC-SHA256 over both nonces, so the token itself never travels and an
//! overheard proof is worth nothing on another connection. It does not hide or protect what follows; that is TLS's work.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// Random bytes that each side adds.
pub type Nonce = [u8; 16];

/// Which side proves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The side that dialled.
    Client,
    /// The side that answered.
    Server,
}

/// The proof, in hexadecimal, that `side` knows `token`.
#[must_use]
pub fn prove(token: &[u8], side: Side, server_nonce: &str, client_nonce: &str) -> String {
    let mac = mac(token, side, server_nonce, client_nonce);
    mac.finalize().into_bytes().iter().map(|b| format!("{b:02x}")).collect()
}

/// Whether `proof` shows that `side` knows `token`, in constant time.
#[must_use]
pub fn verify(token: &[u8], side: Side, server_nonce: &str, client_nonce: &str, proof: &str) -> bool {
    let Some(bytes) = unhex(proof) else { return false };
    mac(token, side, server_nonce, client_nonce).verify_slice(&bytes).is_ok()
}

/// Whether two secrets are equal, in a time that tells only whether their lengths are.
#[must_use]
pub fn equal(given: &[u8], expected: &[u8]) -> bool {
    let differences = given
        .iter()
        .zip(expected)
        .fold(0, |sum, (a, b)| std::hint::black_box(sum | (a ^ b)));
    given.len() == expected.len() && differences == 0
}

fn mac(token: &[u8], side: Side, server_nonce: &str, client_nonce: &str) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(token).expect("HMAC takes a key of any length");
    let side: &[u8] = match side {
        Side::Client => b"quorate client",
        Side::Server => b"quorate server",
    };
    for part in [side, server_nonce.as_bytes(), client_nonce.as_bytes()] {
        mac.update(&(part.len() as u64).to_le_bytes());
        mac.update(part);
    }
    mac
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.is_ascii() || !text.len().is_multiple_of(2) {
        return None;
    }
    (0..text.len())
        .step_by(2)
        .map(|i| u8::from_str_radix(&text[i..i + 2], 16).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_holds_for_its_side_token_and_nonces_only() {
        let proof = prove(b"token", Side::Client, "s", "c");
        assert!(verify(b"token", Side::Client, "s", "c", &proof));
        assert!(!verify(b"token", Side::Server, "s", "c", &proof));
        assert!(!verify(b"other", Side::Client, "s", "c", &proof));
        assert!(!verify(b"token", Side::Client, "sc", "", &proof));
        assert!(!verify(b"token", Side::Client, "s", "c", "é"));
    }
}
