//! What machine this is, as Linux tells it.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::path::Path;

/// The machine.
#[derive(Debug, Clone, Default)]
pub struct Machine {
    /// Its name.
    pub name: String,
    /// The kernel's release.
    pub release: String,
    /// The distribution's own name for itself.
    pub label: String,
    /// Processors this process may use.
    pub cpu_count: usize,
    /// The first processor's model.
    pub cpu_model: String,
}

/// Reads what does not change while the process lives.
pub fn describe() -> Machine {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let label = read("/etc/os-release")
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="))
        .map_or_else(|| "Linux".to_owned(), |name| name.trim_matches('"').to_owned());
    let cpu_model = read("/proc/cpuinfo")
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':').map(|(_, name)| name.trim().to_owned()))
        .unwrap_or_else(|| "unknown".to_owned());
    Machine {
        name: hostname(),
        release: read("/proc/sys/kernel/osrelease"),
        label,
        cpu_count: std::thread::available_parallelism().map_or(1, usize::from),
        cpu_model,
    }
}

/// The machine's name.
pub fn hostname() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { "localhost".to_owned() } else { name.to_owned() }
}

/// The address under which other machines of the network see this one: what the system would send from. Nothing is
/// sent.
pub fn network_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    // An address that nobody has (RFC 5737): the route is asked for and not used.
    socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).ok()?;
    Some(socket.local_addr().ok()?.ip()).filter(|ip| !ip.is_unspecified() && !ip.is_loopback())
}

/// `linux 6.1.0`.
pub fn platform() -> String {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{} {}", std::env::consts::OS, release.trim())
}

/// The architecture in the words clients know from another runtime.
pub fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "x64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Load over one, five and fifteen minutes.
pub fn load_average() -> [f64; 3] {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let mut parts = text.split_whitespace().map(|part| part.parse().unwrap_or(0.0));
    [parts.next().unwrap_or(0.0), parts.next().unwrap_or(0.0), parts.next().unwrap_or(0.0)]
}

/// The machine's memory in bytes: all of it, and what is available.
pub fn memory_bytes() -> Option<(u64, u64)> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let field = |name: &str| -> Option<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
    };
    Some((field("MemTotal:")?, field("MemAvailable:")?))
}

/// The file system that holds `path`, in bytes: all of it, and what an ordinary user may still write.
pub fn disk_bytes(path: &str) -> Option<(u64, u64)> {
    let path = std::ffi::CString::new(Path::new(path).as_os_str().as_encoded_bytes()).ok()?;
    // SAFETY: `statvfs` is a plain C struct for which all-zero bytes are valid; the call writes to it and reads a
    // C string that lives until it returns.
    let stat = unsafe {
        let mut stat: libc::statvfs = std::mem::zeroed();
        (libc::statvfs(path.as_ptr(), &mut stat) == 0).then_some(stat)
    }?;
    let block = stat.f_frsize as u64;
    Some((stat.f_blocks as u64 * block, stat.f_bavail as u64 * block))
}

/// What this process holds in memory, in bytes.
#[derive(Debug, Clone, Copy, Default)]
pub struct ProcessMemory {
    /// Resident pages.
    pub resident_bytes: u64,
    /// Resident pages of its own, not shared with a file.
    pub private_bytes: u64,
    /// Address space for data.
    pub data_bytes: u64,
}

/// Reads it from `/proc/self/status`.
pub fn process_memory() -> Option<ProcessMemory> {
    let text = fs::read_to_string("/proc/self/status").ok()?;
    let field = |name: &str| -> Option<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
    };
    Some(ProcessMemory {
        resident_bytes: field("VmRSS:")?,
        private_bytes: field("RssAnon:")?,
        data_bytes: field("VmData:")?,
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn this_machine_can_be_described() {
        let machine = super::describe();
        assert!(machine.cpu_count >= 1);
        assert!(!machine.name.is_empty());
        let (total, available) = super::memory_bytes().unwrap();
        assert!(total >= available && available > 0);
        let (total, free) = super::disk_bytes("/").unwrap();
        assert!(total >= free && total > 0);
    }
}
