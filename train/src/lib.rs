//! The offline job of Featherlight: from a folder of labelled photos to a model that can be served.
//!
//! A data set ([`dataset`], [`split`]) is read in the order of a [`sampler`], decoded and augmented ahead of the step by
//! a [`loader`] ([`augment`]), and trained on with the learning rate of a [`schedule`]. It uses the library
//! `featherlight`, which never knows that this package exists.

pub mod augment;
pub mod dataset;
pub mod loader;
pub mod optimizer;
pub mod sampler;
pub mod schedule;
pub mod split;
