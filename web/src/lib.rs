//! The console and control interface.
