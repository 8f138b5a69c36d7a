//! How much memory the process uses.

use std::fs;

use super::metrics;

/// Resident bytes of this process, from `/proc/self/statm`; `None` where there is no such file.
pub fn resident_bytes() -> Option<u64> {
    let statm = fs::read_to_string("/proc/self/statm").ok()?;
    let pages = resident_pages(&statm)?;
    // SAFETY: sysconf reads a constant of the system and touches no memory of ours.
    let page_bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    Some(pages * u64::try_from(page_bytes).ok()?)
}

/// Samples [`resident_bytes`] into the metric and returns it.
pub fn sample() -> Option<u64> {
    let bytes = resident_bytes()?;
    metrics::RESIDENT_BYTES.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    Some(bytes)
}

/// The second field: `size resident shared text lib data dt`.
fn resident_pages(statm: &str) -> Option<u64> {
    statm.split_ascii_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    #[test]
    fn reads_the_second_field() {
        assert_eq!(super::resident_pages("5000 1234 900 1 0 400 0\n"), Some(1234));
        assert_eq!(super::resident_pages("5000"), None);
    }

    #[test]
    fn a_running_process_is_resident() {
        let bytes = super::sample().expect("Linux has /proc/self/statm");
        assert!(bytes > 64 * 1024, "{bytes}");
    }
}
