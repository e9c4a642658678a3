//! What a cast means: the rounding is the output's.

use super::Cast;
use crate::io::Io;
use crate::op::Reference;
use crate::real::Real;
use crate::tensor::same_dtype;

impl Reference for Cast {
    fn run<R: Real>(&self, io: &mut Io<'_, '_, R>) {
        if self.from == self.to {
            let (x, y) = (io.view("x"), io.view_mut("y"));
            return same_dtype!(x, y, |x, y| y.copy_from_slice(x));
        }
        let x = io.read("x");
        let mut y = io.view_mut("y");
        y.store(&x);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::Dtype;
    use crate::op::Op;
    use crate::tensor::Buffer;
    use crate::testing::Tensors;

    #[test]
    fn values_are_rounded_once() {
        // Half a step of bf16 above 1 ties to even, a little more rounds up; E4M3 saturates.
        let x = [1.0, 1.003_906_25, 1.003_906_5, -500.0, 1e6];
        // from, to, result
        let cases: &[(Dtype, Dtype, [f64; 5])] = &[
            (Dtype::F32, Dtype::Bf16, [1.0, 1.0, 1.007_812_5, -500.0, 999_424.0]),
            (Dtype::F32, Dtype::E4m3, [1.0, 1.0, 1.0, -448.0, 448.0]),
            (Dtype::F32, Dtype::E5m2, [1.0, 1.0, 1.0, -512.0, 57_344.0]),
            (Dtype::Bf16, Dtype::F32, [1.0, 1.0, 1.007_812_5, -500.0, 999_424.0]),
        ];
        for (from, to, expected) in cases {
            let op = Op::Cast(Cast { shape: vec![5], from: *from, to: *to });
            assert_eq!(Tensors::<f32>::new().with("x", *from, &x).run(&op).get("y"), expected, "{from} to {to}");
            assert_eq!(Tensors::<f64>::new().with("x", *from, &x).run(&op).get("y"), expected, "{from} to {to}");
        }
    }

    fn every_bf16() -> Tensors<f32> {
        let mut tensors = Tensors::new();
        tensors.insert("x", Buffer::Bf16((0..=u16::MAX).map(half::bf16::from_bits).collect()));
        tensors
    }

    #[test]
    fn one_dtype_is_a_copy_of_the_bits() {
        let mut tensors = every_bf16();
        tensors.run(&Op::Cast(Cast { shape: vec![1 << 16], from: Dtype::Bf16, to: Dtype::Bf16 }));
        let Buffer::Bf16(y) = tensors.buffer("y") else { unreachable!() };
        assert!(y.iter().enumerate().all(|(index, y)| usize::from(y.to_bits()) == index));
    }

    #[test]
    fn bf16_survives_fp32_and_back() {
        let mut tensors = every_bf16();
        let cast = |from, to| Op::Cast(Cast { shape: vec![1 << 16], from, to });
        tensors.run(&cast(Dtype::Bf16, Dtype::F32));
        tensors.run_as(&cast(Dtype::F32, Dtype::Bf16), &[("x", "y"), ("y", "z")]);
        let Buffer::Bf16(z) = tensors.buffer("z") else { unreachable!() };
        for (index, z) in z.iter().enumerate() {
            let nan = index & 0x7fff > 0x7f80;
            assert_eq!(usize::from(z.to_bits()), if nan { 0x7fff } else { index }, "{index:#06x}");
        }
    }
}
