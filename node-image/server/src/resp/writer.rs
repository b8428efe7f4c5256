//! Prints replies. What RESP3 has types for and RESP2 has not is printed as RESP2 clients know it.

use bytes::{BufMut, BytesMut};

/// The protocol that a client asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Version {
    /// What clients speak that said nothing.
    #[default]
    Resp2,
    /// After HELLO 3.
    Resp3,
}

/// Appends replies to a buffer.
#[derive(Debug)]
pub struct Writer<'a> {
    out: &'a mut BytesMut,
    version: Version,
}

impl<'a> Writer<'a> {
    /// A writer for a client that speaks `version`.
    #[must_use]
    pub fn new(out: &'a mut BytesMut, version: Version) -> Self {
        Self { out, version }
    }

    /// What the client speaks.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// The buffer, for a reply that others write.
    pub fn buffer(&mut self) -> &mut BytesMut {
        self.out
    }

    fn line(&mut self, kind: u8, text: &[u8]) {
        self.out.reserve(text.len() + 3);
        self.out.put_u8(kind);
        self.out.put_slice(text);
        self.out.put_slice(b"\r\n");
    }

    fn number(&mut self, kind: u8, value: impl itoa::Integer) {
        self.line(kind, itoa::Buffer::new().format(value).as_bytes());
    }

    /// `+text`
    pub fn simple(&mut self, text: &str) {
        self.line(b'+', text.as_bytes());
    }

    /// `+OK`
    pub fn ok(&mut self) {
        self.out.put_slice(b"+OK\r\n");
    }

    /// `-CODE text`; line ends in it become spaces.
    pub fn error(&mut self, text: &str) {
        if text.bytes().any(|byte| byte == b'\r' || byte == b'\n') {
            let clean: Vec<u8> = text
                .bytes()
                .map(|byte| if byte == b'\r' || byte == b'\n' { b' ' } else { byte })
                .collect();
            self.line(b'-', &clean);
        } else {
            self.line(b'-', text.as_bytes());
        }
    }

    /// `:value`
    pub fn integer(&mut self, value: i64) {
        self.number(b':', value);
    }

    /// A count.
    pub fn count(&mut self, value: usize) {
        self.number(b':', value);
    }

    /// A string of any bytes.
    pub fn bulk(&mut self, bytes: &[u8]) {
        self.out.reserve(bytes.len() + 24);
        self.number(b'$', bytes.len());
        self.out.put_slice(bytes);
        self.out.put_slice(b"\r\n");
    }

    /// A number, as a string.
    pub fn bulk_number(&mut self, value: i64) {
        self.bulk(itoa::Buffer::new().format(value).as_bytes());
    }

    /// A string, or nothing.
    pub fn bulk_or_null(&mut self, bytes: Option<&[u8]>) {
        match bytes {
            Some(bytes) => self.bulk(bytes),
            None => self.null(),
        }
    }

    /// Nothing, where a string could be.
    pub fn null(&mut self) {
        self.out.put_slice(match self.version {
            Version::Resp2 => b"$-1\r\n",
            Version::Resp3 => b"_\r\n",
        });
    }

    /// Nothing, where an array could be.
    pub fn null_array(&mut self) {
        self.out.put_slice(match self.version {
            Version::Resp2 => b"*-1\r\n",
            Version::Resp3 => b"_\r\n",
        });
    }

    /// So many replies follow.
    pub fn array(&mut self, length: usize) {
        self.number(b'*', length);
    }

    /// So many pairs follow.
    pub fn map(&mut self, pairs: usize) {
        match self.version {
            Version::Resp2 => self.number(b'*', 2 * pairs),
            Version::Resp3 => self.number(b'%', pairs),
        }
    }

    /// So many different replies follow.
    pub fn set(&mut self, length: usize) {
        match self.version {
            Version::Resp2 => self.number(b'*', length),
            Version::Resp3 => self.number(b'~', length),
        }
    }

    /// A floating-point number that is written already.
    pub fn double(&mut self, text: &str) {
        match self.version {
            Version::Resp2 => self.bulk(text.as_bytes()),
            Version::Resp3 => self.line(b',', text.as_bytes()),
        }
    }

    /// A text for people.
    pub fn verbatim(&mut self, text: &str) {
        match self.version {
            Version::Resp2 => self.bulk(text.as_bytes()),
            Version::Resp3 => {
                self.number(b'=', text.len() + 4);
                self.out.put_slice(b"txt:");
                self.out.put_slice(text.as_bytes());
                self.out.put_slice(b"\r\n");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_version_prints_its_own_types() {
        let print = |version| {
            let mut out = BytesMut::new();
            let mut writer = Writer::new(&mut out, version);
            writer.map(1);
            writer.bulk(b"a");
            writer.null();
            writer.null_array();
            writer.set(0);
            writer.verbatim("x");
            writer.error("ERR a\r\nb");
            writer.integer(-5);
            out
        };
        assert_eq!(
            print(Version::Resp2),
            "*2\r\n$1\r\na\r\n$-1\r\n*-1\r\n*0\r\n$1\r\nx\r\n-ERR a  b\r\n:-5\r\n"
        );
        assert_eq!(
            print(Version::Resp3),
            "%1\r\n$1\r\na\r\n_\r\n_\r\n~0\r\n=5\r\ntxt:x\r\n-ERR a  b\r\n:-5\r\n"
        );
    }
}
