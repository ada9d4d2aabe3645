//! The encoder, the reply reader and the reader of comments, on whatever bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rds_operator::routeros::fuzz;

fuzz_target!(|bytes: &[u8]| {
    fuzz::reply(bytes);
    if let Ok(text) = std::str::from_utf8(bytes) {
        fuzz::encode(text);
        fuzz::comment(text);
    }
});
