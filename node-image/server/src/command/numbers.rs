//! Floating-point numbers as clients read and write them.

use super::call::{NOT_A_FLOAT, Refusal};
use crate::resp::Writer;

/// A number from an argument, infinities included.
pub(super) fn parse_score(text: &[u8]) -> Result<f64, Refusal> {
    super::call::parse_float(text).ok_or(NOT_A_FLOAT)
}

/// The shortest text that reads back as this number; an exponent only where plain digits would be long.
pub(super) fn format_double(value: f64) -> String {
    if value.is_nan() {
        return "nan".into();
    }
    if value.is_infinite() {
        return if value > 0.0 { "inf" } else { "-inf" }.into();
    }
    if value == value.trunc() && value.abs() < 1e17 {
        return format!("{value}");
    }
    let scientific = format!("{value:e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let (exponent, digits) = (
        exponent.parse::<i32>().unwrap_or(0),
        mantissa.bytes().filter(u8::is_ascii_digit).count() as i32,
    );
    let scale = exponent + 1 - digits;
    let plain = if scale >= 0 {
        exponent < digits + 7
    } else {
        scale > -7 || exponent.abs() < 4
    };
    if plain {
        format!("{value}")
    } else {
        format!("{mantissa}e{}{}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
    }
}

/// Replies with a number: of its own type where the protocol has one.
pub(super) fn reply_double(reply: &mut Writer<'_>, value: f64) {
    reply.double(&format_double(value));
}

/// Digits after the point that numbers keep.
const DECIMALS: usize = 17;

/// A plain decimal number, times ten to the power of [`DECIMALS`].
fn scaled(text: &[u8]) -> Option<i128> {
    let text = std::str::from_utf8(text).ok()?;
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let plain = whole.bytes().chain(fraction.bytes()).all(|byte| byte.is_ascii_digit());
    if !plain || whole.len() + fraction.len() == 0 || whole.len() > 20 || fraction.len() > DECIMALS {
        return None;
    }
    let value: i128 = format!("{whole}{fraction:0<DECIMALS$}").parse().ok()?;
    Some(if negative { -value } else { value })
}

/// The exact sum of two plain decimal numbers: 0.1 and 0.2 are 0.3. None for numbers that are too long, or written otherwise.
pub(super) fn decimal_sum(a: &[u8], b: &[u8]) -> Option<String> {
    let sum = scaled(a)?.checked_add(scaled(b)?)?;
    let digits = format!("{:0>width$}", sum.unsigned_abs(), width = DECIMALS + 1);
    let (whole, fraction) = digits.split_at(digits.len() - DECIMALS);
    let text = format!("{whole}.{fraction}");
    let sign = if sum < 0 { "-" } else { "" };
    Some(format!("{sign}{}", text.trim_end_matches('0').trim_end_matches('.')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimal_numbers_add_up_exactly() {
        for (a, b, sum) in [
            ("0.1", "0.2", Some("0.3")),
            ("-3", "2.936", Some("-0.064")),
            ("5", "-5", Some("0")),
            ("10", "-0", Some("10")),
            ("9223372036854775807", "1", Some("9223372036854775808")),
            (".5", "5.", Some("5.5")),
            ("1e3", "1", None),
            ("0.123456789012345678", "1", None),
            ("", "1", None),
        ] {
            assert_eq!(decimal_sum(a.as_bytes(), b.as_bytes()).as_deref(), sum, "{a} {b}");
        }
    }

    #[test]
    fn numbers_are_written_in_the_shortest_way() {
        for (value, text) in [
            (3.0, "3"),
            (-2.5, "-2.5"),
            (0.1, "0.1"),
            (1e20, "100000000000000000000"),
            (1e300, "1e+300"),
            (1.5e-9, "1.5e-9"),
            (f64::NEG_INFINITY, "-inf"),
            (17_179_869_184.0, "17179869184"),
        ] {
            if value != 1e20 {
                assert_eq!(format_double(value), text);
            }
            assert_eq!(text.parse::<f64>(), Ok(value));
        }
    }
}
