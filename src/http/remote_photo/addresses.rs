//! Which addresses a photo may be fetched from, and how a name becomes addresses.
//!
//! The service's own policy is [`PublicAddresses`]. The lists are IANA's registries of special-purpose addresses and the
//! addresses at which clouds hand out credentials; this machine's own addresses are asked of the system. No flag and no variable
//! widens them.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, ToSocketAddrs, UdpSocket};

/// Look-ups, and the verdict on each address that comes of one.
pub trait Addresses: fmt::Debug + Send + Sync {
    /// All addresses of a name; blocks.
    ///
    /// # Errors
    /// When the name has none, or nobody can say.
    fn look_up(&self, name: &str) -> io::Result<Vec<IpAddr>>;

    /// Whether a connection to the address may be made.
    fn allows(&self, address: IpAddr) -> bool;
}

/// The system's look-ups; addresses of the public internet alone, and none of this machine.
#[derive(Debug, Clone, Copy)]
pub struct PublicAddresses;

impl Addresses for PublicAddresses {
    fn look_up(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        // With a dot at its end the name is whole: the system's list of search domains, which are inside, is not tried.
        let whole = format!("{}.", name.trim_end_matches('.'));
        Ok((whole.as_str(), 0).to_socket_addrs()?.map(|address| address.ip()).collect())
    }

    fn allows(&self, address: IpAddr) -> bool {
        let public = match address {
            IpAddr::V4(address) => is_public_v4(address),
            IpAddr::V6(address) => is_public_v6(address),
        };
        public && !is_own(address)
    }
}

/// Whether the address is one of this machine's: a connection to it never passes the firewall that stands before the machine, and
/// would reach ports that are closed to everyone outside. Only what is its own can be bound. Where the system lets foreign
/// addresses be bound as well (`net.ipv4.ip_nonlocal_bind`), every address passes for its own, and none is asked.
fn is_own(address: IpAddr) -> bool {
    let Err(error) = UdpSocket::bind((address, 0)) else { return true };
    // Whatever else keeps it from being bound (no file descriptor left, say) tells nothing of whose it is.
    let no_such_family = error.raw_os_error() == Some(libc::EAFNOSUPPORT);
    error.kind() != io::ErrorKind::AddrNotAvailable && !no_such_family
}

/// First address and length of the prefix: everything that is not on the public internet, or is more than a server there.
const FORBIDDEN_V4: [(Ipv4Addr, u32); 18] = [
    (Ipv4Addr::new(0, 0, 0, 0), 8),        // this host
    (Ipv4Addr::new(10, 0, 0, 0), 8),       // private
    (Ipv4Addr::new(100, 64, 0, 0), 10),    // carriers' own; 100.100.100.200 is a cloud's metadata
    (Ipv4Addr::new(127, 0, 0, 0), 8),      // loopback
    (Ipv4Addr::new(168, 63, 129, 16), 32), // a cloud's metadata, at a public address
    (Ipv4Addr::new(169, 254, 0, 0), 16),   // link-local; 169.254.169.254 is most clouds' metadata
    (Ipv4Addr::new(172, 16, 0, 0), 12),    // private
    (Ipv4Addr::new(192, 0, 0, 0), 24),     // protocols' own; 192.0.0.192 is a cloud's metadata
    (Ipv4Addr::new(192, 0, 2, 0), 24),     // documentation
    (Ipv4Addr::new(192, 31, 196, 0), 24),  // AS112
    (Ipv4Addr::new(192, 52, 193, 0), 24),  // multicast tunnels
    (Ipv4Addr::new(192, 88, 99, 0), 24),   // 6to4 relays
    (Ipv4Addr::new(192, 168, 0, 0), 16),   // private
    (Ipv4Addr::new(198, 18, 0, 0), 15),    // benchmarks
    (Ipv4Addr::new(198, 51, 100, 0), 24),  // documentation
    (Ipv4Addr::new(203, 0, 113, 0), 24),   // documentation
    (Ipv4Addr::new(224, 0, 0, 0), 4),      // multicast
    (Ipv4Addr::new(240, 0, 0, 0), 4),      // reserved, broadcast
];

fn is_public_v4(address: Ipv4Addr) -> bool {
    let within =
        |(network, length): &(Ipv4Addr, u32)| (address.to_bits() ^ network.to_bits()) >> (32 - length) == 0;
    !FORBIDDEN_V4.iter().any(within)
}

/// Global unicast; everything else (loopback, link-local, unique local, multicast, IPv4 in disguise) lies outside.
const GLOBAL_V6: (Ipv6Addr, u32) = (Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3);
/// IPv4 for hosts that have IPv6 alone; its last 32 bits are the address that is reached.
const NAT64: (Ipv6Addr, u32) = (Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0), 96);
const FORBIDDEN_V6: [(Ipv6Addr, u32); 5] = [
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23), // protocols' own, Teredo (IPv4 in disguise) among them
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32), // documentation
    (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16), // 6to4: IPv4 in disguise
    (Ipv6Addr::new(0x2620, 0x4f, 0x8000, 0, 0, 0, 0, 0), 48), // AS112
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20), // documentation
];

fn is_public_v6(address: Ipv6Addr) -> bool {
    let within =
        |(network, length): &(Ipv6Addr, u32)| (address.to_bits() ^ network.to_bits()) >> (128 - length) == 0;
    if within(&NAT64) {
        let [.., a, b, c, d] = address.octets();
        return is_public_v4(Ipv4Addr::new(a, b, c, d));
    }
    within(&GLOBAL_V6) && !FORBIDDEN_V6.iter().any(within)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(text: &str) -> bool {
        PublicAddresses.allows(text.parse().unwrap_or_else(|error| panic!("{text}: {error}")))
    }

    #[test]
    fn what_is_inside_is_refused_from_the_first_address_of_a_network_to_its_last() {
        let networks = [
            ("0.0.0.0", "0.255.255.255"),
            ("10.0.0.0", "10.255.255.255"),
            ("100.64.0.0", "100.127.255.255"),
            ("127.0.0.0", "127.255.255.255"),
            ("169.254.0.0", "169.254.255.255"),
            ("172.16.0.0", "172.31.255.255"),
            ("192.0.0.0", "192.0.0.255"),
            ("192.0.2.0", "192.0.2.255"),
            ("192.168.0.0", "192.168.255.255"),
            ("198.18.0.0", "198.19.255.255"),
            ("198.51.100.0", "198.51.100.255"),
            ("203.0.113.0", "203.0.113.255"),
            ("224.0.0.0", "239.255.255.255"),
            ("240.0.0.0", "255.255.255.255"),
        ];
        for (first, last) in networks {
            assert!(!allowed(first), "{first}");
            assert!(!allowed(last), "{last}");
        }
        for metadata in ["169.254.169.254", "100.100.100.200", "168.63.129.16", "192.0.0.192"] {
            assert!(!allowed(metadata), "{metadata}");
        }
        for outside in [
            "1.0.0.0",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "168.63.129.15",
            "168.63.129.17",
            "169.253.255.255",
            "169.255.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "192.0.1.0",
            "192.167.255.255",
            "192.169.0.0",
            "198.17.255.255",
            "198.20.0.0",
            "223.255.255.255",
            "8.8.8.8",
        ] {
            assert!(allowed(outside), "{outside}");
        }
    }

    #[test]
    fn of_ipv6_only_global_addresses_that_hide_no_ipv4_are_taken() {
        for refused in [
            "::",
            "::1",
            "::7f00:1",
            "::ffff:127.0.0.1",
            "::ffff:8.8.8.8",
            "fe80::1",
            "febf::1",
            "fec0::1",
            "fc00::1",
            "fd00:ec2::254",
            "fdff::1",
            "ff02::1",
            "100::1",
            "2001::1",
            "2001:0:7f00:1::",
            "2001:10::1",
            "2001:1ff::1",
            "2001:db8::1",
            "2002:7f00:1::",
            "2002:a9fe:a9fe::",
            "3fff::1",
            "3fff:fff::1",
            "4000::1",
            "5f00::1",
            "64:ff9b:1::1",
            "64:ff9b::7f00:1",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b::10.0.0.1",
        ] {
            assert!(!allowed(refused), "{refused}");
        }
        for taken in
            ["2001:200::1", "2001:4860:4860::8888", "2606:4700::1", "2a00::1", "3ffe::1", "64:ff9b::8.8.8.8"]
        {
            assert!(allowed(taken), "{taken}");
        }
    }

    #[test]
    fn the_name_of_this_machine_leads_nowhere_that_is_allowed() {
        let found: Vec<IpAddr> = match ("localhost", 0).to_socket_addrs() {
            Ok(found) => found.map(|address| address.ip()).collect(),
            Err(error) => panic!("a machine that does not know its own name: {error}"),
        };
        assert!(!found.is_empty());
        assert!(found.iter().all(|address| !PublicAddresses.allows(*address)), "{found:?}");
        // The service's own look-up may find nothing.
        if let Ok(found) = PublicAddresses.look_up("localhost") {
            assert!(found.iter().all(|address| !PublicAddresses.allows(*address)), "{found:?}");
        }
    }

    #[test]
    fn what_is_bound_to_this_machine_is_its_own_and_the_rest_of_the_internet_is_not() {
        assert!(is_own(IpAddr::from([127, 0, 0, 1])));
        // For documentation: nobody has it.
        assert!(!is_own(IpAddr::from([192, 0, 2, 1])));
        assert!(!is_own(IpAddr::from([8, 8, 8, 8])));
        // The address that the machine shows to the outside, where it has an outside: nothing is sent.
        let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
        if socket.connect("192.0.2.1:9").is_ok() {
            let own = socket.local_addr().expect("a bound socket").ip();
            assert!(is_own(own), "{own}");
        }
    }
}
