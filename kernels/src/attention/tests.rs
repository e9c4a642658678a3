//! Attention against its definition, against finite differences, and the tiled form against the naive one.

use super::{
    FlashBackward, FlashForward, Kernel, Mask, Order, Product, ProductKind, Shape, SoftmaxBackward, SoftmaxForward,
};
use crate::dtype::Dtype;
use crate::op::{Op, Spec};
use crate::real::Real;
use crate::testing::{Random, Tensors, assert_close, assert_gradient, dot};

fn shape(batch: usize, seq: usize, heads: usize, head_dim: usize, dtype: Dtype) -> Shape {
    Shape::causal(batch, seq, heads, head_dim, dtype)
}

fn product(shape: Shape, kind: ProductKind) -> Op {
    Op::AttentionProduct(Product { shape, kind })
}

fn flash_forward(shape: Shape) -> Op {
    Op::FlashForward(FlashForward { shape, kernel: Kernel::Flash })
}

fn flash_backward(shape: Shape) -> Op {
    Op::FlashBackward(FlashBackward { shape, kernel: Kernel::Flash, order: Order::Any })
}

/// Scores, softmax, context.
fn naive_forward<R: Real>(tensors: &mut Tensors<R>, shape: Shape) {
    tensors
        .run(&product(shape, ProductKind::Scores))
        .run(&Op::SoftmaxForward(SoftmaxForward { shape }))
        .run(&product(shape, ProductKind::Context));
}

/// The five ops from dcontext to dqkv.
fn naive_backward<R: Real>(tensors: &mut Tensors<R>, shape: Shape) {
    tensors
        .run(&product(shape, ProductKind::ProbabilityGradient))
        .run(&Op::SoftmaxBackward(SoftmaxBackward { shape }))
        .run(&product(shape, ProductKind::ValueGradient))
        .run(&product(shape, ProductKind::QueryGradient))
        .run(&product(shape, ProductKind::KeyGradient));
}

/// Context and log-sum-exp by the definition alone.
fn definition(shape: Shape, qkv: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let Shape { batch, seq, heads, kv_heads, head_dim, mask, .. } = shape;
    let width = heads * head_dim;
    let row = |b: usize, s: usize, third: usize, head: usize| {
        let at = [head, heads + head * kv_heads / heads, heads + kv_heads + head * kv_heads / heads][third];
        &qkv[((b * seq + s) * (heads + 2 * kv_heads) + at) * head_dim..][..head_dim]
    };
    let mut context = vec![0.0; batch * seq * width];
    let mut lse = Vec::new();
    for (b, head) in (0..batch).flat_map(|b| (0..heads).map(move |head| (b, head))) {
        for query in 0..seq {
            let scale = 1.0 / f64::from(u32::try_from(head_dim).unwrap()).sqrt();
            let end = if mask == Mask::Causal { query + 1 } else { seq };
            let scores: Vec<f64> =
                (0..end).map(|key| dot(row(b, query, 0, head), row(b, key, 1, head)) * scale).collect();
            let largest = scores.iter().fold(f64::NEG_INFINITY, |a, b| a.max(*b));
            let sum: f64 = scores.iter().map(|score| (score - largest).exp()).sum();
            lse.push(largest + sum.ln());
            let out = &mut context[(b * seq + query) * width + head * head_dim..][..head_dim];
            for (key, score) in scores.iter().enumerate() {
                let p = (score - largest).exp() / sum;
                out.iter_mut().zip(row(b, key, 2, head)).for_each(|(out, v)| *out += p * v);
            }
        }
    }
    (context, lse)
}

/// Random qkv and dcontext, rounded to the shape's dtype.
fn tensors<R: Real>(shape: Shape, seed: u64) -> Tensors<R> {
    let mut random = Random::new(seed);
    let qkv = random.normals(shape.packed().iter().product());
    let dcontext = random.normals(shape.context().iter().product());
    Tensors::new().with("qkv", shape.dtype, &qkv).with("dcontext", shape.dtype, &dcontext)
}

/// One tile exactly, one less, one more, several with a partial last, and the smallest.
const LENGTHS: [usize; 6] = [1, 2, 63, 64, 65, 130];

#[test]
fn two_positions_by_hand() {
    // One head of width 1. Position 0 sees itself: its context is v₀. Position 1: scores 2·ln 3 · (0, 1/2) = 0 and ln 3,
    // probabilities 1/4 and 3/4.
    let ln3 = 3f64.ln();
    let shape = shape(1, 2, 1, 1, Dtype::F32);
    let mut tensors = Tensors::<f64>::new().with("qkv", Dtype::F32, &[5.0, 0.0, 4.0, 2.0 * ln3, 0.5, 8.0]);
    naive_forward(&mut tensors, shape);
    assert_close(&tensors.get("scores"), &[0.0, 2.5, 0.0, ln3], 1e-15);
    assert_close(&tensors.get("p"), &[1.0, 0.0, 0.25, 0.75], 1e-15);
    assert_close(&tensors.get("context"), &[4.0, 7.0], 1e-15);
    tensors.run(&flash_forward(shape));
    assert_close(&tensors.get("context"), &[4.0, 7.0], 1e-15);
    assert_close(&tensors.get("lse"), &[0.0, 4f64.ln()], 1e-15);
    // dcontext (1, 1): dP = V; dS = p (dp − Σ p·dp) = ¼·(4−7), ¾·(8−7); dV₀ = 1 + ¼, dV₁ = ¾.
    tensors.put("dcontext", Dtype::F32, &[1.0, 1.0]);
    let expected = [0.0, -0.75 * 2.0 * ln3, 1.25, 0.375, 0.75 * 2.0 * ln3, 0.75];
    naive_backward(&mut tensors, shape);
    assert_close(&tensors.get("ds"), &[0.0, 0.0, -0.75, 0.75], 1e-15);
    assert_close(&tensors.get("dqkv"), &expected, 1e-14);
    assert_close(&tensors.run(&flash_backward(shape)).get("dqkv"), &expected, 1e-14);
}

#[test]
fn both_forms_equal_the_definition_in_fp64() {
    for seq in LENGTHS {
        let shape = shape(2, seq, 3, 8, Dtype::F32);
        let mut tensors = tensors::<f64>(shape, 40);
        let (context, lse) = definition(shape, &tensors.get("qkv"));
        naive_forward(&mut tensors, shape);
        assert_close(&tensors.get("context"), &context, 1e-12);
        tensors.run(&flash_forward(shape));
        assert_close(&tensors.get("context"), &context, 1e-12);
        assert_close(&tensors.get("lse"), &lse, 1e-12);
    }
}

#[test]
fn the_tiled_backward_equals_the_naive_chain_in_fp64() {
    for seq in LENGTHS {
        let shape = shape(2, seq, 2, 8, Dtype::F32);
        let mut tensors = tensors::<f64>(shape, 41);
        naive_forward(&mut tensors, shape);
        naive_backward(&mut tensors, shape);
        let naive = tensors.get("dqkv");
        tensors.run(&flash_forward(shape)).run(&flash_backward(shape));
        assert_close(&tensors.get("dqkv"), &naive, 1e-12);
    }
}

/// Heads that share keys and values, and no mask.
fn other_shapes(seq: usize, head_dim: usize, dtype: Dtype) -> impl Iterator<Item = Shape> {
    let masks = [Mask::Causal, Mask::Full];
    [(4, 2), (3, 1), (2, 2)].into_iter().flat_map(move |(heads, kv_heads)| {
        masks.map(|mask| Shape { kv_heads, mask, ..shape(2, seq, heads, head_dim, dtype) })
    })
}

#[test]
fn shared_heads_and_no_mask_equal_the_definition_and_its_gradient() {
    for seq in [1, 64, 70] {
        for shape in other_shapes(seq, 4, Dtype::F32) {
            let mut tensors = tensors::<f64>(shape, 52);
            let (context, lse) = definition(shape, &tensors.get("qkv"));
            tensors.run(&flash_forward(shape));
            assert_close(&tensors.get("context"), &context, 1e-12);
            assert_close(&tensors.get("lse"), &lse, 1e-12);
        }
    }
    for shape in other_shapes(5, 3, Dtype::F32) {
        let mut tensors = tensors::<f64>(shape, 53);
        let (qkv, dcontext) = (tensors.get("qkv"), tensors.get("dcontext"));
        tensors.run(&flash_forward(shape)).run(&flash_backward(shape));
        assert_gradient(&qkv, &tensors.get("dqkv"), |qkv| dot(&definition(shape, qkv).0, &dcontext));
    }
}

#[test]
fn who_takes_which_shape_is_said() {
    let plain = shape(1, 8, 4, 8, Dtype::Bf16);
    let check = |shape: Shape, kernel, order| match (FlashBackward { shape, kernel, order }).check() {
        Ok(()) => "runs".to_owned(),
        Err(error) => error.to_string(),
    };
    let grouped = Shape { kv_heads: 2, ..plain };
    assert_eq!(check(grouped, Kernel::Flash, Order::Fixed), "runs");
    assert_eq!(
        check(Shape { kv_heads: 3, ..plain }, Kernel::Flash, Order::Any),
        "attention backward with 4 heads of queries and 3 of keys and values: the second divides the first"
    );
    assert_eq!(
        check(Shape { seq: 0, ..grouped }, Kernel::Flash, Order::Any),
        "attention backward of 1 sequences of 0 tokens, 4 heads of 8: none of these is 0"
    );
    let empty = Product { shape: Shape { heads: 0, kv_heads: 0, ..plain }, kind: ProductKind::Scores };
    assert!(empty.check().is_err());
    assert_eq!(
        check(grouped, Kernel::Cudnn, Order::Any),
        "attention backward with mask Causal, 4 heads of queries and 2 of keys and values: it is causal, and keys have as \
         many heads as queries: only `flash` takes others"
    );
    assert_eq!(
        check(plain, Kernel::Cudnn, Order::Fixed),
        "attention backward by cuDNN in a fixed order: any order, or `flash`"
    );
    let full = Product { shape: Shape { mask: Mask::Full, ..plain }, kind: ProductKind::Scores };
    assert!(full.check().is_err());
}

#[test]
fn bf16_differs_by_its_rounding_only() {
    for seq in LENGTHS {
        let shape = shape(1, seq, 2, 16, Dtype::Bf16);
        let exact_shape = Shape { dtype: Dtype::F32, ..shape };
        let mut rough = tensors::<f32>(shape, 42);
        let mut exact = Tensors::<f64>::new();
        for name in ["qkv", "dcontext"] {
            exact.put(name, Dtype::F32, &rough.get(name));
        }
        naive_forward(&mut exact, exact_shape);
        naive_backward(&mut exact, exact_shape);
        let mut naive = rough.clone();
        naive_forward(&mut naive, shape);
        naive_backward(&mut naive, shape);
        rough.run(&flash_forward(shape)).run(&flash_backward(shape));
        for found in [&rough, &naive] {
            assert_close(&found.get("context"), &exact.get("context"), 0.01);
            assert_close(&found.get("dqkv"), &exact.get("dqkv"), 0.02);
        }
        assert_close(&rough.get("lse"), &definition(shape, &exact.get("qkv")).1, 1e-5);
    }
}

#[test]
fn every_product_is_the_gradient_of_another() {
    // Each forward product is linear in either operand: its gradients are the other four.
    let shape = shape(2, 5, 2, 3, Dtype::F32);
    let mut random = Random::new(43);
    let scores_len = shape.scores().iter().product();
    let base = tensors::<f64>(shape, 44);
    let (qkv, dcontext) = (base.get("qkv"), base.get("dcontext"));
    let (p, ds) = (random.normals(scores_len), random.normals(scores_len));
    let base = base.with("p", Dtype::F32, &p).with("ds", Dtype::F32, &ds);

    // context = P·V by P and by V.
    let context = |p: &[f64], qkv: &[f64]| {
        let mut tensors = Tensors::<f64>::new().with("p", Dtype::F32, p).with("qkv", Dtype::F32, qkv);
        dot(&tensors.run(&product(shape, ProductKind::Context)).get("context"), &dcontext)
    };
    let mut found = base.clone();
    found.run(&product(shape, ProductKind::ProbabilityGradient)).run(&product(shape, ProductKind::ValueGradient));
    assert_gradient(&p, &found.get("dp"), |p| context(p, &qkv));
    assert_gradient(&qkv, &found.get("dqkv"), |qkv| context(&p, qkv));

    // scores = Q·Kᵀ by Q and K; the value part, written first, is left alone.
    let scores = |qkv: &[f64]| {
        let mut tensors = Tensors::<f64>::new().with("qkv", Dtype::F32, qkv);
        dot(&tensors.run(&product(shape, ProductKind::Scores)).get("scores"), &ds)
    };
    let values = found.get("dqkv");
    found.run(&product(shape, ProductKind::QueryGradient)).run(&product(shape, ProductKind::KeyGradient));
    let both = found.get("dqkv");
    let by_scores: Vec<f64> = both.iter().zip(&values).map(|(both, values)| both - values).collect();
    assert_gradient(&qkv, &by_scores, scores);
}

#[test]
fn the_softmax_backward_is_the_gradient_and_keeps_the_mask() {
    let shape = shape(1, 6, 2, 4, Dtype::F32);
    let mut random = Random::new(45);
    let len = shape.scores().iter().product();
    let (scores, dp) = (random.normals(len), random.normals(len));
    let forward = |scores: &[f64]| {
        let mut tensors = Tensors::<f64>::new().with("scores", Dtype::F32, scores);
        tensors.run(&Op::SoftmaxForward(SoftmaxForward { shape })).get("p")
    };
    let p = forward(&scores);
    let mut tensors = Tensors::<f64>::new().with("p", Dtype::F32, &p).with("dp", Dtype::F32, &dp);
    let ds = tensors.run(&Op::SoftmaxBackward(SoftmaxBackward { shape })).get("ds");
    assert_gradient(&scores, &ds, |scores| dot(&forward(scores), &dp));
    for (row, (p, ds)) in p.chunks(6).zip(ds.chunks(6)).enumerate() {
        let seen = row % 6 + 1;
        assert_close(&[p.iter().sum(), ds.iter().sum()], &[1.0, 0.0], 1e-14);
        assert!(p[seen..].iter().chain(&ds[seen..]).all(|value| *value == 0.0));
    }
}

#[test]
fn the_whole_backward_is_the_gradient() {
    let shape = shape(2, 4, 2, 3, Dtype::F32);
    let mut naive = tensors::<f64>(shape, 46);
    let (qkv, dcontext) = (naive.get("qkv"), naive.get("dcontext"));
    let mut flash = naive.clone();
    naive_forward(&mut naive, shape);
    naive_backward(&mut naive, shape);
    flash.run(&flash_forward(shape)).run(&flash_backward(shape));
    for found in [naive, flash] {
        assert_gradient(&qkv, &found.get("dqkv"), |qkv| dot(&definition(shape, qkv).0, &dcontext));
    }
}

#[test]
fn large_scores_do_not_overflow() {
    // Scores of up to some 10⁵ and rising with the key: without the running maximum every tile would overflow fp32.
    for seq in [3, 65, 130] {
        let shape = shape(1, seq, 1, 4, Dtype::F32);
        let mut random = Random::new(47);
        let mut qkv = random.normals(seq * 12);
        for (position, row) in qkv.chunks_mut(12).enumerate() {
            row[..4].fill(300.0);
            row[4..8].fill(f64::from(u32::try_from(position).unwrap()));
        }
        let mut tensors = Tensors::<f32>::new().with("qkv", Dtype::F32, &qkv);
        tensors.put("dcontext", Dtype::F32, &random.normals(seq * 4));
        let (context, lse) = definition(shape, &tensors.get("qkv"));
        naive_forward(&mut tensors, shape);
        assert_close(&tensors.get("context"), &context, 1e-6);
        naive_backward(&mut tensors, shape);
        let naive = tensors.get("dqkv");
        assert!(naive.iter().all(|value| value.is_finite()));
        tensors.run(&flash_forward(shape)).run(&flash_backward(shape));
        assert_close(&tensors.get("context"), &context, 1e-6);
        assert_close(&tensors.get("lse"), &lse, 1e-6);
        // dS cancels to a few ulps of dP, and then meets keys of up to 130.
        assert_close(&tensors.get("dqkv"), &naive, 1e-4);
    }
}

#[test]
fn the_future_has_no_influence() {
    let shape = shape(1, 130, 1, 8, Dtype::Bf16);
    let mut before = tensors::<f32>(shape, 48);
    let mut after = before.clone();
    let mut qkv = before.get("qkv");
    qkv[100 * 24..].fill(50.0);
    after.put("qkv", shape.dtype, &qkv);
    for tensors in [&mut before, &mut after] {
        tensors.run(&flash_forward(shape));
    }
    let (before, after) = (before.get("context"), after.get("context"));
    assert_eq!(before[..100 * 8], after[..100 * 8]);
    assert_ne!(before[100 * 8..], after[100 * 8..]);
}

#[test]
fn nothing_depends_on_the_threads() {
    let shape = shape(2, 70, 3, 8, Dtype::Bf16);
    let run = |threads: usize| {
        let mut tensors = tensors::<f32>(shape, 49);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            naive_forward(&mut tensors, shape);
            naive_backward(&mut tensors, shape);
            let naive = (tensors.get("context"), tensors.get("dqkv"));
            tensors.run(&flash_forward(shape)).run(&flash_backward(shape));
            (naive, tensors.get("context"), tensors.get("dqkv"))
        })
    };
    assert_eq!(run(1), run(4));
}

#[test]
fn a_broken_query_breaks_its_own_row() {
    let shape = shape(1, 66, 1, 4, Dtype::Bf16);
    let mut tensors = tensors::<f32>(shape, 50);
    let mut qkv = tensors.get("qkv");
    qkv[65 * 12] = f64::NAN;
    tensors.put("qkv", shape.dtype, &qkv);
    naive_forward(&mut tensors, shape);
    let naive = tensors.get("context");
    let flash = tensors.run(&flash_forward(shape)).get("context");
    for context in [naive, flash] {
        assert!(context[..65 * 4].iter().all(|value| value.is_finite()));
        assert!(context[65 * 4..].iter().all(|value| value.is_nan()));
    }
}

#[test]
fn flops_of_the_tiled_form_count_what_the_mask_leaves() {
    let shape = shape(2, 128, 4, 64, Dtype::Bf16);
    let pairs = 2.0 * 4.0 * 128.0 * 128.0;
    assert_eq!(Product { shape, kind: ProductKind::Scores }.flops(), 2.0 * 64.0 * pairs);
    assert_eq!(FlashForward { shape, kernel: Kernel::Flash }.flops(), 2.0 * 2.0 * 64.0 * pairs / 2.0);
    assert_eq!(
        FlashBackward { shape, kernel: Kernel::Flash, order: Order::Any }.flops(),
        5.0 * 2.0 * 64.0 * pairs / 2.0
    );
    let full = Shape { mask: Mask::Full, ..shape };
    assert_eq!(FlashForward { shape: full, kernel: Kernel::Flash }.flops(), 2.0 * 2.0 * 64.0 * pairs);
}
