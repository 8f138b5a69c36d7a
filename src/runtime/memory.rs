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

/// Gives back the pages of the program's own code that only starting up needed; the kernel reads again, from its cache,
/// what is used after all. Returns the bytes of code that were let go of.
///
/// Code is mapped in blocks around each place it runs, so a start touches most of a small program once. Only mappings
/// that can be executed and not written are let go of: nothing can have been changed in them.
pub fn release_startup_code() -> usize {
    let Ok(own) = std::env::current_exe() else { return 0 };
    let Ok(maps) = fs::read_to_string("/proc/self/maps") else { return 0 };
    let mut released = 0;
    for (start, end) in code_ranges(&maps, &own.to_string_lossy()) {
        // SAFETY: the range is one whole mapping of this process, private, backed by a file and never written. Dropping
        // its pages changes no byte that can be read there: the next use finds the same bytes in the file.
        let done = unsafe { libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_DONTNEED) };
        if done == 0 {
            released += end - start;
        }
    }
    released
}

/// Start and end of each `r-xp` mapping of the file `own`.
fn code_ranges(maps: &str, own: &str) -> Vec<(usize, usize)> {
    let ranges = maps.lines().filter_map(|line| {
        let mut parts = line.split_ascii_whitespace();
        let (range, mode) = (parts.next()?, parts.next()?);
        let path = parts.nth(3)?;
        let (start, end) = range.split_once('-')?;
        let address = |text: &str| usize::from_str_radix(text, 16).ok();
        (mode == "r-xp" && path == own).then(|| Some((address(start)?, address(end)?))).flatten()
    });
    ranges.collect()
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
    fn only_code_of_the_program_is_let_go_of() {
        let maps = "00400000-00410000 r--p 00000000 08:01 7 /bin/own\n\
                    00410000-00500000 r-xp 00010000 08:01 7 /bin/own\n\
                    00500000-00510000 rw-p 00100000 08:01 7 /bin/own\n\
                    7f0000000000-7f0000001000 r-xp 00000000 08:01 9 /lib/other.so\n\
                    7ffd00000000-7ffd00001000 r-xp 00000000 00:00 0 [vdso]\n";
        assert_eq!(super::code_ranges(maps, "/bin/own"), [(0x41_0000, 0x50_0000)]);
    }

    #[test]
    fn the_program_goes_on_without_the_pages_it_let_go_of() {
        assert!(super::release_startup_code() > 0);
        assert!(super::sample().is_some());
    }

    #[test]
    fn a_running_process_is_resident() {
        let bytes = super::sample().expect("Linux has /proc/self/statm");
        assert!(bytes > 64 * 1024, "{bytes}");
    }
}
