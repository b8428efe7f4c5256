//! Where a test ends the process: before one of the operations that change which files there are. Elsewhere it never does.

#[cfg(test)]
thread_local!(static LEFT: std::cell::Cell<Option<u32>> = const { std::cell::Cell::new(None) });

/// After so many operations of this thread the next one fails, and so do all after it; None lets them pass.
#[cfg(test)]
pub(crate) fn after(operations: Option<u32>) {
    LEFT.set(operations);
}

#[cfg(test)]
pub(super) fn point() -> std::io::Result<()> {
    match LEFT.get() {
        Some(0) => Err(std::io::Error::other("the process ends here")),
        left => {
            LEFT.set(left.map(|left| left - 1));
            Ok(())
        }
    }
}

#[cfg(not(test))]
#[expect(clippy::unnecessary_wraps, reason = "it fails in tests")]
pub(super) fn point() -> std::io::Result<()> {
    Ok(())
}
