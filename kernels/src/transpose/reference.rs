//! What a transpose means: elements moved as they are, in tiles that stay in the cache.

use rayon::prelude::*;

use super::Transpose;
use crate::io::Io;
use crate::op::Reference;
use crate::real::Real;
use crate::tensor::{CHUNK, same_dtype};

/// Rows and columns of a tile: both of its sides fit the nearest cache.
const TILE: usize = 32;

impl Reference for Transpose {
    fn run<R: Real>(&self, io: &mut Io<'_, '_, R>) {
        let (x, y) = (io.view("x"), io.view_mut("y"));
        same_dtype!(x, y, |x, y| transpose(x, (self.rows, self.cols), y));
    }
}

/// `y[j, i] = x[i, j]` with x (rows, cols).
pub(crate) fn transpose<T: Copy + Send + Sync>(x: &[T], (rows, cols): (usize, usize), y: &mut [T]) {
    if x.is_empty() {
        return;
    }
    let band = |(index, y): (usize, &mut [T])| {
        let (from, width) = (index * TILE, y.len() / rows);
        for start in (0..rows).step_by(TILE) {
            let tile = start..rows.min(start + TILE);
            for col in 0..width {
                let out = &mut y[col * rows..][tile.clone()];
                let column = x[tile.start * cols + from + col..].iter().step_by(cols);
                out.iter_mut().zip(column).for_each(|(y, &x)| *y = x);
            }
        }
    };
    // TILE rows of y at a time.
    if x.len() <= CHUNK {
        y.chunks_mut(TILE * rows).enumerate().for_each(band);
    } else {
        y.par_chunks_mut(TILE * rows).enumerate().for_each(band);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::dtype::Dtype;
    use crate::op::Op;
    use crate::tensor::{Buffer, View};
    use crate::testing::Tensors;

    fn op(rows: usize, cols: usize, dtype: Dtype) -> Op {
        Op::Transpose(Transpose { rows, cols, dtype })
    }

    #[test]
    fn columns_become_rows() {
        let mut tensors = Tensors::<f32>::new().with("x", Dtype::F32, &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        tensors.run(&op(2, 3, Dtype::F32));
        assert_eq!(tensors.get("y"), [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
    }

    #[test]
    fn every_code_is_moved_as_it_is() {
        let codes: Vec<_> = (0..=u8::MAX).map(float8::F8E5M2::from_bits).collect();
        let mut tensors = Tensors::<f32>::new();
        tensors.insert("x", Buffer::E5m2(codes));
        tensors.run(&op(2, 128, Dtype::E5m2));
        let View::E5m2(y) = tensors.buffer("y").view() else { unreachable!() };
        for (index, code) in y.iter().enumerate() {
            assert_eq!(usize::from(code.to_bits()), index % 2 * 128 + index / 2, "NaNs keep their bits");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn twice_is_nothing(rows in 1usize..200, cols in 1usize..200, dtype in 0usize..5) {
            let dtype = [Dtype::F32, Dtype::Bf16, Dtype::E4m3, Dtype::E5m2, Dtype::I32][dtype];
            let values: Vec<f64> = (0..rows * cols).map(|index| f64::from(u32::try_from(index % 97).unwrap())).collect();
            let mut tensors = Tensors::<f32>::new().with("x", dtype, &values);
            tensors.run(&op(rows, cols, dtype));
            let (x, y) = (tensors.get("x"), tensors.get("y"));
            for row in 0..rows {
                for col in 0..cols {
                    prop_assert_eq!(x[row * cols + col], y[col * rows + row]);
                }
            }
            tensors.run_as(&op(cols, rows, dtype), &[("x", "y"), ("y", "z")]);
            prop_assert_eq!(tensors.get("z"), x);
        }
    }
}
