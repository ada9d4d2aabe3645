//! Bindings of the Container Storage Interface.
