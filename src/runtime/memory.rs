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

/// Lets go of the pages of the program's own file, code and constants, that are in memory; the kernel maps again, from its
/// cache, what is used after all. Returns the bytes of address space that were let go of.
///
/// Code is mapped in blocks around each place it runs, so a start, or a burst of work, touches most of a small program
/// once, and it would count as resident from then on.
pub fn release_program_pages() -> usize {
    let mut released = 0;
    for (start, end) in constant_ranges() {
        // SAFETY: the range is whole pages of a segment that was never writable, mapped privately from a file. Dropping
        // its pages changes no byte that can be read there: the next use finds the same bytes in the file.
        let done = unsafe { libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_DONTNEED) };
        if done == 0 {
            released += end - start;
        }
    }
    released
}

/// Addresses of the whole pages of each segment of the program that cannot be written and never could be: what the linker
/// protects after relocation lies in a writable one.
fn constant_ranges() -> Vec<(usize, usize)> {
    // SAFETY: both read what the kernel or the C library noted at the start and touch no other memory.
    let (headers, n_headers, page_bytes) =
        unsafe { (libc::getauxval(libc::AT_PHDR), libc::getauxval(libc::AT_PHNUM), libc::sysconf(libc::_SC_PAGESIZE)) };
    let (Ok(address), Ok(n_headers), Ok(page_bytes)) =
        (usize::try_from(headers), usize::try_from(n_headers), usize::try_from(page_bytes))
    else {
        return Vec::new();
    };
    let first = address as *const Header;
    if first.is_null() || !first.is_aligned() || page_bytes == 0 {
        return Vec::new();
    }
    // SAFETY: the kernel says that the program's own headers lie there, so many of them; they are part of its first
    // segment, which is mapped for as long as it runs and never changes.
    let headers = unsafe { std::slice::from_raw_parts(first, n_headers) };
    ranges_of(headers, address, page_bytes)
}

#[cfg(target_pointer_width = "64")]
type Header = libc::Elf64_Phdr;
#[cfg(target_pointer_width = "32")]
type Header = libc::Elf32_Phdr;

/// [`constant_ranges`] of a program whose `headers` lie at `address`.
fn ranges_of(headers: &[Header], address: usize, page_bytes: usize) -> Vec<(usize, usize)> {
    let number = |n| usize::try_from(n).unwrap_or(usize::MAX);
    // Where the program was put, against where it was linked to be.
    let Some(own) = headers.iter().find(|header| header.p_type == libc::PT_PHDR) else { return Vec::new() };
    let moved = address.wrapping_sub(number(own.p_vaddr));
    let constant = headers.iter().filter(|header| header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_W == 0);
    let ranges = constant.map(|header| {
        let start = number(header.p_vaddr).wrapping_add(moved);
        let end = start.saturating_add(number(header.p_filesz));
        (start.next_multiple_of(page_bytes), end / page_bytes * page_bytes)
    });
    ranges.filter(|(start, end)| start < end).collect()
}

/// The second field: `size resident shared text lib data dt`.
fn resident_pages(statm: &str) -> Option<u64> {
    statm.split_ascii_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_second_field() {
        assert_eq!(super::resident_pages("5000 1234 900 1 0 400 0\n"), Some(1234));
        assert_eq!(super::resident_pages("5000"), None);
    }

    #[test]
    fn only_what_could_never_be_written_is_let_go_of() {
        let header = |p_type, p_flags, p_vaddr, p_filesz| Header {
            p_type,
            p_flags,
            p_offset: 0,
            p_vaddr,
            p_paddr: p_vaddr,
            p_filesz,
            p_memsz: p_filesz,
            p_align: 4096,
        };
        let (read, write) = (libc::PF_R, libc::PF_R | libc::PF_W);
        let headers = [
            header(libc::PT_PHDR, read, 0x40, 0x1f8),
            header(libc::PT_LOAD, read, 0, 0x2800),
            header(libc::PT_LOAD, read | libc::PF_X, 0x3800, 0x3000),
            header(libc::PT_LOAD, write, 0x7800, 0x4000),
            header(libc::PT_GNU_RELRO, read, 0x7800, 0x2000),
            header(libc::PT_LOAD, read, 0x2_0000, 0x800),
        ];
        let moved = 0x10_0000;
        assert_eq!(
            ranges_of(&headers, moved + 0x40, 4096),
            [(moved, moved + 0x2000), (moved + 0x4000, moved + 0x6000)]
        );
        assert!(ranges_of(&headers[1..], moved, 4096).is_empty(), "nobody knows where it was put");
    }

    #[test]
    fn the_program_goes_on_without_the_pages_it_let_go_of() {
        let (own, text) = (super::release_program_pages as *const () as usize, "a constant");
        let ranges = constant_ranges();
        assert!(ranges.iter().any(|(start, end)| (*start..*end).contains(&own)), "{ranges:x?}");
        assert!(release_program_pages() > 0);
        assert_eq!(text, String::from_utf8_lossy(b"a constant"));
        assert!(super::sample().is_some());
    }

    #[test]
    fn a_running_process_is_resident() {
        let bytes = super::sample().expect("Linux has /proc/self/statm");
        assert!(bytes > 64 * 1024, "{bytes}");
    }
}
