//! Rows of attention in fp64, one head's row at a time, from the operands as they lie.
//!
//! What right kernels differ by: every sum's path (as in products), exponentials of scores that are themselves sums, and the
//! rounding of probabilities (and of dS) to the dtype before they meet V (K, Q, dO). Those roundings are independent between
//! pairs of positions, or common to a whole row: 8 standard deviations of the one and the whole of the other are allowed.

use super::{FlashBackward, FlashForward, Product, ProductKind, Shape, SoftmaxBackward, SoftmaxForward};
use crate::attention::heads::Third;
use crate::dtype::Dtype;
use crate::sample::{Accumulation, Pieces, Sampled, indices, rounded_tolerance, unit_roundoff};

/// Relative error of one fp32 operation, hardware exponentials included (`ex2.approx`: 2⁻²²).
const FP32: f64 = 1.0 / 4_194_304.0;

/// The smallest normal number of fp32: hardware exponentials below it are 0.
const FLUSHED: f64 = f32::MIN_POSITIVE as f64;

/// Standard deviations that independent roundings may add up to; that of one rounding is below half its bound.
const DEVIATIONS: f64 = 4.0;

/// A batch, a head and a position.
type At = (usize, usize, usize);

impl Shape {
    fn rows(&self, count: usize, below: &mut dyn FnMut(usize) -> usize) -> Vec<At> {
        let heads = indices(count, self.batch * self.heads, below);
        let positions = indices(count, self.seq, below);
        // The first head with the last position and the last with the first, then at random.
        heads.iter().zip(positions.iter().rev()).map(|(h, s)| (h / self.heads, h % self.heads, *s)).collect()
    }

    fn packed_start(&self, third: Third, (batch, head, position): At) -> usize {
        (batch * self.seq + position) * self.packed_width() + self.column(third, head)
    }

    fn context_start(&self, (batch, head, position): At) -> usize {
        (batch * self.seq + position) * self.heads * self.head_dim + head * self.head_dim
    }

    /// Row `position` of the pairs of a head.
    fn pairs_start(&self, (batch, head, position): At) -> usize {
        ((batch * self.heads + head) * self.seq + position) * self.seq
    }

    fn statistic(&self, (batch, head, position): At) -> usize {
        (batch * self.heads + head) * self.seq + position
    }

    /// Rows of one third of one head of a packed tensor.
    fn thirds<P: Pieces>(
        &self,
        pieces: &mut P,
        operand: usize,
        third: Third,
        (batch, head, _): At,
        positions: std::ops::Range<usize>,
    ) -> Result<Vec<f64>, P::Error> {
        let starts: Vec<usize> = positions.map(|position| self.packed_start(third, (batch, head, position))).collect();
        pieces.pieces(operand, &starts, 1, self.head_dim)
    }

    /// Rows of one head of a context.
    fn contexts<P: Pieces>(
        &self,
        pieces: &mut P,
        operand: usize,
        (batch, head, _): At,
        positions: std::ops::Range<usize>,
    ) -> Result<Vec<f64>, P::Error> {
        let starts: Vec<usize> = positions.map(|position| self.context_start((batch, head, position))).collect();
        pieces.pieces(operand, &starts, 1, self.head_dim)
    }

    fn softmax(&self) -> f64 {
        self.scale::<f64>()
    }

    /// How many rows of hd elements make `count` elements.
    fn rows_for(&self, count: usize) -> usize {
        count.div_ceil(self.head_dim).max(8)
    }
}

/// Σ a·b and Σ |a·b|.
fn dot(a: &[f64], b: &[f64]) -> (f64, f64) {
    a.iter().zip(b).fold((0.0, 0.0), |(sum, size), (a, b)| (sum + a * b, size + (a * b).abs()))
}

/// Weights of rows, and how far each weight may be off before it is rounded to the dtype.
struct Weights {
    values: Vec<f64>,
    errors: Vec<f64>,
}

impl Weights {
    /// `Σ over rows of weight · row`, element by element, with the most that it can be off.
    fn combine(&self, dtype: Dtype, rows: &[f64], hd: usize) -> Vec<(f64, f64)> {
        let unit = unit_roundoff(dtype);
        let accumulation = Accumulation::of(dtype, false);
        let element = |d: usize| {
            let column = || rows.iter().skip(d).step_by(hd);
            let products = self.values.iter().zip(column()).map(|(weight, value)| weight * value);
            let (sum, path) = accumulation.sum(products.clone());
            let deviation = products.map(|product| product * product).sum::<f64>().sqrt();
            let off: f64 = self.errors.iter().zip(column()).map(|(error, value)| error * value.abs()).sum();
            (sum, path + off + unit * (sum.abs() + DEVIATIONS * deviation))
        };
        (0..hd).map(element).collect()
    }
}

fn push(
    out: &mut Vec<Sampled>,
    (operand, dtype, start): (&'static str, Dtype, usize),
    found: &[f64],
    expected: impl IntoIterator<Item = (f64, f64)>,
) {
    for (index, (found, (expected, error))) in found.iter().zip(expected).enumerate() {
        let tolerance = rounded_tolerance(dtype, expected, error);
        out.push(Sampled { operand, element: start + index, found: *found, expected, tolerance });
    }
}

impl FlashForward {
    /// Whole context rows of some heads, and their log-sum-exp.
    pub(crate) fn sample<P: Pieces>(
        &self,
        count: usize,
        below: &mut dyn FnMut(usize) -> usize,
        pieces: &mut P,
    ) -> Result<Vec<Sampled>, P::Error> {
        let (shape, hd) = (self.shape, self.shape.head_dim);
        let mut out = Vec::new();
        for at in shape.rows(shape.rows_for(count), below) {
            let seen = 0..shape.seen(at.2);
            let q = shape.thirds(pieces, 0, Third::Query, at, at.2..at.2 + 1)?;
            let k = shape.thirds(pieces, 0, Third::Key, at, seen.clone())?;
            let v = shape.thirds(pieces, 0, Third::Value, at, seen)?;
            let (scores, errors): (Vec<f64>, Vec<f64>) = k.chunks_exact(hd).map(|k| score(shape, &q, k)).unzip();
            let largest = scores.iter().fold(f64::NEG_INFINITY, |a, b| a.max(*b));
            let sum: f64 = scores.iter().map(|score| (score - largest).exp()).sum();
            let lse = largest + sum.ln();
            // The sum is as far off as the scores are.
            let worst = errors.iter().fold(0.0_f64, |a, b| a.max(*b)) + FP32 * (1.0 + lse.abs());
            let values: Vec<f64> = scores.iter().map(|score| (score - lse).exp()).collect();
            let errors = values.iter().zip(&errors).map(|(p, error)| p * (error + worst) + FLUSHED).collect();
            let start = shape.context_start(at);
            let found = pieces.pieces(1, &[start], 1, hd)?;
            let weights = Weights { values, errors };
            push(&mut out, ("context", shape.dtype, start), &found, weights.combine(shape.dtype, &v, hd));
            let start = shape.statistic(at);
            let found = pieces.pieces(2, &[start], 1, 1)?;
            push(&mut out, ("lse", Dtype::F32, start), &found, [(lse, 2.0 * worst)]);
        }
        Ok(out)
    }
}

/// A scaled score, and how far it may be off.
fn score(shape: Shape, q: &[f64], k: &[f64]) -> (f64, f64) {
    let (sum, size) = dot(q, k);
    (sum * shape.softmax(), shape.head_dim as f64 * 2f64.powi(-24) * size * shape.softmax() + FP32 * sum.abs())
}

/// Backward's share of one pair of positions.
struct Pair {
    p: f64,
    p_error: f64,
    ds: f64,
    ds_error: f64,
}

/// `p = exp(s − lse)`, `ds = p · (dO·v − dO·o) · scale`.
fn pair(shape: Shape, (q, k, v): (&[f64], &[f64], &[f64]), (out, dout): (&[f64], &[f64]), lse: f64) -> Pair {
    let (s, s_error) = score(shape, q, k);
    let p = (s - lse).exp();
    let p_error = p * (s_error + FP32 * (1.0 + lse.abs() + s.abs())) + FLUSHED;
    let ((dp, dp_size), (delta, delta_size)) = (dot(dout, v), dot(dout, out));
    let scale = shape.softmax();
    let sums = shape.head_dim as f64 * 2f64.powi(-24) * (dp_size + delta_size) + FP32 * (dp.abs() + delta.abs());
    Pair {
        p,
        p_error,
        ds: p * (dp - delta) * scale,
        ds_error: scale * (p * sums + p_error * (dp - delta).abs()) + FLUSHED,
    }
}

impl FlashBackward {
    /// Whole rows of dQ, dK and dV of some heads.
    pub(crate) fn sample<P: Pieces>(
        &self,
        count: usize,
        below: &mut dyn FnMut(usize) -> usize,
        pieces: &mut P,
    ) -> Result<Vec<Sampled>, P::Error> {
        let shape = self.shape;
        let mut out = Vec::new();
        for at in shape.rows(shape.rows_for(count.div_ceil(2)), below) {
            self.query(at, pieces, &mut out)?;
        }
        for at in shape.rows(shape.rows_for(count.div_ceil(2)), below) {
            self.key(at, pieces, &mut out)?;
        }
        Ok(out)
    }

    /// A row of dQ: one query, the keys that it sees.
    fn query<P: Pieces>(&self, at: At, pieces: &mut P, out: &mut Vec<Sampled>) -> Result<(), P::Error> {
        let (shape, hd) = (self.shape, self.shape.head_dim);
        let (own, seen) = (at.2..at.2 + 1, 0..shape.seen(at.2));
        let q = shape.thirds(pieces, 0, Third::Query, at, own.clone())?;
        let k = shape.thirds(pieces, 0, Third::Key, at, seen.clone())?;
        let v = shape.thirds(pieces, 0, Third::Value, at, seen)?;
        let (context, dout) = (shape.contexts(pieces, 1, at, own.clone())?, shape.contexts(pieces, 3, at, own)?);
        let lse = pieces.pieces(2, &[shape.statistic(at)], 1, 1)?[0];
        let pairs = k.chunks_exact(hd).zip(v.chunks_exact(hd));
        let pairs = pairs.map(|(k, v)| pair(shape, (&q, k, v), (&context, &dout), lse));
        let (values, errors) = pairs.map(|pair| (pair.ds, pair.ds_error)).unzip();
        let start = shape.packed_start(Third::Query, at);
        let found = pieces.pieces(4, &[start], 1, hd)?;
        push(out, ("dqkv", shape.dtype, start), &found, Weights { values, errors }.combine(shape.dtype, &k, hd));
        Ok(())
    }

    /// A row of dK and of dV: one key, the queries that see it, of every head that shares it.
    fn key<P: Pieces>(&self, at: At, pieces: &mut P, out: &mut Vec<Sampled>) -> Result<(), P::Error> {
        let (shape, hd) = (self.shape, self.shape.head_dim);
        let (own, seen) = (at.2..at.2 + 1, shape.seen_from(at.2)..shape.seq);
        let k = shape.thirds(pieces, 0, Third::Key, at, own.clone())?;
        let v = shape.thirds(pieces, 0, Third::Value, at, own)?;
        let (mut queries, mut douts, mut pairs) = (Vec::new(), Vec::new(), Vec::new());
        let first = at.1 / shape.sharing() * shape.sharing();
        for head in first..first + shape.sharing() {
            let at = (at.0, head, at.2);
            let q = shape.thirds(pieces, 0, Third::Query, at, seen.clone())?;
            let (context, dout) =
                (shape.contexts(pieces, 1, at, seen.clone())?, shape.contexts(pieces, 3, at, seen.clone())?);
            let lse = pieces.pieces(2, &[shape.statistic((at.0, head, seen.start))], 1, seen.len())?;
            let rows = q.chunks_exact(hd).zip(context.chunks_exact(hd)).zip(dout.chunks_exact(hd)).zip(&lse);
            pairs.extend(rows.map(|(((q, context), dout), lse)| pair(shape, (q, &k, &v), (context, dout), *lse)));
            queries.extend(q);
            douts.extend(dout);
        }
        let (values, errors) = pairs.iter().map(|pair| (pair.ds, pair.ds_error)).unzip();
        let start = shape.packed_start(Third::Key, at);
        let found = pieces.pieces(4, &[start], 1, hd)?;
        push(out, ("dqkv", shape.dtype, start), &found, Weights { values, errors }.combine(shape.dtype, &queries, hd));
        let (values, errors) = pairs.iter().map(|pair| (pair.p, pair.p_error)).unzip();
        let start = shape.packed_start(Third::Value, at);
        let found = pieces.pieces(4, &[start], 1, hd)?;
        push(out, ("dqkv", shape.dtype, start), &found, Weights { values, errors }.combine(shape.dtype, &douts, hd));
        Ok(())
    }
}

impl Product {
    /// Single scores, or whole rows of one head of a context or of dqkv.
    pub(crate) fn sample<P: Pieces>(
        &self,
        count: usize,
        below: &mut dyn FnMut(usize) -> usize,
        pieces: &mut P,
    ) -> Result<Vec<Sampled>, P::Error> {
        let (shape, hd) = (self.shape, self.shape.head_dim);
        let scores = matches!(self.kind, ProductKind::Scores | ProductKind::ProbabilityGradient);
        let accumulation = Accumulation::of(shape.dtype, false);
        let mut out = Vec::new();
        for at in shape.rows(if scores { count } else { shape.rows_for(count) }, below) {
            if scores {
                let key = (at.0, at.1, below(shape.seq));
                let (name, a, b) = if self.kind == ProductKind::Scores {
                    let q = pieces.pieces(0, &[shape.packed_start(Third::Query, at)], 1, hd)?;
                    ("scores", q, pieces.pieces(0, &[shape.packed_start(Third::Key, key)], 1, hd)?)
                } else {
                    let dout = pieces.pieces(0, &[shape.context_start(at)], 1, hd)?;
                    ("dp", dout, pieces.pieces(1, &[shape.packed_start(Third::Value, key)], 1, hd)?)
                };
                let place = shape.pairs_start(at) + key.2;
                let result = if self.kind == ProductKind::Scores { 1 } else { 2 };
                let found = pieces.pieces(result, &[place], 1, 1)?;
                let sum = accumulation.sum(a.iter().zip(&b).map(|(a, b)| a * b));
                push(&mut out, (name, shape.dtype, place), &found, [sum]);
                continue;
            }
            let all = 0..shape.seq;
            let row = |pieces: &mut P| pieces.pieces(0, &[shape.pairs_start(at)], 1, shape.seq);
            let column =
                |pieces: &mut P| pieces.pieces(0, &[shape.pairs_start((at.0, at.1, 0)) + at.2], shape.seq, shape.seq);
            let (name, weights, rows, start) = match self.kind {
                ProductKind::Context => {
                    let v = shape.thirds(pieces, 1, Third::Value, at, all)?;
                    ("context", row(pieces)?, v, shape.context_start(at))
                }
                ProductKind::ValueGradient => {
                    let dout = shape.contexts(pieces, 1, at, all)?;
                    ("dqkv", column(pieces)?, dout, shape.packed_start(Third::Value, at))
                }
                ProductKind::QueryGradient => {
                    let k = shape.thirds(pieces, 1, Third::Key, at, all)?;
                    ("dqkv", row(pieces)?, k, shape.packed_start(Third::Query, at))
                }
                _ => {
                    let q = shape.thirds(pieces, 1, Third::Query, at, all)?;
                    ("dqkv", column(pieces)?, q, shape.packed_start(Third::Key, at))
                }
            };
            let found = pieces.pieces(2, &[start], 1, hd)?;
            let element = |d: usize| {
                let column = rows.iter().skip(d).step_by(hd);
                accumulation.sum(weights.iter().zip(column).map(|(weight, value)| weight * value))
            };
            push(&mut out, (name, shape.dtype, start), &found, (0..hd).map(element));
        }
        Ok(out)
    }
}

impl SoftmaxForward {
    /// Whole rows of probabilities, what is masked included.
    pub(crate) fn sample<P: Pieces>(
        &self,
        count: usize,
        below: &mut dyn FnMut(usize) -> usize,
        pieces: &mut P,
    ) -> Result<Vec<Sampled>, P::Error> {
        let shape = self.shape;
        let mut out = Vec::new();
        for at in shape.rows(count.div_ceil(shape.seq).max(8), below) {
            let start = shape.pairs_start(at);
            let (scores, found) =
                (pieces.pieces(0, &[start], 1, shape.seq)?, pieces.pieces(1, &[start], 1, shape.seq)?);
            let seen = &scores[..=at.2];
            let largest = seen.iter().fold(f64::NEG_INFINITY, |a, b| a.max(*b));
            let exponent = |score: f64| (score - largest) * shape.softmax();
            let sum: f64 = seen.iter().map(|score| exponent(*score).exp()).sum();
            // The sum's own error is common to the row and of fp32's size, seq additions at most.
            let common = FP32 * 4.0 + shape.seq as f64 * 2f64.powi(-24);
            let value = |(key, score): (usize, &f64)| {
                let p = if key <= at.2 { exponent(*score).exp() / sum } else { 0.0 };
                (p, p * (common + FP32 * exponent(*score).abs()))
            };
            push(&mut out, ("p", shape.dtype, start), &found, scores.iter().enumerate().map(value));
        }
        Ok(out)
    }
}

impl SoftmaxBackward {
    /// Whole rows of the scores' gradient.
    pub(crate) fn sample<P: Pieces>(
        &self,
        count: usize,
        below: &mut dyn FnMut(usize) -> usize,
        pieces: &mut P,
    ) -> Result<Vec<Sampled>, P::Error> {
        let (shape, scale) = (self.shape, self.shape.softmax());
        let mut out = Vec::new();
        for at in shape.rows(count.div_ceil(shape.seq).max(8), below) {
            let start = shape.pairs_start(at);
            let mut row = |operand| pieces.pieces(operand, &[start], 1, shape.seq);
            let (p, dp, found) = (row(0)?, row(1)?, row(2)?);
            let (sum, size) = dot(&p, &dp);
            let value = |(p, dp): (&f64, &f64)| {
                let error = shape.seq as f64 * 2f64.powi(-24) * size + FP32 * (dp.abs() + sum.abs());
                (p * (dp - sum) * scale, p * error * scale)
            };
            push(&mut out, ("ds", shape.dtype, start), &found, p.iter().zip(&dp).map(value));
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use crate::attention::{
        FlashBackward, FlashForward, Kernel, Mask, Order, Product, ProductKind, Shape, SoftmaxBackward, SoftmaxForward,
    };
    use crate::dtype::Dtype;
    use crate::op::{Access, Op};
    use crate::sample::tests::{results, sampled, worst};
    use crate::testing::{Random, Tensors};

    fn shape(dtype: Dtype) -> Shape {
        Shape::causal(2, 200, 3, 32, dtype)
    }

    /// Every op of both forms in the order of a step, all tensors under the names of the signatures.
    fn ops(shape: Shape) -> Vec<Op> {
        let product = |kind| Op::AttentionProduct(Product { shape, kind });
        vec![
            Op::FlashForward(FlashForward { shape, kernel: Kernel::Flash }),
            Op::FlashBackward(FlashBackward { shape, kernel: Kernel::Flash, order: Order::Any }),
            product(ProductKind::Scores),
            Op::SoftmaxForward(SoftmaxForward { shape }),
            product(ProductKind::Context),
            product(ProductKind::ValueGradient),
            product(ProductKind::ProbabilityGradient),
            Op::SoftmaxBackward(SoftmaxBackward { shape }),
            product(ProductKind::QueryGradient),
            product(ProductKind::KeyGradient),
        ]
    }

    fn start(shape: Shape) -> Tensors<f32> {
        let mut random = Random::new(51);
        let mut normals = |of: [usize; 2]| random.normals(of[0] * of[1]);
        let (qkv, dcontext) = (normals(shape.packed()), normals(shape.context()));
        Tensors::new().with("qkv", shape.dtype, &qkv).with("dcontext", shape.dtype, &dcontext)
    }

    #[test]
    fn right_attention_holds_and_wrong_attention_does_not() {
        let shared = Shape { heads: 4, kv_heads: 2, seq: 130, ..shape(Dtype::Bf16) };
        for shape in [shape(Dtype::Bf16), shape(Dtype::F32), shared, Shape { mask: Mask::Full, ..shared }] {
            let mut tensors = start(shape);
            let both_forms = shape.kv_heads == shape.heads;
            for op in ops(shape).into_iter().take(if both_forms { usize::MAX } else { 2 }) {
                tensors.run(&op);
                let found = sampled(&op, &tensors, 256);
                assert!(found.len() >= 256, "{op:?}: {}", found.len());
                assert!(worst(&found) <= 1.0, "{op:?}: {}", worst(&found));
                for name in results(&op) {
                    breaks(&op, &tensors, &name);
                }
            }
        }
    }

    /// Every way to be wrong is found in each result.
    fn breaks(op: &Op, tensors: &Tensors<f32>, name: &str) {
        let right = tensors.get(name);
        let dtype = tensors.buffer(name).view().dtype();
        let wrong: [(&str, Vec<f64>); 4] = [
            ("a factor of 1.1", right.iter().map(|x| x * 1.1).collect()),
            ("zeros", vec![0.0; right.len()]),
            ("not a number", vec![f64::NAN; right.len()]),
            ("the neighbour's", right.iter().cycle().skip(1).take(right.len()).copied().collect()),
        ];
        for (what, values) in wrong {
            let mut broken = tensors.clone();
            broken.put(name, dtype, &values);
            let found = sampled(op, &broken, 256);
            assert!(worst(&found) > 1.0, "{} `{name}`: {what} was not found", op.name());
        }
    }

    #[test]
    fn a_mask_that_is_off_by_one_and_a_wrong_scale_are_found() {
        let shape = shape(Dtype::Bf16);
        let forward = Op::FlashForward(FlashForward { shape, kernel: Kernel::Flash });
        let mut tensors = start(shape);
        tensors.run(&forward);
        // Keys and values one position late: what a mask without its diagonal would see.
        let width = shape.heads * shape.head_dim;
        let qkv = tensors.get("qkv");
        let mut late = qkv.clone();
        for row in (1..shape.batch * shape.seq).rev() {
            for col in width..3 * width {
                late[row * 3 * width + col] = qkv[(row - 1) * 3 * width + col];
            }
        }
        let half: Vec<f64> =
            qkv.iter().enumerate().map(|(i, x)| if i % (3 * width) < width { x / 2.0 } else { *x }).collect();
        for (what, values) in [("mask", late), ("scale", half)] {
            let mut other = tensors.clone();
            other.put("qkv", shape.dtype, &values);
            other.run(&forward);
            other.put("qkv", shape.dtype, &qkv);
            assert!(worst(&sampled(&forward, &other, 256)) > 1.0, "{what}");
        }
        assert!(forward.signature().iter().any(|param| param.access == Access::Write));
    }
}
