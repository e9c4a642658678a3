//! Single elements of a cast: exact, since every kernel rounds the same product of the same two numbers.

use super::Quantise;
use crate::sample::{Pieces, Sampled, indices};
use crate::tensor::rounded;

impl Quantise {
    /// Random elements of each layout that is written, the first and the last among them.
    #[expect(clippy::cast_possible_truncation, reason = "the operands are fp32 or narrower")]
    pub(crate) fn sample<P: Pieces>(
        &self,
        count: usize,
        below: &mut dyn FnMut(usize) -> usize,
        pieces: &mut P,
    ) -> Result<Vec<Sampled>, P::Error> {
        let (rows, cols) = (self.tiling.rows, self.tiling.cols);
        let places = indices(count, rows * cols, below);
        let scales: Vec<usize> =
            places.iter().map(|place| self.tiling.scale_index(place / cols, place % cols)).collect();
        let (x, scale) = (pieces.pieces(0, &places, 1, 1)?, pieces.pieces(1, &scales, 1, 1)?);
        let mut out = Vec::new();
        let layouts = [("q", self.row_major, false), ("qt", self.transposed, true)];
        for (index, (operand, _, transposed)) in layouts.into_iter().filter(|(_, written, _)| *written).enumerate() {
            let turned = |place: &usize| if transposed { place % cols * rows + place / cols } else { *place };
            let places: Vec<usize> = places.iter().map(turned).collect();
            let found = pieces.pieces(2 + index, &places, 1, 1)?;
            for (at, found) in found.into_iter().enumerate() {
                let expected = f64::from(rounded(self.format, x[at] as f32 * (scale[at] as f32).recip()));
                // Equal, and nothing else: half of the smallest difference of two codes.
                let tolerance = 2f64.powi(-18);
                out.push(Sampled { operand, element: places[at], found, expected, tolerance });
            }
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use crate::dtype::Dtype;
    use crate::op::Op;
    use crate::precision::Granularity;
    use crate::quantise::{Axis, Quantise, Tiling};
    use crate::sample::tests::{sampled, worst};
    use crate::testing::{Random, Tensors};

    #[test]
    fn a_cast_holds_bit_for_bit_and_a_wrong_scale_or_layout_does_not() {
        use Granularity::{Block1x128, Block128x128, Row, Tensor};
        for granularity in [Tensor, Row, Block1x128, Block128x128] {
            for axis in [Axis::Rows, Axis::Columns] {
                let tiling = Tiling { rows: 160, cols: 272, granularity, axis };
                let quantise = |transposed| Quantise {
                    tiling,
                    dtype: Dtype::Bf16,
                    format: Dtype::E4m3,
                    row_major: true,
                    transposed,
                };
                let op = Op::Quantise(quantise(true));
                let mut random = Random::new(71);
                let scales: usize = tiling.scales().iter().product();
                let scale: Vec<f64> = (0..scales).map(|_| 0.01 * (1.0 + random.unit())).collect();
                let x = random.normals(160 * 272);
                let mut tensors = Tensors::new().with("x", Dtype::Bf16, &x).with("scale", Dtype::F32, &scale);
                tensors.run(&op);
                let found = sampled(&op, &tensors, 256);
                assert_eq!((found.len(), worst(&found)), (512, 0.0), "{tiling:?}");
                let mut other = tensors.clone();
                other.put("scale", Dtype::F32, &scale.iter().map(|scale| scale * 2.0).collect::<Vec<_>>());
                assert!(worst(&sampled(&op, &other, 256)) > 1.0, "{tiling:?}: the scale");
                let mut other = tensors.clone();
                other.insert("qt", tensors.buffer("q").clone());
                assert!(worst(&sampled(&op, &other, 256)) > 1.0, "{tiling:?}: the layout");
            }
        }
    }
}
