//! libFuzzer's way into the target of this name.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| farside_fuzz::run("pairing", input));
