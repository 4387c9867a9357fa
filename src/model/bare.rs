//! Checkpoints of a bare backbone, whose names lack the architecture's own before them: `embeddings.cls_token` for
//! `vit.embeddings.cls_token`. transformers writes them so from its models without a head, and reads either.

use super::Checkpoint;
use crate::nn::{Initialization, ParameterError, Source};
use candle_core::Tensor;

/// A checkpoint read under names with a `prefix` that it does not have.
pub(super) struct BareSource<'a> {
    checkpoint: &'a Checkpoint,
    /// With its dot.
    prefix: String,
}

impl<'a> BareSource<'a> {
    /// `None` where the checkpoint has the architecture's name (`root`) before its own.
    pub(super) fn of(checkpoint: &'a Checkpoint, root: &str) -> Option<Self> {
        let prefix = format!("{root}.");
        let names = checkpoint.names();
        let bare = |name: &String| name.starts_with("embeddings.") || name.starts_with("encoder.");
        let is_bare = names.iter().any(bare) && !names.iter().any(|name| name.starts_with(&prefix));
        is_bare.then_some(Self { checkpoint, prefix })
    }

    fn own<'b>(&self, name: &'b str) -> &'b str {
        name.strip_prefix(&self.prefix).unwrap_or(name)
    }
}

impl Source for BareSource<'_> {
    fn tensor(&self, name: &str, shape: &[usize], init: Initialization) -> Result<Tensor, ParameterError> {
        self.checkpoint.tensor(self.own(name), shape, init)
    }

    fn has(&self, name: &str) -> bool {
        self.checkpoint.has(self.own(name))
    }
}
