//! Checkpoints of a bare backbone, whose names lack the architecture's own before them: `embeddings.cls_token` for
//! `vit.embeddings.cls_token`. transformers writes them so from its models without a head, and reads either.

use super::Checkpoint;
use crate::nn::{Initialization, ParameterError, Source};
use candle_core::Tensor;

/// A checkpoint read under names with a `prefix` that it does not have.
pub(super) struct BareSource<'a> {
    tensors: &'a dyn Source,
    /// With its dot.
    prefix: String,
}

impl<'a> BareSource<'a> {
    /// The `tensors` of `checkpoint`; `None` where it has the architecture's name (`root`) before its own.
    pub(super) fn of(checkpoint: &Checkpoint, tensors: &'a dyn Source, root: &str) -> Option<Self> {
        let prefix = format!("{root}.");
        let names = checkpoint.names();
        let bare = |name: &String| name.starts_with("embeddings.") || name.starts_with("encoder.");
        let is_bare = names.iter().any(bare) && !names.iter().any(|name| name.starts_with(&prefix));
        is_bare.then_some(Self { tensors, prefix })
    }

    fn own<'b>(&self, name: &'b str) -> &'b str {
        name.strip_prefix(&self.prefix).unwrap_or(name)
    }
}

impl Source for BareSource<'_> {
    fn tensor(&self, name: &str, shape: &[usize], init: Initialization) -> Result<Tensor, ParameterError> {
        self.tensors.tensor(self.own(name), shape, init)
    }

    fn has(&self, name: &str) -> bool {
        self.tensors.has(self.own(name))
    }
}
