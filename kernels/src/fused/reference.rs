//! What a fusion means: its parts, one after the other, through temporaries of the dtypes they always had.

use super::{Fused, Local};
use crate::io::{Io, Slot};
use crate::op::{Access, Reference};
use crate::real::Real;
use crate::tensor::Buffer;

impl Reference for Fused {
    fn run<R: Real>(&self, io: &mut Io<'_, '_, R>) {
        let mut external = io.take_slots();
        let mut hidden: Vec<Buffer<R>> =
            self.hidden.iter().map(|hidden| Buffer::zeros(hidden.dtype, hidden.shape.iter().product())).collect();
        for part in &self.parts {
            let params = part.op.signature();
            let mut lent: Vec<Option<Slot<'_, R>>> = params.iter().map(|_| None).collect();
            // Written operands are lent first; what remains may be read by any number of parameters.
            let written = |local: Local| {
                let found =
                    params.iter().zip(&part.operands).position(|(p, l)| p.access != Access::Read && *l == local);
                found.into_iter()
            };
            let mut readable_external: Vec<Option<&Slot<'_, R>>> = Vec::with_capacity(external.len());
            for (index, slot) in external.iter_mut().enumerate() {
                match written(Local::External(index)).next() {
                    Some(param) => {
                        lent[param] = slot.reborrow_mut();
                        readable_external.push(None);
                    }
                    None => readable_external.push(Some(slot)),
                }
            }
            let mut readable_hidden: Vec<Option<&Buffer<R>>> = Vec::with_capacity(hidden.len());
            for (index, buffer) in hidden.iter_mut().enumerate() {
                match written(Local::Hidden(index)).next() {
                    Some(param) => {
                        lent[param] = Some(Slot::Write(buffer.view_mut()));
                        readable_hidden.push(None);
                    }
                    None => readable_hidden.push(Some(buffer)),
                }
            }
            let slots = part.operands.iter().zip(lent).map(|(local, lent)| {
                lent.or_else(|| match *local {
                    Local::External(index) => readable_external[index].and_then(Slot::reborrow),
                    Local::Hidden(index) => readable_hidden[index].map(|buffer| Slot::Read(buffer.view())),
                })
                // `check` has shown that every operand is there and is not both read and written by one part.
                .unwrap_or(Slot::Taken)
            });
            part.op.run(&mut Io::new(&params, slots.collect()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::Dtype;
    use crate::fused::{Hidden, Part, Pattern};
    use crate::op::{Op, Param, Spec};
    use crate::precision::Granularity;
    use crate::quantise::{Amax, Axis, Quantise, Scale, Tiling};
    use crate::testing::{Random, Tensors};
    use crate::{adamw, cross_entropy, gradient, residual, rmsnorm, rope, swiglu};

    const ROWS: usize = 5;
    const DIM: usize = 32;

    /// A fusion of parts whose operands are named: names in `hidden` become temporaries, all others operands of the whole.
    fn fuse(pattern: Pattern, parts: &[(Op, &[&str])], hidden: &[&str]) -> Fused {
        let mut names: Vec<&str> = Vec::new();
        let mut fused =
            Fused { pattern, parts: Vec::new(), params: Vec::new(), hidden: Vec::new(), unread: Vec::new() };
        let mut temporaries: Vec<&str> = Vec::new();
        for (op, operands) in parts {
            let mut locals = Vec::new();
            for (param, name) in op.signature().into_iter().zip(*operands) {
                if hidden.contains(name) {
                    let index = temporaries.iter().position(|known| known == name).unwrap_or_else(|| {
                        temporaries.push(name);
                        fused.hidden.push(Hidden { dtype: param.dtype, shape: param.shape.clone() });
                        temporaries.len() - 1
                    });
                    locals.push(Local::Hidden(index));
                    continue;
                }
                let index = names.iter().position(|known| known == name).unwrap_or_else(|| {
                    names.push(name);
                    fused.params.push(Param { name: (*name).to_owned().into(), ..param.clone() });
                    names.len() - 1
                });
                locals.push(Local::External(index));
            }
            fused.parts.push(Part { op: op.clone(), operands: locals });
        }
        fused
    }

    /// The parts one by one and the fusion: everything that leaves the fusion is bitwise equal.
    fn assert_equal_to_parts(fused: &Fused, parts: &[(Op, &[&str])], start: &Tensors<f32>) {
        let mut alone = start.clone();
        for (op, operands) in parts {
            let signature = op.signature();
            let names: Vec<(&str, &str)> =
                signature.iter().zip(*operands).map(|(param, name)| (param.name.as_ref(), *name)).collect();
            alone.run_as(op, &names);
        }
        let mut whole = start.clone();
        whole.run(&Op::Fused(fused.clone()));
        for param in &fused.params {
            let (found, expected) = (whole.get(&param.name), alone.get(&param.name));
            let bits = |values: &[f64]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&found), bits(&expected), "{:?} operand `{}`", fused.pattern, param.name);
        }
    }

    fn norm_parts() -> Vec<(Op, &'static [&'static str])> {
        let (rows, dim, dtype) = (ROWS, DIM, Dtype::Bf16);
        let tiling = Tiling { rows, cols: dim, granularity: Granularity::Row, axis: Axis::Rows };
        let format = Dtype::E4m3;
        vec![
            (Op::Add(residual::Add { rows, dim, dtype }), &["a", "b", "sum"]),
            // Reads what the part before wrote.
            (Op::RmsNormForward(rmsnorm::Forward { rows, dim, dtype }), &["sum", "w", "normed", "rstd"]),
            (Op::Amax(Amax { tiling, dtype }), &["normed", "amax"]),
            (Op::Scale(Scale { shape: vec![rows], format, power_of_two: true }), &["amax", "scale"]),
            (
                Op::Quantise(Quantise { tiling, dtype, format, row_major: true, transposed: true }),
                &["normed", "scale", "q", "qt"],
            ),
        ]
    }

    fn norm_start() -> Tensors<f32> {
        let mut random = Random::new(60);
        let mut start = Tensors::new();
        for (name, len) in [("a", ROWS * DIM), ("b", ROWS * DIM), ("w", DIM)] {
            start.put(name, Dtype::Bf16, &random.normals(len));
        }
        start
    }

    #[test]
    fn residual_norm_and_cast() {
        let parts = norm_parts();
        let fused = fuse(Pattern::NormForward, &parts, &["normed", "amax"]);
        assert_eq!(fused.hidden.len(), 2);
        assert_eq!(fused.class(), crate::Class::Elementwise);
        assert_equal_to_parts(&fused, &parts, &norm_start());
    }

    #[test]
    fn what_is_hidden_does_not_matter() {
        let parts = norm_parts();
        for hidden in [&[] as &[&str], &["normed"], &["amax", "rstd"]] {
            assert_equal_to_parts(&fuse(Pattern::NormForward, &parts, hidden), &parts, &norm_start());
        }
    }

    #[test]
    fn swiglu_backward_and_cast() {
        let (rows, ffn, dtype) = (ROWS, DIM, Dtype::Bf16);
        let tiling = Tiling { rows, cols: 2 * ffn, granularity: Granularity::Tensor, axis: Axis::Rows };
        let format = Dtype::E5m2;
        let quantise = Quantise { tiling, dtype, format, row_major: true, transposed: true };
        let parts: Vec<(Op, &[&str])> = vec![
            (Op::SwigluBackward(swiglu::Backward { rows, ffn, dtype }), &["gate_up", "dh", "dgate_up"]),
            (Op::Amax(Amax { tiling, dtype }), &["dgate_up", "amax"]),
            (Op::Scale(Scale { shape: vec![1], format, power_of_two: false }), &["amax", "scale"]),
            (Op::Quantise(quantise), &["dgate_up", "scale", "q", "qt"]),
        ];
        let mut random = Random::new(61);
        let start = Tensors::new().with("gate_up", dtype, &random.normals(rows * 2 * ffn)).with(
            "dh",
            dtype,
            &random.normals(rows * ffn),
        );
        assert_equal_to_parts(&fuse(Pattern::SwigluBackward, &parts, &["dgate_up", "amax"]), &parts, &start);
    }

    #[test]
    fn loss_in_place() {
        let (rows, vocab, padded, dtype) = (ROWS, 19, 24, Dtype::Bf16);
        let parts: Vec<(Op, &[&str])> = vec![
            (
                Op::CrossEntropyForward(cross_entropy::Forward { rows, vocab, padded, dtype }),
                &["logits", "targets", "loss", "lse"],
            ),
            (
                Op::CrossEntropyBackward(cross_entropy::Backward { rows, vocab, padded, dtype }),
                &["targets", "lse", "logits"],
            ),
            (Op::MeanLoss(cross_entropy::Mean { rows }), &["loss", "mean"]),
        ];
        let mut random = Random::new(62);
        let start = Tensors::new().with("logits", dtype, &random.normals(rows * padded)).with(
            "targets",
            Dtype::I32,
            &random.integers(rows, 19),
        );
        let mut fused = fuse(Pattern::Loss, &parts, &["lse"]);
        let logits = fused.params.iter_mut().find(|param| param.name == "logits").unwrap();
        assert_eq!(logits.access, Access::Read, "named by the first part");
        let refused =
            "fused Loss part CrossEntropyBackward operand `logits`: a written operand is not declared as read";
        assert_eq!(Op::Fused(fused.clone()).check().unwrap_err().to_string(), refused);
        fused.params.iter_mut().find(|param| param.name == "logits").unwrap().access = Access::Update;
        assert_equal_to_parts(&fused, &parts, &start);
    }

    #[test]
    fn norm_of_three_gradients() {
        let dtype = Dtype::Bf16;
        let squares = |shape: Vec<usize>| Op::SumSquares(gradient::SumSquares { shape, dtype });
        let parts: Vec<(Op, &[&str])> = vec![
            (squares(vec![7]), &["g0", "sum0"]),
            (squares(vec![3, 4]), &["g1", "sum1"]),
            (squares(vec![20_000]), &["g2", "sum2"]),
            (
                Op::ClipScale(gradient::ClipScale { count: 3, max_norm: 1.0 }),
                &["sum0", "sum1", "sum2", "norm", "scale"],
            ),
        ];
        let mut random = Random::new(64);
        let mut start = Tensors::new();
        for (name, len) in [("g0", 7), ("g1", 12), ("g2", 20_000)] {
            start.put(name, dtype, &random.normals(len));
        }
        for hidden in [&["sum0", "sum1", "sum2"] as &[&str], &["sum1"], &[]] {
            let fused = fuse(Pattern::GradientNorm, &parts, hidden);
            assert_eq!(fused.variants().len(), 1);
            assert_equal_to_parts(&fused, &parts, &start);
        }
    }

    #[test]
    fn two_updates_of_the_optimiser() {
        let update = |shape: Vec<usize>| {
            Op::AdamW(adamw::AdamW {
                shape,
                gradient: Dtype::Bf16,
                state: Dtype::F32,
                copy: Some(Dtype::Bf16),
                learning_rate: 1e-2,
                warmup: 10,
                weight_decay: 0.1,
            })
        };
        let parts: Vec<(Op, &[&str])> = vec![
            (update(vec![7]), &["g1", "clip", "step", "w1", "m1", "v1", "copy1"]),
            (update(vec![3, 4]), &["g2", "clip", "step", "w2", "m2", "v2", "copy2"]),
        ];
        let mut random = Random::new(63);
        let mut start = Tensors::new().with("clip", Dtype::F32, &[0.5]).with("step", Dtype::I32, &[3.0]);
        for (index, len) in [(1, 7), (2, 12)] {
            start.put(&format!("g{index}"), Dtype::Bf16, &random.normals(len));
            for state in ["w", "m", "v"] {
                let values: Vec<f64> = random.normals(len).iter().map(|value| value.abs()).collect();
                start.put(&format!("{state}{index}"), Dtype::F32, &values);
            }
        }
        assert_equal_to_parts(&fuse(Pattern::Optimiser, &parts, &[]), &parts, &start);

        // With the norm of the gradients, which clips nothing or must be there before the first update.
        let squares = |shape: Vec<usize>| Op::SumSquares(gradient::SumSquares { shape, dtype: Dtype::Bf16 });
        let clip = |max_norm| Op::ClipScale(gradient::ClipScale { count: 2, max_norm });
        let with_norm = |max_norm, first: &'static str| -> Vec<(Op, &[&str])> {
            let sums: [(Op, &[&str]); 3] = [
                (squares(vec![7]), if first == "g1" { &["g1", "sum1"] } else { &["g3", "sum1"] }),
                (squares(vec![3, 4]), &["g2", "sum2"]),
                (clip(max_norm), &["sum1", "sum2", "norm", "clip"]),
            ];
            sums.into_iter().chain(parts.clone()).collect()
        };
        start.put("g3", Dtype::Bf16, &random.normals(7));
        for (max_norm, first, hidden, kernels) in [
            (0.0, "g1", &["sum1", "sum2", "clip"] as &[&str], 2),
            (0.0, "g1", &[], 2),
            (1.0, "g1", &[], 0),
            // The squares of something that is not updated.
            (0.0, "g3", &[], 0),
        ] {
            let parts = with_norm(max_norm, first);
            let fused = fuse(Pattern::Optimiser, &parts, hidden);
            assert_eq!(fused.variants().len(), kernels, "{max_norm} {first}");
            assert_equal_to_parts(&fused, &parts, &start);
        }
    }

    #[test]
    fn what_nobody_reads_afterwards_is_read_but_not_written() {
        let rope = rope::Rope { batch: 2, seq: 4, heads: 3, head_dim: 8, dtype: Dtype::Bf16, backward: true };
        let tables = 2.0 * 4.0 * 4.0 * 4.0;
        let packed = 2.0 * 4.0 * 3.0 * 3.0 * 8.0 * 2.0;
        assert_eq!(Op::Rope(rope.clone()).bytes(), tables + packed * 2.0 * 2.0 / 3.0, "a third is left alone");
        let parts: [(Op, &[&str]); 1] = [(Op::Rope(rope), &["cos", "sin", "qkv"])];
        let mut fused = fuse(Pattern::RopeBackward, &parts, &[]);
        assert_eq!(Op::Fused(fused.clone()).bytes(), tables + 2.0 * packed);
        fused.unread = vec![2];
        assert_eq!(Op::Fused(fused).bytes(), tables + packed);
    }

    #[test]
    fn what_does_not_fit_is_refused_with_its_reason() {
        let good = || fuse(Pattern::NormForward, &norm_parts(), &["normed", "amax"]);
        let part = "fused NormForward part";
        let shape = "dtype and shape as the part's signature says";
        // what is done to a good fusion, message
        type Break = fn(&mut Fused);
        let cases: &[(Break, Option<String>)] = &[
            (|_| {}, None),
            (|fused| fused.params[0].dtype = Dtype::F32, Some(format!("{part} Add operand `a`: {shape}"))),
            (|fused| fused.params[2].shape[1] = 8, Some(format!("{part} Add operand `y`: {shape}"))),
            (|fused| fused.hidden[0].dtype = Dtype::F32, Some(format!("{part} RmsNormForward operand `y`: {shape}"))),
            (|fused| fused.parts[2].operands[0] = Local::Hidden(9), Some(format!("{part} Amax operand `x`: {shape}"))),
            (
                |fused| fused.parts[0].operands[1] = Local::External(99),
                Some(format!("{part} Add operand `b`: {shape}")),
            ),
            (|fused| fused.parts[0].operands.truncate(2), Some(format!("{part} Add: one operand per parameter"))),
            (
                |fused| fused.params[2].access = Access::Read,
                Some(format!("{part} Add operand `y`: a written operand is not declared as read")),
            ),
            (
                |fused| fused.parts.swap(1, 2),
                Some(format!("{part} Amax operand `x`: a temporary is written before it is read")),
            ),
            (
                |fused| {
                    let Op::Quantise(quantise) = &mut fused.parts[4].op else { unreachable!() };
                    quantise.format = Dtype::Bf16;
                },
                Some("quantise 5×32 to bf16: the format is E4M3 or E5M2".into()),
            ),
        ];
        for (change, message) in cases {
            let mut fused = good();
            change(&mut fused);
            assert_eq!(&fused.check().err().map(|error| error.to_string()), message);
        }
    }
}
