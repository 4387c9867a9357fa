//! A model with its weights, ready to turn photos into logits: what lives on a device's thread.

use super::{Classifier, ModelError, ModelFolder, merge};
use crate::image::{Normalization, Pixels};
use crate::nn::{Pass, Trainable};
use crate::ops;
use candle_core::{Device, Result, Tensor};

/// A photo as the model takes it.
pub enum Photo<'a> {
    /// Levels, to be normalised on the device.
    Pixels(&'a Pixels),
    /// `3 × height × width`, normalised already.
    Tensor(&'a [f32]),
}

/// A classifier in inference, an adapter merged into it.
pub struct LoadedModel {
    classifier: Box<dyn Classifier>,
    normalization: Normalization,
    height: usize,
    width: usize,
}

impl LoadedModel {
    /// Reads the weights of `folder` and merges its adapter into them.
    ///
    /// # Errors
    /// If weights, processor or adapter cannot be read or do not fit.
    pub fn load(folder: &ModelFolder) -> std::result::Result<Self, ModelError> {
        let processor = folder.processor()?;
        let mut classifier = folder.load(Trainable::None)?;
        merge(&mut *classifier).map_err(|error| ModelError::Damaged {
            file: folder.path().into(),
            problem: error.to_string(),
        })?;
        let (height, width) = processor.output_size();
        Ok(Self { classifier, normalization: processor.normalization(), height, width })
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
            |levels: &[&[u8]]| ops::normalize(levels, height, width, &self.normalization, &Device::Cpu);
        let batch = if levels.len() == photos.len() {
            normalize(&levels)?
        } else {
            let each = photos.iter().map(|photo| match photo {
                Photo::Pixels(pixels) => normalize(&[pixels.data()]),
                Photo::Tensor(values) => Tensor::from_slice(values, (1, 3, height, width), &Device::Cpu),
            });
            Tensor::cat(&each.collect::<Result<Vec<_>>>()?, 0)?
        };
        self.classifier.forward(&batch, &Pass::Eval)?.to_vec2()
    }
}
