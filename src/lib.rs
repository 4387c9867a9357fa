//! Featherlight.
