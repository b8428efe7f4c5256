//! Lines of several logs in one order.

use k8s_openapi::jiff::Timestamp;

/// A line as the API server gives it with timestamps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// The pod.
    pub(super) pod: String,
    /// When the container wrote it. None where that cannot be read.
    pub(super) at: Option<Timestamp>,
    /// What it wrote.
    pub(super) text: String,
}

impl Line {
    /// Takes the timestamp off.
    pub(super) fn parse(pod: &str, line: &str) -> Self {
        let (at, text) = match line.split_once(' ') {
            Some((moment, text)) if moment.parse::<Timestamp>().is_ok() => (moment.parse().ok(), text),
            // An empty line has nothing after its timestamp.
            None if line.parse::<Timestamp>().is_ok() => (line.parse().ok(), ""),
            _ => (None, line),
        };
        Self {
            pod: pod.to_owned(),
            at,
            text: text.to_owned(),
        }
    }

    /// As it is printed; pods are padded to `width`.
    pub(super) fn print(&self, width: usize, timestamps: bool) -> String {
        let Self { pod, at, text } = self;
        let label = format!("[{pod}]");
        let width = width + 2;
        match at.filter(|_| timestamps) {
            Some(at) => format!("{label:<width$} {at} {text}"),
            None => format!("{label:<width$} {text}"),
        }
    }
}

/// Merges logs by time; the lines of one pod keep their order, and one without a time stays with the line before it.
pub(super) fn merge(logs: Vec<Vec<Line>>) -> Vec<Line> {
    let mut keyed: Vec<(Option<Timestamp>, Line)> = Vec::new();
    for log in logs {
        let mut last = None;
        for line in log {
            last = last.max(line.at);
            keyed.push((last, line));
        }
    }
    // Stable: equal times keep the order of the pods.
    keyed.sort_by_key(|(at, _)| *at);
    keyed.into_iter().map(|(_, line)| line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(pod: &str, lines: &[&str]) -> Vec<Line> {
        lines.iter().map(|line| Line::parse(pod, line)).collect()
    }

    #[test]
    fn logs_are_merged_by_time_and_each_keeps_its_order() {
        let first = log(
            "orders-0-0",
            &["2026-01-01T00:00:01.5Z one", "continued", "2026-01-01T00:00:03Z three"],
        );
        let second = log(
            "orders-0-10",
            &[
                "2026-01-01T00:00:02Z two",
                "2026-01-01T00:00:01Z its clock stepped back",
                "2026-01-01T00:00:04Z",
            ],
        );
        let printed: Vec<String> = merge(vec![first, second]).iter().map(|line| line.print(11, false)).collect();
        assert_eq!(
            printed,
            [
                "[orders-0-0]  one",
                "[orders-0-0]  continued",
                "[orders-0-10] two",
                "[orders-0-10] its clock stepped back",
                "[orders-0-0]  three",
                "[orders-0-10] ",
            ]
        );
    }

    #[test]
    fn a_line_may_be_printed_with_its_time() {
        let line = Line::parse("p", "2026-01-01T00:00:01.500000000Z {\"level\":\"info\"}");
        assert_eq!(line.print(1, true), "[p] 2026-01-01T00:00:01.5Z {\"level\":\"info\"}");
    }
}
