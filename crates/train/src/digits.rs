//! Handwritten digits to classify: 1,797 images of 8 by 8 pixels, embedded; data/LICENSE.md says where they come from.

use std::sync::LazyLock;

/// Pixels of an image.
pub const PIXELS: usize = 64;
/// Classes.
pub const CLASSES: usize = 10;

const TEXT: &str = include_str!("../data/digits.txt");

/// One image.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Digit {
    /// Row by row, from 0 (white) to 1 (black).
    pub pixels: [f32; PIXELS],
    /// What it shows, 0 to 9.
    pub label: usize,
}

/// All images, in the order of the file: writers follow each other, classes are mixed.
pub fn all() -> &'static [Digit] {
    static ALL: LazyLock<Vec<Digit>> = LazyLock::new(|| TEXT.lines().map(parse).collect());
    &ALL
}

/// A line of the embedded text, which a test reads whole.
fn parse(line: &str) -> Digit {
    let value = |c: u8| (c as char).to_digit(17).expect("a pixel of the embedded digits") as f32 / 16.0;
    let (image, label) = line.split_at(PIXELS);
    let mut pixels = [0.0; PIXELS];
    pixels.iter_mut().zip(image.bytes()).for_each(|(p, c)| *p = value(c));
    Digit { pixels, label: label.trim().parse().expect("a label of the embedded digits") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_is_there_as_often_as_its_source_says() {
        let mut counts = [0; CLASSES];
        all().iter().for_each(|d| counts[d.label] += 1);
        assert_eq!(counts, [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]);
        let range = all().iter().flat_map(|d| d.pixels).fold((1.0_f32, 0.0_f32), |(a, b), p| (a.min(p), b.max(p)));
        assert_eq!(range, (0.0, 1.0));
    }
}
