//! Attachments at their edges: asked for as nobody should, and with records that were edited or lost.

mod bad_input;
mod hands;
