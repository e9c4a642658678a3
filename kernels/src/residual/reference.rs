//! What the residual connection means.

use rayon::prelude::*;

use super::Add;
use crate::io::Io;
use crate::op::Reference;
use crate::real::Real;
use crate::tensor::CHUNK;

impl Reference for Add {
    fn run<R: Real>(&self, io: &mut Io<'_, '_, R>) {
        let (a, b) = (io.read("a"), io.read("b"));
        let mut y = io.output("y");
        y.par_chunks_mut(CHUNK).zip(a.par_chunks(CHUNK)).zip(b.par_chunks(CHUNK)).for_each(|((y, a), b)| {
            for ((y, &a), &b) in y.iter_mut().zip(a).zip(b) {
                *y = a + b;
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::Dtype;
    use crate::op::Op;
    use crate::testing::{Random, Tensors};

    #[test]
    fn the_sum_is_rounded_once() {
        let op = Op::Add(Add { rows: 1, dim: 4, dtype: Dtype::Bf16 });
        let mut tensors = Tensors::<f32>::new().with("a", Dtype::Bf16, &[1.0, 256.0, 256.0, -3.0]).with(
            "b",
            Dtype::Bf16,
            &[2.0, 1.0, 3.0, 3.0],
        );
        // bf16 counts by twos above 256: 257 and 259 are ties and go to even.
        assert_eq!(tensors.run(&op).get("y"), [3.0, 256.0, 260.0, 0.0]);
    }

    #[test]
    fn every_element_is_added() {
        let mut random = Random::new(3);
        let (a, b) = (random.normals(3 * 16_411), random.normals(3 * 16_411));
        let mut tensors = Tensors::<f64>::new().with("a", Dtype::F32, &a).with("b", Dtype::F32, &b);
        let y = tensors.run(&Op::Add(Add { rows: 3, dim: 16_411, dtype: Dtype::F32 })).get("y");
        assert!(y.iter().zip(a.iter().zip(&b)).all(|(y, (a, b))| *y == a + b));
    }
}
