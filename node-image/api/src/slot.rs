//! Hash slots, as in Redis Cluster: CRC16 (XMODEM) of the key, or of its hash tag, modulo 16,384.

/// The number of hash slots of a store.
pub const SLOTS: u16 = 16_384;

/// Bytes that one step of the checksum takes.
const STRIDE: usize = 8;

/// `TABLES[n][byte]`: what `byte`, followed by `n` zero bytes, adds to the checksum.
const TABLES: [[u16; 256]; STRIDE] = {
    let mut tables = [[0u16; 256]; STRIDE];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = (byte as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 != 0 { (crc << 1) ^ 0x1021 } else { crc << 1 };
            bit += 1;
        }
        tables[0][byte] = crc;
        byte += 1;
    }
    let mut zeros = 1;
    while zeros < STRIDE {
        let mut byte = 0;
        while byte < 256 {
            let before = tables[zeros - 1][byte];
            tables[zeros][byte] = (before << 8) ^ tables[0][(before >> 8) as usize];
            byte += 1;
        }
        zeros += 1;
    }
    tables
};

/// CRC16 (XMODEM), several bytes a step: byte by byte, each step waits for the one before, and that alone would be a
/// twentieth of a pipelined GET.
fn crc16(bytes: &[u8]) -> u16 {
    let (strides, rest) = bytes.as_chunks::<STRIDE>();
    let crc = strides.iter().fold(0u16, |crc, stride| {
        let [high, low] = crc.to_be_bytes();
        let mixed = [
            stride[0] ^ high,
            stride[1] ^ low,
            stride[2],
            stride[3],
            stride[4],
            stride[5],
            stride[6],
            stride[7],
        ];
        mixed
            .iter()
            .zip(TABLES.iter().rev())
            .fold(0, |sum, (&byte, table)| sum ^ table[usize::from(byte)])
    });
    rest.iter()
        .fold(crc, |crc, &byte| (crc << 8) ^ TABLES[0][usize::from((crc >> 8) as u8 ^ byte)])
}

/// The part of the key that is hashed: what stands between the first `{` and the next `}`, if that is not
/// empty, else the whole key.
#[must_use]
pub fn hash_tag(key: &[u8]) -> &[u8] {
    let Some(open) = key.iter().position(|&b| b == b'{') else {
        return key;
    };
    match key[open + 1..].iter().position(|&b| b == b'}') {
        Some(length) if length > 0 => &key[open + 1..open + 1 + length],
        _ => key,
    }
}

/// The slot of a key, 0 ≤ slot < [`SLOTS`].
#[must_use]
pub fn slot_of(key: &[u8]) -> u16 {
    crc16(hash_tag(key)) % SLOTS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_redis_cluster() {
        assert_eq!(slot_of(b"123456789"), 0x31C3 % SLOTS);
        assert_eq!(slot_of(b"foo"), 12182);
        assert_eq!(slot_of(b"{user1000}.following"), slot_of(b"{user1000}.followers"));
        assert_eq!(hash_tag(b"foo{}{bar}"), b"foo{}{bar}");
        assert_eq!(hash_tag(b"foo{{bar}}zap"), b"{bar");
    }

    #[test]
    fn the_checksum_of_strides_is_that_of_single_bytes() {
        let bytes: Vec<u8> = (0..100u32).map(|n| (n * 167 + 13) as u8).collect();
        for length in 0..bytes.len() {
            let bit_by_bit = bytes[..length].iter().fold(0u16, |crc, &byte| {
                (0..8).fold(crc ^ (u16::from(byte) << 8), |crc, _| {
                    if crc & 0x8000 != 0 { (crc << 1) ^ 0x1021 } else { crc << 1 }
                })
            });
            assert_eq!(crc16(&bytes[..length]), bit_by_bit, "{length} bytes");
        }
    }
}
