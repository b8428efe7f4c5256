//! LCS: the longest common subsequence of two strings.

use super::call::{Call, Done, Refusal, SYNTAX};

/// Cells of the table at most: it is kept whole, four bytes each.
const MAX_CELLS: usize = 16 << 20;

#[derive(Debug, Default)]
struct Options {
    length: bool,
    index: bool,
    with_lengths: bool,
    least: i64,
}

fn options(call: &Call<'_, '_>) -> Result<Options, Refusal> {
    let mut options = Options::default();
    let mut at = 3;
    while at < call.args.len() {
        match (call.word(at).as_str(), call.args.len() - at) {
            ("LEN", _) => options.length = true,
            ("IDX", _) => options.index = true,
            ("WITHMATCHLEN", _) => options.with_lengths = true,
            ("MINMATCHLEN", 2..) => {
                at += 1;
                options.least = call.integer(at)?.max(0);
            }
            _ => return Err(SYNTAX),
        }
        at += 1;
    }
    if options.length && options.index {
        return Err("ERR If you want both the length and indexes, please just use IDX.".into());
    }
    Ok(options)
}

/// Lengths of the longest common subsequences of all beginnings of two texts.
struct Table {
    cells: Vec<u32>,
    width: usize,
}

impl Table {
    fn new(a: &[u8], b: &[u8]) -> Self {
        let width = b.len() + 1;
        let mut table = Self {
            cells: vec![0; (a.len() + 1) * width],
            width,
        };
        for (i, x) in a.iter().enumerate() {
            for (j, y) in b.iter().enumerate() {
                let best = if x == y {
                    table.at(i, j) + 1
                } else {
                    table.at(i, j + 1).max(table.at(i + 1, j))
                };
                table.cells[(i + 1) * width + j + 1] = best;
            }
        }
        table
    }

    fn at(&self, i: usize, j: usize) -> u32 {
        self.cells[i * self.width + j]
    }
}

/// A piece that both texts have: where it begins in each, and its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Match {
    a: usize,
    b: usize,
    length: usize,
}

/// The common subsequence, and the pieces that it is made of, the last first.
fn common(table: &Table, a: &[u8], b: &[u8]) -> (Vec<u8>, Vec<Match>) {
    let (mut text, mut matches) = (Vec::new(), Vec::<Match>::new());
    let (mut i, mut j) = (a.len(), b.len());
    while i > 0 && j > 0 {
        if a[i - 1] == b[j - 1] {
            text.push(a[i - 1]);
            (i, j) = (i - 1, j - 1);
            match matches.last_mut() {
                Some(last) if last.a == i + 1 && last.b == j + 1 => {
                    *last = Match {
                        a: i,
                        b: j,
                        length: last.length + 1,
                    }
                }
                _ => matches.push(Match { a: i, b: j, length: 1 }),
            }
        } else if table.at(i - 1, j) > table.at(i, j - 1) {
            i -= 1;
        } else {
            j -= 1;
        }
    }
    text.reverse();
    (text, matches)
}

pub(super) fn lcs(call: &mut Call<'_, '_>) -> Done {
    let wrong = |_| Refusal::Borrowed("ERR The specified keys must contain string values");
    let a = call.string(&call.args[1]).map_err(wrong)?.unwrap_or_default().to_vec();
    let b = call.string(&call.args[2]).map_err(wrong)?.unwrap_or_default().to_vec();
    let options = options(call)?;
    if (a.len() + 1).saturating_mul(b.len() + 1) > MAX_CELLS {
        return Err("ERR the strings are too long: the product of their lengths is limited to 16 Mi".into());
    }
    let table = Table::new(&a, &b);
    let length = i64::from(table.at(a.len(), b.len()));
    if options.length {
        call.reply.integer(length);
        return Ok(());
    }
    let (text, matches) = common(&table, &a, &b);
    if !options.index {
        call.reply.bulk(&text);
        return Ok(());
    }
    let shown: Vec<Match> = matches.into_iter().filter(|found| found.length as i64 >= options.least).collect();
    call.reply.map(2);
    call.reply.bulk(b"matches");
    call.reply.array(shown.len());
    for Match { a, b, length } in shown {
        call.reply.array(2 + usize::from(options.with_lengths));
        for begin in [a, b] {
            call.reply.array(2);
            call.reply.count(begin);
            call.reply.count(begin + length - 1);
        }
        if options.with_lengths {
            call.reply.count(length);
        }
    }
    call.reply.bulk(b"len");
    call.reply.integer(length);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_common_subsequence_comes_with_its_pieces() {
        let (a, b): (&[u8], &[u8]) = (b"ohmytext", b"mynewtext");
        let table = Table::new(a, b);
        assert_eq!(table.at(a.len(), b.len()), 6);
        let (text, matches) = common(&table, a, b);
        assert_eq!(text, b"mytext");
        let expected = [Match { a: 4, b: 5, length: 4 }, Match { a: 2, b: 0, length: 2 }];
        assert_eq!(matches, expected);
    }
}
