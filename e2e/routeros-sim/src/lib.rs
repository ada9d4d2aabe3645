//! RouterOS simulator.
