//! Loopback ports for servers, each given out once per test program and below the kernel's own range.

use crate::limits;
use anyhow::{Result, bail};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering};

/// A loopback address that nobody listens on.
///
/// # Errors
/// When every port of the range is taken.
pub fn free_address() -> Result<SocketAddr> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let range = u32::from(limits::PORTS.end - limits::PORTS.start);
    // Test programs that run side by side start at different places.
    let own = std::process::id().wrapping_mul(97);
    for _ in 0..range {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let offset = u16::try_from(own.wrapping_add(step) % range)?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, limits::PORTS.start + offset));
        // Asked for by connecting, not by binding: a program that another thread starts at this moment
        // holds a copy of every socket here until its exec, and would keep a port bound that was only tried.
        if TcpStream::connect(address).is_err() {
            return Ok(address);
        }
    }
    bail!("no free port in {:?}", limits::PORTS)
}

#[cfg(test)]
mod tests {
    use super::free_address;
    use std::net::TcpListener;
    use std::process::Command;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[test]
    fn an_address_can_be_bound_at_once_while_other_threads_start_programs() {
        let over = AtomicBool::new(false);
        let taken = std::thread::scope(|threads| {
            for _ in 0..2 {
                threads.spawn(|| {
                    while !over.load(Ordering::Relaxed) {
                        Command::new("true").status().unwrap();
                    }
                });
            }
            let taken = (0..2000)
                .filter(|_| TcpListener::bind(free_address().unwrap()).is_err())
                .count();
            over.store(true, Ordering::Relaxed);
            taken
        });
        assert_eq!(taken, 0);
    }
}
