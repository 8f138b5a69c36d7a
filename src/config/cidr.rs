//! Ranges of addresses: `10.0.0.0/8`, `::1`, `192.168.1.7`.

use std::fmt;
use std::net::IpAddr;

/// A range of addresses; a single one is a range of full length.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Cidr {
    address: IpAddr,
    prefix_bits: u8,
}

impl Cidr {
    /// Reads `address` or `address/bits`.
    ///
    /// # Errors
    /// What is wrong, in words for an issue.
    pub fn parse(text: &str) -> Result<Cidr, String> {
        let wrong = || format!("Invalid address range \"{text}\"");
        let (address, bits) = text.trim().split_once('/').map_or((text.trim(), None), |(a, b)| (a, Some(b)));
        let address: IpAddr = address.parse::<IpAddr>().map_err(|_| wrong())?;
        let bits_max = if address.is_ipv4() { 32 } else { 128 };
        let prefix_bits = match bits {
            None => bits_max,
            Some(bits) => bits.parse::<u8>().ok().filter(|bits| *bits <= bits_max).ok_or_else(wrong)?,
        };
        Ok(Cidr { address: address.to_canonical(), prefix_bits: canonical_bits(address, prefix_bits) })
    }

    /// Whether `address` is in the range; an IPv4 address in its IPv6 form is the IPv4 address.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(range), IpAddr::V4(address)) => {
                let shift = 32 - u32::from(self.prefix_bits);
                range.to_bits().checked_shr(shift).unwrap_or(0) == address.to_bits().checked_shr(shift).unwrap_or(0)
            }
            (IpAddr::V6(range), IpAddr::V6(address)) => {
                let shift = 128 - u32::from(self.prefix_bits);
                range.to_bits().checked_shr(shift).unwrap_or(0) == address.to_bits().checked_shr(shift).unwrap_or(0)
            }
            _ => false,
        }
    }
}

/// `::ffff:10.0.0.0/104` is `10.0.0.0/8`.
fn canonical_bits(address: IpAddr, prefix_bits: u8) -> u8 {
    let is_mapped = address.is_ipv6() && address.to_canonical().is_ipv4();
    if is_mapped { prefix_bits.saturating_sub(96) } else { prefix_bits }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix_bits)
    }
}

impl fmt::Debug for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_what_is_inside_and_nothing_else() {
        let cases = [
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("10.0.0.0/8", "::ffff:10.1.2.3", true),
            ("127.0.0.1", "127.0.0.1", true),
            ("127.0.0.1", "127.0.0.2", false),
            ("0.0.0.0/0", "8.8.8.8", true),
            ("0.0.0.0/0", "::1", false),
            ("::/0", "fe80::1", true),
            ("fd00::/8", "fd12::1", true),
            ("fd00::/8", "fe00::1", false),
            ("::ffff:10.0.0.0/104", "10.9.9.9", true),
        ];
        for (range, address, expected) in cases {
            assert_eq!(Cidr::parse(range).unwrap().contains(address.parse().unwrap()), expected, "{range} {address}");
        }
        for bad in ["", "10.0.0.0/33", "host", "10.0.0.0/", "::/129", "10.0.0/8"] {
            assert!(Cidr::parse(bad).is_err(), "{bad}");
        }
    }
}
