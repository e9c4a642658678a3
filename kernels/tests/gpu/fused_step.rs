//! The loss, the gradient norm and the optimiser as one launch each against their parts, bit for bit: shapes that are and are
//! not whole packs, rows, tiles and chunks, numbers that are none, and what follows the weights. And their rates.

use std::collections::HashMap;

use stepwatch_kernels::fused::{Fused, Local, Pattern};
use stepwatch_kernels::gpu::{Gpu, Slice, launch};
use stepwatch_kernels::op::{Access, Op, Param};
use stepwatch_kernels::precision::Granularity;
use stepwatch_kernels::quantise::{Amax, Axis, Quantise, Record, Scale, Tiling};
use stepwatch_kernels::tensor::Buffer;
use stepwatch_kernels::timer::Event;
use stepwatch_kernels::{Dtype, adamw, cross_entropy, embedding, gradient, residual, transpose};

use crate::compare::{Near, Random};
use crate::fused::{check_fused, fuse};
use crate::open;

/// Parts with the names of their operands.
type Named = Vec<(Op, Vec<String>)>;

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

fn fused(pattern: Pattern, parts: &Named, hidden: &[String], unread: &[&str]) -> Fused {
    let borrowed: Vec<(Op, Vec<&str>)> =
        parts.iter().map(|(op, names)| (op.clone(), names.iter().map(String::as_str).collect())).collect();
    let parts: Vec<(Op, &[&str])> = borrowed.iter().map(|(op, names)| (op.clone(), names.as_slice())).collect();
    fuse(pattern, &parts, &hidden.iter().map(String::as_str).collect::<Vec<_>>(), unread)
}

/// The operand that a part names first, as an index.
fn operand(fused: &Fused, part: usize, index: usize) -> usize {
    match fused.parts[part].operands[index] {
        Local::External(index) => index,
        Local::Hidden(_) => panic!("a temporary"),
    }
}

fn loss(rows: usize, vocab: usize, padded: usize, dtype: Dtype, lse: &[&str]) -> Fused {
    let forward = Op::CrossEntropyForward(cross_entropy::Forward { rows, vocab, padded, dtype });
    let backward = Op::CrossEntropyBackward(cross_entropy::Backward { rows, vocab, padded, dtype });
    let parts =
        vec![(forward, names(&["logits", "targets", "loss", "lse"])), (backward, names(&["targets", "lse", "logits"]))];
    fused(Pattern::Loss, &parts, &names(lse), &[])
}

#[test]
#[ignore = "needs a GPU"]
fn fused_loss_is_its_parts() {
    let gpu = open();
    for dtype in [Dtype::Bf16, Dtype::F32] {
        // Fewer and more rows than blocks, so that blocks take several.
        for (rows, vocab, padded) in
            [(1, 10, 16), (5, 19, 32), (700, 1000, 1008), (700, 1000, 1000), (601, 4097, 4160), (270, 50257, 50304)]
        {
            for hidden in [&["lse"] as &[&str], &[]] {
                let fused = loss(rows, vocab, padded, dtype, hidden);
                check_fused(&gpu, &fused, Near::Exact, vocab, &HashMap::new());
            }
        }
    }
}

#[test]
#[ignore = "needs a GPU"]
fn fused_loss_of_broken_and_extreme_logits() {
    let gpu = open();
    let (rows, vocab, padded) = (300, 1000, 1008);
    for dtype in [Dtype::Bf16, Dtype::F32] {
        let mut random = Random::new(5);
        let mut logits: Vec<f32> = (0..rows * padded).map(|_| 3.0 * random.normal()).collect();
        for (row, col, value) in [
            (1, 17, f32::NAN),
            (2, 999, f32::INFINITY),
            (3, 0, f32::NEG_INFINITY),
            (4, 500, 3e38),
            (5, 500, -3e38),
            // Padding says nothing, whatever it holds.
            (6, 1001, f32::NAN),
            (299, 1007, f32::INFINITY),
        ] {
            logits[row * padded + col] = value;
        }
        logits[7 * padded..8 * padded].fill(f32::NEG_INFINITY);
        logits[8 * padded..9 * padded].fill(-1e4);
        let fused = loss(rows, vocab, padded, dtype, &["lse"]);
        let given = HashMap::from([(operand(&fused, 0, 0), logits)]);
        check_fused(&gpu, &fused, Near::Exact, vocab, &given);
    }
}

/// The loss and the cast of its gradient: with a scale that is given in E5M2, nothing else stored; or with its rows' own, powers
/// of two or not, in E4M3, beside the gradient.
fn loss_cast(rows: usize, vocab: usize, padded: usize, own: Option<bool>) -> Fused {
    let dtype = Dtype::Bf16;
    let forward = Op::CrossEntropyForward(cross_entropy::Forward { rows, vocab, padded, dtype });
    let backward = Op::CrossEntropyBackward(cross_entropy::Backward { rows, vocab, padded, dtype });
    let mut parts =
        vec![(forward, names(&["logits", "targets", "loss", "lse"])), (backward, names(&["targets", "lse", "logits"]))];
    let granularity = if own.is_some() { Granularity::Row } else { Granularity::Tensor };
    let format = if own.is_some() { Dtype::E4m3 } else { Dtype::E5m2 };
    let tiling = Tiling { rows, cols: padded, granularity, axis: Axis::Rows };
    if let Some(power_of_two) = own {
        parts.push((Op::Amax(Amax { tiling, dtype }), names(&["logits", "amax"])));
        let scale = Scale { shape: vec![rows], format, power_of_two };
        parts.push((Op::Scale(scale), names(&["amax", "scale"])));
    }
    let cast = Quantise { tiling, dtype, format, row_major: true, transposed: false };
    parts.push((Op::Quantise(cast), names(&["logits", "scale", "q"])));
    let unread: &[&str] = if own.is_some() { &[] } else { &["logits"] };
    fused(Pattern::Loss, &parts, &names(&["lse", "amax"]), unread)
}

/// The given scale of a gradient of logits: 1/T over the largest E5M2.
fn bound(rows: usize) -> f32 {
    (rows as f32).recip() / 57344.0
}

#[test]
#[ignore = "needs a GPU"]
fn fused_loss_with_casts_is_its_parts() {
    let gpu = open();
    for (rows, vocab, padded) in
        [(16, 10, 16), (32, 19, 32), (704, 1000, 1008), (704, 1000, 1000), (608, 4097, 4160), (272, 50257, 50304)]
    {
        let fused = loss_cast(rows, vocab, padded, None);
        let scale = operand(&fused, 2, 1);
        check_fused(&gpu, &fused, Near::Exact, vocab, &HashMap::from([(scale, vec![bound(rows)])]));
        for power_of_two in [true, false] {
            let fused = loss_cast(rows, vocab, padded, Some(power_of_two));
            check_fused(&gpu, &fused, Near::Exact, vocab, &HashMap::new());
        }
    }
}

#[test]
#[ignore = "needs a GPU"]
fn fused_loss_casts_broken_and_extreme_logits_as_its_parts() {
    let gpu = open();
    let (rows, vocab, padded) = (304, 1000, 1008);
    let mut random = Random::new(6);
    let mut logits: Vec<f32> = (0..rows * padded).map(|_| 3.0 * random.normal()).collect();
    for (row, col, value) in
        [(1, 17, f32::NAN), (2, 999, f32::INFINITY), (3, 0, f32::NEG_INFINITY), (4, 500, 3e38), (6, 1001, f32::NAN)]
    {
        logits[row * padded + col] = value;
    }
    logits[8 * padded..9 * padded].fill(-1e4);
    for own in [None, Some(true), Some(false)] {
        let fused = loss_cast(rows, vocab, padded, own);
        let mut given = HashMap::from([(operand(&fused, 0, 0), logits.clone())]);
        if own.is_none() {
            given.insert(operand(&fused, 2, 1), vec![bound(rows)]);
        }
        check_fused(&gpu, &fused, Near::Exact, vocab, &given);
    }
}

fn norm(shapes: &[Vec<usize>], dtype: Dtype, max_norm: f64, hidden: bool) -> Fused {
    let mut parts: Named = Vec::new();
    let mut of_all = Vec::new();
    for (index, shape) in shapes.iter().enumerate() {
        let op = Op::SumSquares(gradient::SumSquares { shape: shape.clone(), dtype });
        parts.push((op, names(&[&format!("g{index}"), &format!("sum{index}")])));
        of_all.push(format!("sum{index}"));
    }
    let hidden = if hidden { of_all.clone() } else { Vec::new() };
    of_all.extend(names(&["norm", "scale"]));
    parts.push((Op::ClipScale(gradient::ClipScale { count: shapes.len(), max_norm }), of_all));
    fused(Pattern::GradientNorm, &parts, &hidden, &[])
}

#[test]
#[ignore = "needs a GPU"]
fn fused_gradient_norm_is_its_parts() {
    let gpu = open();
    let shapes = [vec![7], vec![896], vec![1024, 1024], vec![16_384], vec![16_385], vec![37, 53], vec![3072, 1024]];
    for dtype in [Dtype::Bf16, Dtype::F32] {
        for max_norm in [1.0, 0.0, 1e9] {
            check_fused(&gpu, &norm(&shapes, dtype, max_norm, true), Near::Exact, 2, &HashMap::new());
        }
        check_fused(&gpu, &norm(&shapes, dtype, 1.0, false), Near::Exact, 2, &HashMap::new());
        check_fused(&gpu, &norm(&vec![vec![33]; 300], dtype, 1.0, true), Near::Exact, 2, &HashMap::new());
        for broken in [f32::NAN, f32::INFINITY] {
            let fused = norm(&shapes, dtype, 1.0, true);
            let mut values = vec![0.5; 37 * 53];
            values[1960] = broken;
            let given = HashMap::from([(operand(&fused, 5, 0), values)]);
            check_fused(&gpu, &fused, Near::Exact, 2, &given);
        }
    }
}

/// What follows a weight.
#[derive(Clone, Copy, PartialEq)]
enum Then {
    Nothing,
    Amax,
    /// Amax, record, and the cast with a scale that is there: row-major, transposed.
    Delayed(bool, bool),
    /// One scale a row, made here.
    Rows,
}

/// Updates of parameters p0, p1, …, the counter, and what follows each.
fn optimiser(weights: &[(Vec<usize>, Then)], gradient: Dtype, state: Dtype, copy: Option<Dtype>) -> Fused {
    optimiser_behind((Vec::new(), Vec::new()), weights, gradient, state, copy)
}

/// The same behind the norm of the gradients, which clips nothing.
fn optimiser_with_norm(weights: &[(Vec<usize>, Then)], gradient: Dtype, state: Dtype, copy: Option<Dtype>) -> Fused {
    let own = |name: &str| (0..weights.len()).map(|index| format!("{name}{index}")).collect::<Vec<_>>();
    let of = |((shape, _), names): (&(Vec<usize>, Then), Vec<String>)| {
        (Op::SumSquares(gradient::SumSquares { shape: shape.clone(), dtype: gradient }), names)
    };
    let operands = own("g").into_iter().zip(own("sum")).map(|(g, sum)| vec![g, sum]);
    let mut parts: Named = weights.iter().zip(operands).map(of).collect();
    let results = own("sum").into_iter().chain(names(&["norm", "clip"])).collect();
    parts.push((Op::ClipScale(gradient::ClipScale { count: weights.len(), max_norm: 0.0 }), results));
    let hidden = own("sum").into_iter().chain(names(&["clip"])).collect();
    optimiser_behind((parts, hidden), weights, gradient, state, copy)
}

fn optimiser_behind(
    (mut parts, mut hidden): (Named, Vec<String>),
    weights: &[(Vec<usize>, Then)],
    gradient: Dtype,
    state: Dtype,
    copy: Option<Dtype>,
) -> Fused {
    for (index, (shape, _)) in weights.iter().enumerate() {
        let (learning_rate, warmup) = (3e-3, 10);
        let weight_decay = if shape.len() > 1 { 0.1 } else { 0.0 };
        let shape = shape.clone();
        let op = adamw::AdamW { shape, gradient, state, copy, learning_rate, warmup, weight_decay };
        let own = |name: &str| format!("{name}{index}");
        let mut operands = vec![own("g"), "clip".to_owned(), "step".to_owned(), own("w"), own("m"), own("v")];
        operands.extend(copy.map(|_| own("copy")));
        parts.push((Op::AdamW(op), operands));
    }
    parts.push((Op::Advance(adamw::Advance {}), names(&["step"])));
    let (dtype, format) = (copy.unwrap_or(state), Dtype::E4m3);
    for (index, (shape, then)) in weights.iter().enumerate() {
        let own = |name: &str| format!("{name}{index}");
        let x = own(if copy.is_some() { "copy" } else { "w" });
        let granularity = if *then == Then::Rows { Granularity::Row } else { Granularity::Tensor };
        let tiling = |rows, cols| Tiling { rows, cols, granularity, axis: Axis::Rows };
        let (&[rows, cols], false) = (shape.as_slice(), *then == Then::Nothing) else { continue };
        parts.push((Op::Amax(Amax { tiling: tiling(rows, cols), dtype }), vec![x.clone(), own("amax")]));
        let quantise = |row_major, transposed| {
            Op::Quantise(Quantise { tiling: tiling(rows, cols), dtype, format, row_major, transposed })
        };
        match *then {
            Then::Nothing | Then::Amax => {}
            Then::Delayed(row_major, transposed) => {
                hidden.push(own("amax"));
                let mut operands = vec![x, own("scale")];
                operands.extend(row_major.then(|| own("q")));
                operands.extend(transposed.then(|| own("qt")));
                parts.push((quantise(row_major, transposed), operands));
                parts.push((Op::Record(Record {}), vec![own("amax"), "step".to_owned(), own("history")]));
            }
            Then::Rows => {
                hidden.push(own("amax"));
                let scale = Scale { shape: vec![rows], format, power_of_two: true };
                parts.push((Op::Scale(scale), vec![own("amax"), own("scale")]));
                parts.push((quantise(true, false), vec![x, own("scale"), own("q")]));
            }
        }
    }
    fused(Pattern::Optimiser, &parts, &hidden, &[])
}

#[test]
#[ignore = "needs a GPU"]
fn fused_updates_are_their_parts() {
    let gpu = open();
    let shapes = [vec![7], vec![896], vec![1024, 1024], vec![3072, 1024], vec![37, 53], vec![8192], vec![8193]];
    let weights: Vec<(Vec<usize>, Then)> = shapes.iter().map(|shape| (shape.clone(), Then::Nothing)).collect();
    for (gradient, state, copy) in [
        (Dtype::Bf16, Dtype::F32, Some(Dtype::Bf16)),
        (Dtype::F32, Dtype::F32, None),
        (Dtype::Bf16, Dtype::Bf16, None),
        (Dtype::F32, Dtype::Bf16, None),
        (Dtype::Bf16, Dtype::F32, Some(Dtype::F32)),
        (Dtype::F32, Dtype::F32, Some(Dtype::Bf16)),
    ] {
        let fused = optimiser(&weights, gradient, state, copy);
        check_fused(&gpu, &fused, Near::Exact, 2, &HashMap::new());
        // A gradient that is no number breaks its own weight and no other.
        let mut values = vec![0.25; 37 * 53];
        (values[5], values[1960]) = (f32::NAN, f32::INFINITY);
        let given = HashMap::from([(operand(&fused, 4, 0), values)]);
        check_fused(&gpu, &fused, Near::Exact, 2, &given);
    }
}

#[test]
#[ignore = "needs a GPU"]
fn fused_updates_with_casts_are_their_parts() {
    let gpu = open();
    let both = Then::Delayed(true, true);
    let weights = [
        (vec![7], Then::Nothing),
        (vec![1024, 1024], both),
        (vec![144, 80], both),
        (vec![16, 16], both),
        (vec![896], Then::Nothing),
        (vec![272, 4096], Then::Delayed(true, false)),
        (vec![3072, 1024], Then::Delayed(false, true)),
        // No whole tiles: the amax is taken with the update, the cast runs alone.
        (vec![37, 53], both),
        (vec![37, 53], Then::Amax),
        (vec![512, 256], Then::Amax),
        (vec![256, 512], Then::Rows),
        (vec![3072, 1024], Then::Rows),
        (vec![19, 896], Then::Rows),
        (vec![3, 8192], Then::Rows),
        (vec![40, 24], Then::Rows),
        // Rows that are no whole packs, and rows that no chunk holds, run alone.
        (vec![37, 53], Then::Rows),
        (vec![5, 8200], Then::Rows),
        (vec![8193], Then::Nothing),
    ];
    for (gradient, state, copy) in
        [(Dtype::Bf16, Dtype::F32, Some(Dtype::Bf16)), (Dtype::Bf16, Dtype::Bf16, None), (Dtype::F32, Dtype::F32, None)]
    {
        let fused = optimiser(&weights, gradient, state, copy);
        check_fused(&gpu, &fused, Near::Exact, 2, &HashMap::new());
        let mut values = vec![0.25; 144 * 80];
        (values[5], values[1960]) = (f32::NAN, f32::INFINITY);
        let given = HashMap::from([(operand(&fused, 2, 0), values)]);
        check_fused(&gpu, &fused, Near::Exact, 2, &given);
    }
}

#[test]
#[ignore = "needs a GPU"]
fn fused_updates_with_the_norm_are_their_parts() {
    let gpu = open();
    let both = Then::Delayed(true, true);
    let plain = [vec![7], vec![896], vec![1024, 1024], vec![37, 53], vec![8192], vec![8193]];
    let plain = plain.map(|shape: Vec<usize>| (shape, Then::Nothing));
    let cast = [
        (vec![7], Then::Nothing),
        (vec![1024, 1024], both),
        (vec![37, 53], both),
        (vec![512, 256], Then::Amax),
        (vec![256, 512], Then::Rows),
        (vec![19, 896], Then::Rows),
        (vec![8193], Then::Nothing),
    ];
    for (gradient, state, copy) in
        [(Dtype::Bf16, Dtype::F32, Some(Dtype::Bf16)), (Dtype::Bf16, Dtype::Bf16, None), (Dtype::F32, Dtype::F32, None)]
    {
        for weights in [plain.as_slice(), cast.as_slice()] {
            let fused = optimiser_with_norm(weights, gradient, state, copy);
            assert!(fused.variants().iter().any(|variant| variant.name == "adamw_norm"));
            check_fused(&gpu, &fused, Near::Exact, 2, &HashMap::new());
            // A gradient that is no number breaks the norm and its own weight.
            let mut values = vec![0.25; 1024 * 1024];
            values[1960] = f32::INFINITY;
            let large = weights.iter().position(|(shape, _)| *shape == [1024, 1024]).unwrap();
            let given = HashMap::from([(operand(&fused, large, 0), values)]);
            check_fused(&gpu, &fused, Near::Exact, 2, &given);
        }
    }
}

/// Parameters of a 454M model; what follows its matrices, the embedding excepted.
fn parameters(then: Then) -> Vec<(Vec<usize>, Then)> {
    let mut all = vec![(vec![50_304, 1024], Then::Nothing)];
    for _ in 0..24 {
        let matrix = |rows, cols| (vec![rows, cols], then);
        let vector = || (vec![1024], Then::Nothing);
        all.extend([
            vector(),
            matrix(3072, 1024),
            matrix(1024, 1024),
            vector(),
            matrix(8192, 1024),
            matrix(1024, 4096),
        ]);
    }
    all.push((vec![1024], Then::Nothing));
    all
}

/// Microseconds and GB/s of a 454M step's loss, gradient norm and optimiser, beside a launch that only adds.
#[test]
#[ignore = "needs a GPU"]
fn rates_of_the_fused_step() {
    const REPEATS: usize = 10;
    let gpu = open();
    let (rows, bf16) = (32_768, Dtype::Bf16);
    let shapes: Vec<Vec<usize>> = parameters(Then::Nothing).into_iter().map(|(shape, _)| shape).collect();
    let update = |then| Op::Fused(optimiser(&parameters(then), bf16, Dtype::F32, Some(bf16)));
    let cases = [
        ("add", Op::Add(residual::Add { rows: 8 * rows, dim: 1024, dtype: bf16 })),
        (
            "embedding backward",
            Op::EmbeddingBackward(embedding::Backward { tokens: rows, vocab: 50_304, dim: 1024, dtype: bf16 }),
        ),
        ("loss", Op::Fused(loss(rows, 50_257, 50_304, bf16, &["lse"]))),
        ("loss, cast, scale given", Op::Fused(loss_cast(rows, 50_257, 50_304, None))),
        ("loss, cast by rows", Op::Fused(loss_cast(rows, 50_257, 50_304, Some(true)))),
        ("transposition of the cast", Op::Transpose(transpose::Transpose { rows, cols: 50_304, dtype: Dtype::E5m2 })),
        ("gradient norm", Op::Fused(norm(&shapes, bf16, 1.0, true))),
        ("updates", update(Then::Nothing)),
        ("updates, amax", update(Then::Amax)),
        ("updates, delayed casts", update(Then::Delayed(true, true))),
        ("updates, casts by rows", update(Then::Rows)),
        ("updates, bf16 states", Op::Fused(optimiser(&parameters(Then::Nothing), bf16, bf16, None))),
        ("updates, amax, bf16 states", Op::Fused(optimiser(&parameters(Then::Amax), bf16, bf16, None))),
        ("updates, bf16 states, norm", Op::Fused(optimiser_with_norm(&parameters(Then::Nothing), bf16, bf16, None))),
        ("updates, delayed casts, bf16 states", {
            Op::Fused(optimiser(&parameters(Then::Delayed(true, true)), bf16, bf16, None))
        }),
        ("the same, norm", {
            Op::Fused(optimiser_with_norm(&parameters(Then::Delayed(true, true)), bf16, bf16, None))
        }),
    ];
    println!("{:<26} {:>9} {:>8} {:>9}", "op", "µs", "GB/s", "launches");
    for (name, op) in cases {
        measure(&gpu, name, &op, REPEATS);
    }
}

/// A million numbers of each kind, over and over: a step's parameters would take longer to draw than to update.
fn stretch(param: &Param) -> Vec<f32> {
    let mut random = Random::new(1);
    // No multiple of a row, so that rows differ.
    let one = |_| match (param.dtype, param.name.as_ref()) {
        // Zipf's law, as tokens have it.
        (Dtype::I32, "targets" | "ids") => (50257.0_f32.powf(random.uniform()) - 1.0).floor(),
        (Dtype::I32, _) => 3.0,
        (_, "v" | "scale" | "history") => random.uniform(),
        _ => random.normal(),
    };
    (0..1_000_016).map(one).collect()
}

fn measure(gpu: &Gpu, name: &str, op: &Op, repeats: usize) {
    let mut stretches: HashMap<(Dtype, String), (Vec<f32>, Buffer<f32>)> = HashMap::new();
    let params = op.signature();
    let slices: Vec<Slice> = params.iter().map(|param| gpu.allocate(param.bytes()).unwrap()).collect();
    for (param, slice) in params.iter().zip(&slices).filter(|(param, _)| param.access != Access::Write) {
        let kind = (param.dtype, param.name.to_string());
        let (values, rounded) = stretches.entry(kind).or_insert_with(|| {
            let values = stretch(param);
            let rounded = Buffer::rounded(param.dtype, &values);
            (values, rounded)
        });
        let size = param.dtype.bytes();
        for offset in (0..slice.bytes()).step_by(size * values.len()) {
            if let Some(part) = slice.slice(offset, size * values.len()) {
                gpu.upload_tensor(&part, rounded.view()).unwrap();
            } else {
                let part = slice.slice(offset, slice.bytes() - offset).unwrap();
                let rest = Buffer::<f32>::rounded(param.dtype, &values[..part.bytes() / size]);
                gpu.upload_tensor(&part, rest.view()).unwrap();
            }
        }
    }
    let scratch = gpu.allocate(launch::scratch_bytes(op)).unwrap();
    let prepared = launch::prepare(gpu, op, &slices, &scratch).unwrap();
    for _ in 0..2 {
        gpu.enqueue(&prepared).unwrap();
    }
    let (start, end) = (Event::new(gpu).unwrap(), Event::new(gpu).unwrap());
    start.record(gpu).unwrap();
    for _ in 0..repeats {
        gpu.enqueue(&prepared).unwrap();
    }
    end.record(gpu).unwrap();
    end.wait().unwrap();
    let ns = end.since(&start).unwrap() / repeats as f64;
    println!("{name:<26} {:>9.1} {:>8.0} {:>9}", ns / 1e3, op.bytes() / ns, prepared.launches());
}
