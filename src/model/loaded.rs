//! A model with its weights, ready to turn photos into logits: what lives on a device's thread.

use super::in_memory::transfer;
use super::{Classifier, Config, ModelError, ModelFolder};
use crate::image::{Normalization, Pixels, Processor};
use crate::nn::{ParameterError, Pass};
use crate::ops;
use crate::ops::device::Placement;
use candle_core::{Device, Result, Tensor};
use std::sync::Arc;

/// A photo as the model takes it.
pub enum Photo<'a> {
    /// Levels, to be normalised on the device.
    Pixels(&'a Pixels),
    /// `3 × height × width`, normalised already.
    Tensor(&'a [f32]),
}

/// A classifier in inference, an adapter merged into it; clones share the weights.
#[derive(Clone)]
pub struct LoadedModel {
    classifier: Arc<dyn Classifier>,
    device: Device,
    normalization: Normalization,
    height: usize,
    width: usize,
}

impl LoadedModel {
    /// Reads the weights of `folder`, merges its adapter into them and brings them to `placement`.
    ///
    /// # Errors
    /// If weights, processor or adapter cannot be read or do not fit.
    pub fn load(folder: &ModelFolder, placement: &Placement) -> std::result::Result<Self, ModelError> {
        let processor = folder.processor()?;
        let classifier = folder.load_merged(placement)?;
        // The files' bytes are as large as the weights, and are not wanted again.
        ops::release_freed_memory();
        Ok(Self::new(classifier, &processor))
    }

    /// A classifier that is there already, fed with what `processor` makes of photos.
    pub fn new(classifier: Box<dyn Classifier>, processor: &Processor) -> Self {
        let (height, width) = processor.output_size();
        let device = classifier.placement().device;
        Self {
            classifier: classifier.into(),
            device,
            normalization: processor.normalization(),
            height,
            width,
        }
    }

    /// The same model at `placement`, tensor by tensor, with `between` called after each; this one stays as it is.
    ///
    /// # Errors
    /// If the placement has no room for it.
    pub fn copy_to(
        &self,
        config: &Config,
        placement: &Placement,
        between: &mut dyn FnMut(),
    ) -> std::result::Result<Self, ParameterError> {
        let classifier: Arc<dyn Classifier> = transfer(config, &*self.classifier, placement, between)?.into();
        let device = classifier.placement().device;
        Ok(Self { classifier, device, ..self.clone() })
    }

    /// Raw logits of each photo, in order, one value a label.
    ///
    /// # Errors
    /// If a photo has another size than the processor's.
    pub fn logits(&self, photos: &[Photo<'_>]) -> Result<Vec<Vec<f32>>> {
        let (height, width) = (self.height, self.width);
        let levels: Vec<&[u8]> = photos
            .iter()
            .filter_map(|photo| match photo {
                Photo::Pixels(pixels) => Some(pixels.data()),
                Photo::Tensor(_) => None,
            })
            .collect();
        let normalize =
            |levels: &[&[u8]]| ops::normalize(levels, height, width, &self.normalization, &self.device);
        let batch = if levels.len() == photos.len() {
            normalize(&levels)?
        } else {
            let each = photos.iter().map(|photo| match photo {
                Photo::Pixels(pixels) => normalize(&[pixels.data()]),
                Photo::Tensor(values) => Tensor::from_slice(values, (1, 3, height, width), &self.device),
            });
            Tensor::cat(&each.collect::<Result<Vec<_>>>()?, 0)?
        };
        self.classifier.forward(&batch, &Pass::Eval)?.to_vec2()
    }
}
