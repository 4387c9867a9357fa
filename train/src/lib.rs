//! The offline job of Featherlight: from a folder of labelled photos to a model that can be served.
//!
//! A data set ([`dataset`]) is looked through ([`data_check`]) and parted ([`split`]), read in the order of a [`sampler`],
//! decoded and augmented ahead of the step by a [`loader`] ([`augment`]), and trained on ([`mod@start`], [`trainer`]) with an
//! [`optimizer`] whose parameters stand in [`groups`], towards an [`objective`], with the learning rate of a [`schedule`].
//! [`mod@fit`] puts a whole run together ([`settings`], [`output`], [`mod@checkpoint`], [`progress`], [`stop`]), [`mod@merge`],
//! [`mod@convert`] and [`mod@evaluate`] are jobs of their own, [`verify`] compares with reference runs, [`mod@bench`] times the
//! trainer's steps, [`speed`] the model alone. What an [`evaluation`] found and how a run went is shown by [`report`].
//! [`mod@compare`] runs several of these jobs, each as a process of its own, and puts their figures beside each other; a
//! [`fingerprint`] tells whether they are made of the same. It uses the library `featherlight`, which never knows that this
//! package exists.

pub mod augment;
pub mod bench;
mod card;
pub mod checkpoint;
pub mod compare;
pub mod convert;
pub mod data_check;
pub mod dataset;
pub mod destination;
pub mod evaluate;
pub mod evaluation;
mod exact;
pub mod fingerprint;
pub mod fit;
pub mod groups;
pub mod loader;
mod lock;
mod markup;
mod memory;
pub mod merge;
pub mod objective;
pub mod optimizer;
pub mod output;
pub mod progress;
pub mod report;
pub mod sampler;
pub mod schedule;
pub mod settings;
pub mod speed;
pub mod split;
pub mod start;
pub mod stop;
pub mod trainer;
mod units;
pub mod verify;
