//! RandAugment (Cubuk et al. 2019): a few operations, drawn for each photo, all at one magnitude.
//!
//! The augmenter calls [`RandAugment::apply`]. The draw is that of torchvision's `transforms.RandAugment` at 31 magnitudes;
//! what an operation does to pixels is in `operation`.

use super::AugmentError;
use super::operation::{LEVELS, Operation};
use featherlight::randomness::Stream;
use std::fmt;
use std::str::FromStr;

/// How many operations a photo goes through, and how strong they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RandAugment {
    operations: usize,
    magnitude: usize,
}

impl RandAugment {
    /// `operations`: 1 or more, the paper's N. `magnitude`: 0 to 30, its M; torchvision's defaults are 2 and 9.
    ///
    /// # Errors
    /// Numbers outside of these limits.
    pub fn new(operations: usize, magnitude: usize) -> Result<Self, AugmentError> {
        let settings = Self { operations, magnitude };
        if operations > 0 && magnitude < LEVELS {
            Ok(settings)
        } else {
            Err(AugmentError::RandAugment(settings.to_string()))
        }
    }

    /// Operations for each photo.
    pub fn operations(self) -> usize {
        self.operations
    }

    /// Their magnitude, 0 to 30.
    pub fn magnitude(self) -> usize {
        self.magnitude
    }

    /// Applies the operations that `stream` draws, with replacement, each in a random direction where it has two.
    ///
    /// `data` is rows of `width` RGB pixels.
    pub(super) fn apply(self, data: &mut [u8], width: usize, stream: &mut Stream) {
        for _ in 0..self.operations {
            let operation = Operation::ALL[stream.below(Operation::ALL.len())];
            let strength = operation.strength(self.magnitude, (width, data.len() / 3 / width));
            let turned = operation.has_two_directions() && stream.bernoulli(0.5);
            operation.apply(data, width, if turned { -strength } else { strength });
        }
    }
}

impl FromStr for RandAugment {
    type Err = AugmentError;

    /// `2,9`: two operations of magnitude 9.
    fn from_str(text: &str) -> Result<Self, AugmentError> {
        let numbers = text.split_once(',').and_then(|(operations, magnitude)| {
            Some((operations.trim().parse().ok()?, magnitude.trim().parse().ok()?))
        });
        let refused = || AugmentError::RandAugment(text.to_owned());
        let (operations, magnitude) = numbers.ok_or_else(refused)?;
        Self::new(operations, magnitude).map_err(|_| refused())
    }
}

impl fmt::Display for RandAugment {
    /// As [`RandAugment::from_str`] reads it.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{},{}", self.operations, self.magnitude)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use featherlight::randomness::{Purpose, Randomness};
    use std::collections::HashSet;

    #[test]
    fn settings_are_read_from_text_and_written_alike() {
        let settings: RandAugment = "2, 9".parse().unwrap();
        assert_eq!(settings, RandAugment::new(2, 9).unwrap());
        assert_eq!(settings.to_string(), "2,9");
        for text in ["", "2", "2,31", "0,9", "2,-1", "2,9,1", "a,b", "2.5,9"] {
            let error = text.parse::<RandAugment>().unwrap_err().to_string();
            assert!(error.contains(&format!("`{text}`")) && error.contains("from 0 to 30"), "{error}");
        }
    }

    #[test]
    fn every_operation_is_drawn_and_nothing_but_the_stream_decides() {
        let photo: Vec<u8> = (0..24 * 20 * 3u32).map(|i| (i * 97 % 200 + i % 3 * 20) as u8).collect();
        let varied = |sample| {
            let mut data = photo.clone();
            let mut stream = Randomness::new(3).stream(Purpose::RandAugment, 0, sample, 0);
            RandAugment::new(1, 15).unwrap().apply(&mut data, 24, &mut stream);
            data
        };
        let outcomes: HashSet<Vec<u8>> = (0..400).map(varied).collect();
        let possible: HashSet<Vec<u8>> = Operation::ALL
            .iter()
            .flat_map(|operation| [1.0, -1.0].map(|sign| (operation, sign)))
            .filter(|(operation, sign)| *sign > 0.0 || operation.has_two_directions())
            .map(|(operation, sign)| {
                let mut data = photo.clone();
                operation.apply(&mut data, 24, sign * operation.strength(15, (24, 20)));
                data
            })
            .collect();
        assert_eq!(possible.len(), 23); // fourteen operations, nine of them in two directions
        assert_eq!(outcomes, possible);
        assert_eq!(varied(7), varied(7));
    }
}
