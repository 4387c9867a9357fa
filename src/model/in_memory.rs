//! The parameters of a model that is there already, as the source of another.
//!
//! `folder` and `loaded` build from it what is to lie elsewhere: a merged model, or a device's own copy.

use super::folder::build;
use super::{Classifier, Config};
use crate::nn::{Initialization, ParameterError, Source, Trainable};
use crate::ops::device::Placement;
use candle_core::Tensor;
use std::cell::RefCell;
use std::collections::HashMap;

/// A model that is there already, built again at `placement` for inference; calls `between` after each tensor.
///
/// # Errors
/// If the placement has no room for it.
pub(super) fn transfer(
    config: &Config,
    model: &dyn Classifier,
    placement: &Placement,
    between: &mut dyn FnMut(),
) -> Result<Box<dyn Classifier>, ParameterError> {
    build(config, &InMemory::of(model, between), Trainable::None, placement)
}

/// Parameters by name; tells `between` after each that was asked for.
struct InMemory<'a> {
    tensors: HashMap<String, Tensor>,
    between: RefCell<&'a mut dyn FnMut()>,
}

impl<'a> InMemory<'a> {
    fn of(model: &dyn Classifier, between: &'a mut dyn FnMut()) -> Self {
        let entry =
            |parameter: &crate::nn::Parameter| (parameter.name().to_owned(), parameter.tensor().clone());
        Self { tensors: model.parameters().into_iter().map(entry).collect(), between: RefCell::new(between) }
    }
}

impl Source for InMemory<'_> {
    fn tensor(&self, name: &str, shape: &[usize], _: Initialization) -> Result<Tensor, ParameterError> {
        let missing = || ParameterError::Missing { name: name.to_owned(), want: shape.to_vec() };
        // By now the one before it has been brought to its place.
        self.between.borrow_mut()();
        self.tensors.get(name).cloned().ok_or_else(missing)
    }
}
