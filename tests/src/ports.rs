//! Loopback ports for servers, each given out once per test program and below the kernel's own range.

use crate::limits;
use anyhow::{Result, bail};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
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
        if TcpListener::bind(address).is_ok() {
            return Ok(address);
        }
    }
    bail!("no free port in {:?}", limits::PORTS)
}
