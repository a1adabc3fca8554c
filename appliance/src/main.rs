//! The `farside` binary.
fn main() {}
