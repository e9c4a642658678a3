//! What the embedding means, in plain loops.

use rayon::prelude::*;

use super::{Backward, Forward, SEGMENT};
use crate::io::Io;
use crate::op::Reference;
use crate::real::Real;
use crate::tensor::same_dtype;

#[expect(clippy::cast_sign_loss, reason = "token ids are never negative: the data source makes them")]
const fn row(id: i32) -> usize {
    id as usize
}

impl Reference for Forward {
    fn run<R: Real>(&self, io: &mut Io<'_, '_, R>) {
        let (ids, table, x) = (io.integers("ids"), io.view("table"), io.view_mut("x"));
        // Rows are copied as they are stored: the table is far larger than what is read of it.
        same_dtype!(table, x, |table, x| {
            x.par_chunks_exact_mut(self.dim).zip(ids).for_each(|(out, &id)| {
                out.copy_from_slice(&table[row(id) * self.dim..][..self.dim]);
            });
        });
    }
}

impl Reference for Backward {
    fn run<R: Real>(&self, io: &mut Io<'_, '_, R>) {
        let (ids, dx) = (io.integers("ids"), io.read("dx"));
        let mut dtable = io.update("dtable");
        // The tokens of each row that was used, in their order.
        let mut tokens: Vec<Vec<usize>> = vec![Vec::new(); self.vocab];
        for (token, &id) in ids.iter().enumerate() {
            tokens[row(id)].push(token);
        }
        dtable.par_chunks_exact_mut(self.dim).zip(&tokens).filter(|(_, tokens)| !tokens.is_empty()).for_each(
            |(old, tokens)| {
                let mut sum = vec![R::zero(); self.dim];
                for segment in tokens.chunks(SEGMENT) {
                    let mut of_segment = vec![R::zero(); self.dim];
                    for token in segment {
                        let dx = &dx[token * self.dim..][..self.dim];
                        of_segment.iter_mut().zip(dx).for_each(|(sum, &dx)| *sum += dx);
                    }
                    sum.iter_mut().zip(of_segment).for_each(|(sum, segment)| *sum += segment);
                }
                old.iter_mut().zip(sum).for_each(|(old, sum)| *old += sum);
            },
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::Dtype;
    use crate::op::Op;
    use crate::testing::{Random, Tensors, assert_close, assert_gradient, dot};

    #[test]
    fn rows_are_looked_up() {
        for dtype in [Dtype::F32, Dtype::Bf16] {
            let op = Op::EmbeddingForward(Forward { tokens: 4, vocab: 3, dim: 2, dtype });
            let mut tensors = Tensors::<f32>::new().with("ids", Dtype::I32, &[2.0, 0.0, 2.0, 1.0]).with(
                "table",
                dtype,
                &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
            );
            assert_eq!(tensors.run(&op).get("x"), [5.0, 6.0, 1.0, 2.0, 5.0, 6.0, 3.0, 4.0]);
        }
    }

    #[test]
    fn repeated_ids_add_up_and_the_old_value_stays() {
        let op = Op::EmbeddingBackward(Backward { tokens: 4, vocab: 3, dim: 2, dtype: Dtype::F32 });
        let mut tensors = Tensors::<f32>::new()
            .with("ids", Dtype::I32, &[2.0, 0.0, 2.0, 2.0])
            .with("dx", Dtype::F32, &[1.0, 10.0, 2.0, 20.0, 3.0, 30.0, 4.0, 40.0])
            .with("dtable", Dtype::F32, &[0.5, 0.5, 0.25, 0.25, 0.125, 0.125]);
        assert_eq!(tensors.run(&op).get("dtable"), [2.5, 20.5, 0.25, 0.25, 8.125, 80.125]);
    }

    #[test]
    fn sums_are_rounded_once_not_per_token() {
        let op = Op::EmbeddingBackward(Backward { tokens: 4, vocab: 1, dim: 1, dtype: Dtype::Bf16 });
        let mut tensors = Tensors::<f32>::new()
            .with("ids", Dtype::I32, &[0.0; 4])
            .with("dx", Dtype::Bf16, &[1.0; 4])
            .with("dtable", Dtype::Bf16, &[256.0]);
        // Token by token 256 + 1 would fall back to 256 each time.
        assert_eq!(tensors.run(&op).get("dtable"), [260.0]);
    }

    #[test]
    fn the_backward_is_the_gradient() {
        let (tokens, vocab, dim) = (9, 4, 3);
        let mut random = Random::new(4);
        let (ids, table, dx) = (random.integers(tokens, 3), random.normals(vocab * dim), random.normals(tokens * dim));
        let tensors = Tensors::<f64>::new().with("ids", Dtype::I32, &ids).with("dx", Dtype::F32, &dx);
        let mut backward = tensors.clone().with("dtable", Dtype::F32, &vec![0.0; vocab * dim]);
        backward.run(&Op::EmbeddingBackward(Backward { tokens, vocab, dim, dtype: Dtype::F32 }));
        let dtable = backward.get("dtable");
        let forward = Op::EmbeddingForward(Forward { tokens, vocab, dim, dtype: Dtype::F32 });
        assert_gradient(&table, &dtable, |table| {
            dot(&tensors.clone().with("table", Dtype::F32, table).run(&forward).get("x"), &dx)
        });
        assert_close(&dtable[3 * dim..], &[0.0; 3], 0.0); // id 3 is never drawn
    }
}
