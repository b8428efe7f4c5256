//! Takes whole commands off the front of what a client sent.
//!
//! Arguments share the memory of the input. A command that has not arrived whole leaves the input as it is, and is not
//! looked at again before it has grown to where the parser stopped.

use bytes::{Buf, Bytes, BytesMut};

/// What a client may send.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Arguments of a command.
    pub arguments: usize,
    /// Bytes of an argument.
    pub bulk: usize,
    /// Bytes of a whole command.
    pub command: usize,
}

impl Limits {
    /// Of a client that is known.
    pub const KNOWN: Self = Self {
        arguments: 1 << 20,
        bulk: 16 << 20,
        command: 32 << 20,
    };
    /// Of one that has still to authenticate.
    pub const STRANGER: Self = Self {
        arguments: 10,
        bulk: 16 << 10,
        command: 32 << 10,
    };
}

/// Longest inline command, and longest line of a header.
const MAX_LINE: usize = 64 << 10;

/// Why a client is cut off; the text goes to it first.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// More arguments than [`Limits::arguments`], or no number.
    #[error("Protocol error: invalid multibulk length")]
    MultibulkLength,
    /// More arguments than a stranger may send.
    #[error("Protocol error: unauthenticated multibulk length")]
    StrangerMultibulkLength,
    /// An argument above [`Limits::bulk`], or no number.
    #[error("Protocol error: invalid bulk length")]
    BulkLength,
    /// An argument longer than a stranger may send.
    #[error("Protocol error: unauthenticated bulk length")]
    StrangerBulkLength,
    /// A command above [`Limits::command`].
    #[error("Protocol error: too big request")]
    TooLong,
    /// A line without end.
    #[error("Protocol error: too big inline request")]
    LineTooLong,
    /// Something else than an argument.
    #[error("Protocol error: expected '$', got '{0}'")]
    Expected(char),
    /// An inline command whose quotes do not close.
    #[error("Protocol error: unbalanced quotes in request")]
    Quotes,
}

/// How far the command at the front of the input was understood.
#[derive(Clone, Copy, Debug)]
struct Progress {
    /// Its arguments.
    count: usize,
    /// Where the next one begins that is not whole.
    at: usize,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Parser {
    /// The input is not looked at before it is this long.
    needed: usize,
    progress: Option<Progress>,
    /// Where the whole arguments are, each with its length.
    whole: Vec<(usize, usize)>,
}

impl Parser {
    /// A parser for one connection.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next command into `args`; false if it has not arrived whole. An empty line is skipped.
    ///
    /// # Errors
    /// See [`ProtocolError`]: the connection cannot go on.
    pub fn next(&mut self, input: &mut BytesMut, limits: Limits, args: &mut Vec<Bytes>) -> Result<bool, ProtocolError> {
        loop {
            if input.is_empty() || input.len() < self.needed {
                return Ok(false);
            }
            self.needed = 0;
            if input[0] == b'*' {
                match self.multibulk(input, limits, args)? {
                    Some(0) => {}
                    Some(_) => return Ok(true),
                    None => return Ok(false),
                }
            } else {
                match inline(input, args)? {
                    Some(0) => {}
                    Some(_) => return Ok(true),
                    None => return Ok(false),
                }
            }
        }
    }

    /// The number of arguments, once the command is whole.
    fn multibulk(&mut self, input: &mut BytesMut, limits: Limits, args: &mut Vec<Bytes>) -> Result<Option<usize>, ProtocolError> {
        let stranger = limits.arguments < Limits::KNOWN.arguments;
        let mut progress = match self.progress.take() {
            Some(progress) => progress,
            None => {
                let Some((count, at)) = header(input, 0).map_err(|_| ProtocolError::MultibulkLength)? else {
                    return Ok(None);
                };
                let count = usize::try_from(count).unwrap_or(0);
                if count > Limits::KNOWN.arguments {
                    return Err(ProtocolError::MultibulkLength);
                }
                if count > limits.arguments {
                    return Err(ProtocolError::StrangerMultibulkLength);
                }
                self.whole.clear();
                Progress { count, at }
            }
        };
        // First find the end, then take: an argument that is missing must leave the others in place.
        while self.whole.len() < progress.count {
            let found = argument(input, progress.at, limits, stranger)?;
            match found {
                Some((body, length)) if input.len() >= body + length + 2 => {
                    self.whole.push((body, length));
                    progress.at = body + length + 2;
                }
                incomplete => {
                    if let Some((body, length)) = incomplete {
                        self.needed = body + length + 2;
                        input.reserve(self.needed - input.len());
                    }
                    self.progress = Some(progress);
                    return Ok(None);
                }
            }
        }
        let Progress { count, at } = progress;
        let mut command = input.split_to(at).freeze();
        args.clear();
        if let Some((&(body, length), before)) = self.whole.split_last() {
            args.extend(before.iter().map(|&(body, length)| command.slice(body..body + length)));
            command.truncate(body + length);
            command.advance(body);
            args.push(command);
        }
        Ok(Some(count))
    }
}

/// Where the bytes of the argument at `at` begin, and how many they are, once that is there to read.
fn argument(input: &[u8], at: usize, limits: Limits, stranger: bool) -> Result<Option<(usize, usize)>, ProtocolError> {
    match input.get(at) {
        None => return Ok(None),
        Some(b'$') => {}
        Some(&other) => return Err(ProtocolError::Expected(char::from(other))),
    }
    let Some((length, body)) = header(input, at).map_err(|_| ProtocolError::BulkLength)? else {
        return Ok(None);
    };
    let length = usize::try_from(length).map_err(|_| ProtocolError::BulkLength)?;
    if length > limits.bulk {
        return Err(if stranger && length <= Limits::KNOWN.bulk {
            ProtocolError::StrangerBulkLength
        } else {
            ProtocolError::BulkLength
        });
    }
    if body + length + 2 > limits.command {
        return Err(ProtocolError::TooLong);
    }
    Ok(Some((body, length)))
}

struct NotANumber;

/// The number after the type byte at `at`, and where the next line begins.
fn header(input: &[u8], at: usize) -> Result<Option<(i64, usize)>, NotANumber> {
    let digits = &input[at + 1..];
    let mut value: i64 = 0;
    let mut negative = false;
    for (offset, &byte) in digits.iter().enumerate().take(24) {
        match byte {
            b'0'..=b'9' => {
                value = value
                    .checked_mul(10)
                    .and_then(|value| value.checked_add(i64::from(byte - b'0')))
                    .ok_or(NotANumber)?;
            }
            b'-' if offset == 0 => negative = true,
            b'\r' if offset > usize::from(negative) => {
                return match digits.get(offset + 1) {
                    None => Ok(None),
                    Some(b'\n') => Ok(Some((if negative { -value } else { value }, at + 1 + offset + 2))),
                    Some(_) => Err(NotANumber),
                };
            }
            _ => return Err(NotANumber),
        }
    }
    if digits.len() >= 24 { Err(NotANumber) } else { Ok(None) }
}

/// A line of words, as people type it.
fn inline(input: &mut BytesMut, args: &mut Vec<Bytes>) -> Result<Option<usize>, ProtocolError> {
    let Some(end) = memchr::memchr(b'\n', &input[..input.len().min(MAX_LINE)]) else {
        return if input.len() >= MAX_LINE {
            Err(ProtocolError::LineTooLong)
        } else {
            Ok(None)
        };
    };
    let mut line = input.split_to(end + 1).freeze();
    line.truncate(end);
    if line.last() == Some(&b'\r') {
        line.truncate(end - 1);
    }
    args.clear();
    let mut rest = &line[..];
    loop {
        while rest.first().is_some_and(u8::is_ascii_whitespace) {
            rest = &rest[1..];
        }
        if rest.is_empty() {
            return Ok(Some(args.len()));
        }
        let (word, length) = word(rest).ok_or(ProtocolError::Quotes)?;
        args.push(Bytes::from(word));
        rest = &rest[length..];
    }
}

/// One word, which may be quoted, and the bytes that it took.
fn word(input: &[u8]) -> Option<(Vec<u8>, usize)> {
    let mut word = Vec::new();
    let mut at = 0;
    while let Some(&byte) = input.get(at) {
        match byte {
            b'"' | b'\'' => {
                at = quoted(input, at, &mut word)?;
                // A closing quote ends the word.
                return match input.get(at) {
                    None => Some((word, at)),
                    Some(byte) if byte.is_ascii_whitespace() => Some((word, at)),
                    Some(_) => None,
                };
            }
            byte if byte.is_ascii_whitespace() => break,
            byte => word.push(byte),
        }
        at += 1;
    }
    Some((word, at))
}

/// The text between the quote at `at` and its match; gives the index behind that.
fn quoted(input: &[u8], at: usize, word: &mut Vec<u8>) -> Option<usize> {
    let quote = input[at];
    let mut at = at + 1;
    loop {
        let byte = *input.get(at)?;
        at += 1;
        if byte == quote {
            return Some(at);
        }
        if byte != b'\\' {
            word.push(byte);
            continue;
        }
        let escaped = *input.get(at)?;
        if quote == b'\'' {
            if escaped == b'\'' {
                at += 1;
                word.push(b'\'');
            } else {
                word.push(b'\\');
            }
            continue;
        }
        at += 1;
        match escaped {
            b'n' => word.push(b'\n'),
            b'r' => word.push(b'\r'),
            b't' => word.push(b'\t'),
            b'b' => word.push(8),
            b'a' => word.push(7),
            b'x' => {
                let hex = input.get(at..at + 2).and_then(|digits| std::str::from_utf8(digits).ok());
                match hex.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
                    Some(byte) => {
                        word.push(byte);
                        at += 2;
                    }
                    None => word.push(b'x'),
                }
            }
            other => word.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encode(command: &[Vec<u8>]) -> Vec<u8> {
        let mut out = format!("*{}\r\n", command.len()).into_bytes();
        for arg in command {
            out.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
            out.extend_from_slice(arg);
            out.extend_from_slice(b"\r\n");
        }
        out
    }

    fn one(text: &[u8]) -> Result<Option<Vec<Bytes>>, ProtocolError> {
        let mut args = Vec::new();
        let whole = Parser::new().next(&mut BytesMut::from(text), Limits::KNOWN, &mut args)?;
        Ok(whole.then_some(args))
    }

    proptest! {
        #[test]
        fn commands_come_back_however_they_are_cut(
            commands in prop::collection::vec(prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..5), 1..6),
            piece in 1usize..50,
        ) {
            let bytes: Vec<u8> = commands.iter().flat_map(|command| encode(command)).collect();
            let (mut parser, mut input, mut args, mut parsed) = (Parser::new(), BytesMut::new(), Vec::new(), Vec::new());
            for piece in bytes.chunks(piece) {
                input.extend_from_slice(piece);
                while parser.next(&mut input, Limits::KNOWN, &mut args).unwrap() {
                    parsed.push(args.iter().map(|arg| arg.to_vec()).collect::<Vec<_>>());
                }
            }
            prop_assert_eq!(parsed, commands);
            prop_assert!(input.is_empty());
        }

        #[test]
        fn no_input_makes_the_parser_fail_otherwise_than_by_an_error(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let (mut input, mut args) = (BytesMut::from(&bytes[..]), Vec::new());
            let mut parser = Parser::new();
            while let Ok(true) = parser.next(&mut input, Limits::STRANGER, &mut args) {}
        }
    }

    #[test]
    fn people_may_type_commands_with_quotes() {
        let words = one(b"SET \"a b\\n\" 'c\\'d' e\r\n").unwrap().unwrap();
        assert_eq!(
            words,
            ["SET", "a b\n", "c'd", "e"].map(|word| Bytes::copy_from_slice(word.as_bytes()))
        );
        assert_eq!(one(b"\r\n\r\nPING\r\n").unwrap().unwrap(), ["PING"].map(Bytes::from_static_str));
        assert_eq!(one(b"SET \"a\r\n"), Err(ProtocolError::Quotes));
    }

    trait FromStaticStr {
        fn from_static_str(text: &'static str) -> Self;
    }
    impl FromStaticStr for Bytes {
        fn from_static_str(text: &'static str) -> Self {
            Bytes::from_static(text.as_bytes())
        }
    }

    #[test]
    fn what_is_too_long_or_no_number_is_refused() {
        assert_eq!(one(b"*99999999\r\n"), Err(ProtocolError::MultibulkLength));
        assert_eq!(one(b"*x\r\n"), Err(ProtocolError::MultibulkLength));
        assert_eq!(one(b"*1\r\n$99999999\r\n"), Err(ProtocolError::BulkLength));
        assert_eq!(one(b"*1\r\n$-1\r\n"), Err(ProtocolError::BulkLength));
        assert_eq!(one(b"*1\r\n:1\r\n"), Err(ProtocolError::Expected(':')));
        let mut args = Vec::new();
        let error = Parser::new().next(&mut BytesMut::from(&b"*11\r\n"[..]), Limits::STRANGER, &mut args);
        assert_eq!(error, Err(ProtocolError::StrangerMultibulkLength));
    }
}
